"""The rim: a gRPC server that starts, says how it feels, and stops.

Invariant: health says NOT_SERVING before the server stops taking calls, so that balancers leave first; plain text is
spoken on loopback only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc.aio
from grpc_health.v1 import health
from prometheus_client import CollectorRegistry

from server.authentication import Authenticator
from server.house import House
from server.interceptor import Rim
from server.metrics import RpcMetrics
from server.registry import SERVICES, Handler, add_services
from server.standard import add_standard_services
from server.tls import Tls, credentials

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
CALLS_MAX: Final = 1000


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        return is_loopback(self.host)

    @property
    def address(self) -> str:
        """Host and port as gRPC takes them: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class GrpcServer:
    """A running server. `port` is the one it listens on; `methods` are its guarded methods by their full names."""

    def __init__(
        self,
        server: grpc.aio.Server,
        state: health.aio.HealthServicer,
        methods: Mapping[str, Handler],
        port: int,
        grace_s: float,
    ) -> None:
        self._server, self._health, self._grace_s = server, state, grace_s
        self.methods, self.port = methods, port

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
        methods = {
            name: rim.guarded(name, handler)
            for name, handler in add_services(server, house).items()
        }
        state = await add_standard_services(server, SERVICES, with_channelz=settings.on_loopback)
        await server.start()
    except BaseException:
        await server.stop(None)
        raise
    return GrpcServer(server, state, methods, port, settings.stop_grace_s)


def _listen(server: grpc.aio.Server, settings: ServerSettings) -> int:
    try:
        if settings.tls is None:
            return server.add_insecure_port(settings.address)
        return server.add_secure_port(settings.address, credentials(settings.tls))
    except RuntimeError as error:
        raise PortTaken(f"{settings.address}: {PortTaken.__doc__}") from error
