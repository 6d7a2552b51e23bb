"""The composition root: settings become pools, a bus, a server and workers.

Invariant: what is opened here is closed here, in the opposite order; nothing else in the house makes these things.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import asyncpg
from prometheus_client import CollectorRegistry

from billing.runtime.bus.base import Bus, BusSettings
from billing.runtime.bus.connect import connect_bus
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import Database, DatabaseSettings, Role, connect, read_clock
from billing.runtime.settings import Settings
from billing.runtime.vault import Vault
from billing.services import migrations
from billing.services.tenant_limits import TenantLimits
from server.admission import AdmissionSettings
from server.app import ConnectionLimits, GrpcServer, ServerSettings, is_loopback, start_grpc
from server.deadlines import Deadlines
from server.gateway.cors import Cors
from server.gateway.gateway import Gateway
from server.gateway.routes import routes_of
from server.house import House
from server.http import Check, HttpApi, HttpServer, start_http
from server.registry import SERVICES
from server.tls import Tls, http_context

log = logging.getLogger(__name__)

CLOCK_PERIOD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process of the house works with."""

    settings: Settings
    api: Database
    worker: Database
    bus: Bus
    clock: DatabaseClock
    vault: Vault
    registry: CollectorRegistry

    @property
    def house(self) -> House:
        """What the servicers get."""
        allowed, hints = self.settings.allowed_networks, self.bus.subscribe_hints
        limits = TenantLimits(
            requests_per_second=self.settings.tenant_requests_per_second,
            records_per_second=self.settings.tenant_records_per_second,
            streams=self.settings.tenant_streams_max,
            records_per_day=self.settings.tenant_records_per_day,
            records_per_month=self.settings.tenant_records_per_month,
        )
        return House(
            self.api, self.worker, self.clock, self.vault, allowed, hints, self.bus, limits
        )


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Connects to the database and the bus. Raises what says which of them cannot be used, and why."""
    settings.require("database_url", "bus_url", "secret_key")
    vault = Vault.parse(settings.secret_key)
    bus = await connect_bus(settings.bus_url, BusSettings())
    try:
        database = DatabaseSettings(connections_max=settings.database_connections_max)
        api = await connect(settings.database_url, Role.API, database, bus.hint)
        worker = await connect(settings.database_url, Role.WORKER, database, bus.hint)
        try:
            clock = DatabaseClock()
            await read_clock(worker, clock)
            yield Parts(settings, api, worker, bus, clock, vault, CollectorRegistry())
        finally:
            await api.close()
            await worker.close()
    finally:
        await bus.close()


@dataclass(frozen=True, slots=True)
class Servers:
    """The listening ends of a process."""

    grpc: GrpcServer
    http: HttpServer


@asynccontextmanager
async def serving(parts: Parts) -> AsyncIterator[Servers]:
    """Serves gRPC and HTTP inside the block."""
    grpc_settings = _server_settings(parts.settings)
    grpc = await start_grpc(parts.house, grpc_settings, parts.registry)
    try:
        async with http_only(parts, _http_api(parts.settings, grpc_settings.tls, grpc)) as http:
            yield Servers(grpc, http)
    finally:
        await grpc.stop()


@asynccontextmanager
async def http_only(parts: Parts, api: HttpApi | None = None) -> AsyncIterator[HttpServer]:
    """Answers /healthz, /readyz and /metrics inside the block, all that a process of workers shows; and the API."""
    settings = parts.settings
    http = await start_http(
        settings.http_host,
        settings.http_port,
        parts.registry,
        _checks(parts),
        api,
        share_port=settings.share_port,
    )
    try:
        yield http
    finally:
        await http.stop()


@asynccontextmanager
async def figures(parts: Parts, port: int) -> AsyncIterator[HttpServer]:
    """Answers /healthz, /readyz and /metrics of this very process, which shares its other ports, inside the block."""
    http = await start_http(parts.settings.http_host, port, parts.registry, _checks(parts))
    try:
        yield http
    finally:
        await http.stop()


async def keep_clock(parts: Parts, stop: asyncio.Event) -> None:
    """Reads the database's clock every minute until the stop."""
    while not await stopped_within(stop, CLOCK_PERIOD_S):
        try:
            await read_clock(parts.worker, parts.clock)
        except Exception as error:  # the database is away; the clock goes on by itself
            log.warning("the database's clock could not be read: %s", error)


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Waits for the stop, at most so long; tells whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def stop_when_input_closes(stop: asyncio.Event) -> None:
    """Sets the event when standard input closes: our parent wants us to leave, or is gone."""
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()

    def on_input() -> None:
        if not os.read(number, 1024):
            loop.remove_reader(number)
            stop.set()

    loop.add_reader(number, on_input)


def set_up_process(settings: Settings) -> None:
    """Logs one line per record on standard error, and tunes the garbage collector."""
    logging.basicConfig(
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    tune_garbage_collector()


def tune_garbage_collector() -> None:
    """Has it look less often: batches make hundreds of thousands of objects that die by themselves.

    The default looks at them after every 700, which takes a fifth of a dispatcher's time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def _server_settings(settings: Settings) -> ServerSettings:
    base = ServerSettings(
        host=settings.grpc_host,
        port=settings.grpc_port,
        share_port=settings.share_port,
        connection=ConnectionLimits(
            streams_max=settings.connection_streams_max,
            age_max_s=settings.connection_age_max_s,
            age_grace_s=settings.connection_age_grace_s,
        ),
        deadlines=Deadlines(settings.call_seconds_max, settings.stream_seconds_max),
        admission=AdmissionSettings(
            calls_max=settings.calls_max,
            bytes_max=settings.call_mb_max * 1024 * 1024,
            streams_max=settings.streams_max,
        ),
        stop_grace_s=settings.stop_grace_s,
    )
    if not settings.tls_cert_file:
        return base
    client_ca = (
        Path(settings.tls_client_ca_file).read_bytes() if settings.tls_client_ca_file else None
    )
    certificate, key = (
        Path(settings.tls_cert_file).read_bytes(),
        Path(settings.tls_key_file).read_bytes(),
    )
    return replace(base, tls=Tls(certificate, key, client_ca))


def _http_api(settings: Settings, tls: Tls | None, grpc: GrpcServer) -> HttpApi | None:
    """The API over HTTP, where a key is safe: over TLS, or on loopback."""
    if tls is None and not is_loopback(settings.http_host):
        log.warning(
            "The HTTP API is not served on %s without TLS; only /healthz, /readyz and /metrics are.",
            settings.http_host,
        )
        return None
    gateway = Gateway(grpc.methods, tuple(routes_of(SERVICES)), grpc.limits.deadlines)
    context = (
        http_context(settings.tls_cert_file, settings.tls_key_file, tls.client_ca) if tls else None
    )
    return HttpApi(gateway, Cors(settings.cors_origins), context)


def _checks(parts: Parts) -> Mapping[str, Check]:
    async def database() -> str:
        async with parts.api.connection() as connection:
            await connection.fetchval("VALUES (1)")
        return ""

    async def bus() -> str:
        return "" if parts.bus.connected else "not connected"

    async def schema() -> str:
        connection = await asyncpg.connect(parts.settings.database_url)
        try:
            lacking = await migrations.pending(connection)
        finally:
            await connection.close()
        return f"lacks {lacking[0].name}; run `tollway migrate`" if lacking else ""

    return {"database": database, "bus": bus, "schema": schema}
