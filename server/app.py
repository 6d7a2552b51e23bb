"""The rim: a gRPC server that starts, says how it feels, and stops.

Invariant: health says NOT_SERVING before the server stops taking calls, so that balancers leave first; plain text is
spoken on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc.aio
from grpc_health.v1 import health
from prometheus_client import CollectorRegistry

from server.admission import MESSAGE_BYTES_MAX, Admission, AdmissionSettings
from server.allowance import FLUSH_EVERY_S, Allowances
from server.authentication import Authenticator
from server.deadlines import Deadlines
from server.house import House
from server.interceptor import Rim, RimLimits
from server.metrics import Refusals, RpcMetrics
from server.registry import SERVICES, Handler, add_services
from server.standard import add_standard_services
from server.tls import Tls, credentials

log = logging.getLogger(__name__)

METADATA_BYTES_MAX: Final = 16 * 1024
# Calls that the library has accepted and our code has not seen yet.
PENDING_CALLS_MAX: Final = 1000
# A client that takes calls back as fast as it makes them is asked for a sign of life that often.
PING_ON_RESET_PERCENT: Final = 10


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
class ConnectionLimits:
    """What one connection may have open, and how long it lasts: then its calls have the grace, and it is closed.

    A client may ask for a sign of life every `ping_min_s`; one that gives none within `keepalive_s` has left.
    """

    streams_max: int = 256
    age_max_s: int = 3600
    age_grace_s: int = 300
    ping_min_s: int = 10
    keepalive_s: int = 60

    def options(self) -> list[tuple[str, int]]:
        """As gRPC takes them."""
        return [
            ("grpc.max_concurrent_streams", self.streams_max),
            ("grpc.max_connection_age_ms", self.age_max_s * 1000),
            ("grpc.max_connection_age_grace_ms", self.age_grace_s * 1000),
            ("grpc.http2.min_ping_interval_without_data_ms", self.ping_min_s * 1000),
            ("grpc.keepalive_time_ms", self.keepalive_s * 1000),
        ]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where to listen, and the limits of connections. A port of 0 chooses a free one.

    `share_port` lets several processes listen on one port (SO_REUSEPORT).
    """

    host: str = "127.0.0.1"
    port: int = 7070
    tls: Tls | None = None
    share_port: bool = False
    connection: ConnectionLimits = field(default_factory=ConnectionLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
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
    """A running server. `port` is the one it listens on; `methods` are its guarded methods by their full names.

    Who calls them otherwise keeps to the same `limits`.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        state: health.aio.HealthServicer,
        methods: Mapping[str, Handler],
        port: int,
        rim: Rim,
        grace_s: float,
    ) -> None:
        self._server, self._health, self._grace_s = server, state, grace_s
        self.methods, self.port, self._rim, self.limits = methods, port, rim, rim.limits

    async def stop(self) -> None:
        """Says NOT_SERVING, lets running calls finish within the grace, and stops."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._grace_s)
        try:
            await self._rim.store_counts(at_once=True)
        except Exception as error:  # the database is away; the last seconds are not counted
            log.warning("what was counted of calls could not be stored: %s", error)

    async def keep_counts(self, stop: asyncio.Event) -> None:
        """Stores what was counted of calls, every few seconds until the stop."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY_S):
                    await stop.wait()
            try:
                await self._rim.store_counts()
            except Exception as error:  # the next time takes it along
                log.warning("what was counted of calls could not be stored: %s", error)


async def start_grpc(
    house: House, settings: ServerSettings, registry: CollectorRegistry
) -> GrpcServer:
    """Starts serving. Raises PlainTextRefused, TlsRefused or PortTaken."""
    if settings.tls is None and not settings.on_loopback:
        raise PlainTextRefused(f"{settings.address}: {PlainTextRefused.__doc__}")
    refusals = Refusals(registry)
    limits = RimLimits(
        Admission(settings.admission, registry, refusals),
        Allowances(house.worker, house.clock, house.limits, refusals),
        settings.deadlines,
    )
    rim = Rim(Authenticator(house.worker), house.clock, RpcMetrics(registry), limits)
    server = grpc.aio.server(
        interceptors=[rim],
        maximum_concurrent_rpcs=settings.admission.rpcs_max,
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_metadata_size", METADATA_BYTES_MAX),
            ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
            ("grpc.http2.ping_on_rst_stream_percent", PING_ON_RESET_PERCENT),
            ("grpc.so_reuseport", int(settings.share_port)),
            *settings.connection.options(),
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
    return GrpcServer(server, state, methods, port, rim, settings.stop_grace_s)


def _listen(server: grpc.aio.Server, settings: ServerSettings) -> int:
    try:
        if settings.tls is None:
            return server.add_insecure_port(settings.address)
        return server.add_secure_port(settings.address, credentials(settings.tls))
    except RuntimeError as error:
        raise PortTaken(f"{settings.address}: {PortTaken.__doc__}") from error
