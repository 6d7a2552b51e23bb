"""The rim: a gRPC server that starts, says how it feels, and stops.

Invariant: health says NOT_SERVING before the server stops taking calls, so that balancers leave first; plain text is
spoken on loopback only.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

import grpc.aio
from grpc_health.v1 import health
from prometheus_client import CollectorRegistry

from server.authentication import Authenticator
from server.house import House
from server.interceptor import Rim
from server.metrics import RpcMetrics
from server.registry import SERVICES, add_services
from server.standard import add_standard_services
from server.tls import Tls, credentials

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
CALLS_MAX: Final = 1000


class PlainTextRefused(Exception):
    """Without TLS the server listens on loopback only; set TOLLWAY_TLS_CERT_FILE and TOLLWAY_TLS_KEY_FILE."""


class PortTaken(Exception):
    """Another program listens on this port; choose another, or 0 for a free one."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where to listen, and the limits of connections. A port of 0 chooses a free one.

    `share_port` lets several processes listen on one port (SO_REUSEPORT).
    """

    host: str = "127.0.0.1"
    port: int = 7070
    tls: Tls | None = None
    share_port: bool = False
    connection_age_max_s: int = 3600
    keepalive_min_s: int = 10
    stop_grace_s: float = 10.0

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def address(self) -> str:
        """Host and port as gRPC takes them: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class GrpcServer:
    """A running server. `port` is the one it listens on."""

    def __init__(
        self, server: grpc.aio.Server, state: health.aio.HealthServicer, port: int, grace_s: float
    ) -> None:
        self._server, self._health, self.port, self._grace_s = server, state, port, grace_s

    async def stop(self) -> None:
        """Says NOT_SERVING, lets running calls finish within the grace, and stops."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._grace_s)


async def start_grpc(
    house: House, settings: ServerSettings, registry: CollectorRegistry
) -> GrpcServer:
    """Starts serving. Raises PlainTextRefused, TlsRefused or PortTaken."""
    if settings.tls is None and not settings.on_loopback:
        raise PlainTextRefused(f"{settings.address}: {PlainTextRefused.__doc__}")
    rim = Rim(Authenticator(house.worker), house.clock, RpcMetrics(registry))
    server = grpc.aio.server(
        interceptors=[rim],
        maximum_concurrent_rpcs=CALLS_MAX,
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_connection_age_ms", settings.connection_age_max_s * 1000),
            ("grpc.http2.min_ping_interval_without_data_ms", settings.keepalive_min_s * 1000),
            ("grpc.so_reuseport", int(settings.share_port)),
        ],
    )
    try:
        port = _listen(server, settings)
        add_services(server, house)
        state = await add_standard_services(server, SERVICES, with_channelz=settings.on_loopback)
        await server.start()
    except BaseException:
        await server.stop(None)
        raise
    return GrpcServer(server, state, port, settings.stop_grace_s)


def _listen(server: grpc.aio.Server, settings: ServerSettings) -> int:
    try:
        if settings.tls is None:
            return server.add_insecure_port(settings.address)
        return server.add_secure_port(settings.address, credentials(settings.tls))
    except RuntimeError as error:
        raise PortTaken(f"{settings.address}: {PortTaken.__doc__}") from error
