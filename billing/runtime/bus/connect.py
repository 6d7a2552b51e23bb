"""The bus's one door: TOLLWAY_BUS_URL to a connected bus.

    nats://user:password@host:4222,host2:4222?replicas=3&monitor=http://host:8222
    tls://…                  the same over TLS (tls_ca, tls_cert, tls_key name files)
    kafka://host:9092,…      the query goes to librdkafka as it stands (sasl.mechanism=…)
    noop://                  no bus

The address is parsed and checked here; whether somebody answers there is the bus's own matter.
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from billing.runtime.bus.base import Bus, BusMisconfigured, BusSettings
from billing.runtime.bus.nats import NatsBus
from billing.runtime.bus.nats_connection import NatsAddress
from billing.runtime.bus.noop import NoopBus

NATS_PORT = 4222
_NATS_OPTIONS = frozenset({"replicas", "monitor", "credentials", "tls_ca", "tls_cert", "tls_key"})


async def connect_bus(url: str, settings: BusSettings, name: str = "tollway") -> Bus:
    """The bus behind `url`, after its first try to connect.

    A bus that is down at the start is no error: `connected` is False and it is tried for ever,
    while every publish raises BusUnavailable.

    Raises:
        BusMisconfigured: the URL cannot mean a bus; the text says why.
    """
    parts = _split(url)
    match parts.scheme:
        case "noop":
            return NoopBus()
        case "nats" | "tls":
            address, settings = nats_address(parts, settings)
            bus = NatsBus(address, settings, name)
            await bus.start()
            return bus
        case "kafka":
            from billing.runtime.bus.kafka import connect_kafka  # librdkafka only where it is used

            return await connect_kafka(parts, settings, name)
        case scheme:
            raise BusMisconfigured(
                f"unknown bus {scheme!r}: use nats://, tls://, kafka:// or noop://"
            )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise BusMisconfigured(f"the bus URL cannot be read: {error}") from error


def nats_address(parts: SplitResult, settings: BusSettings) -> tuple[NatsAddress, BusSettings]:
    """Servers, identity and options of a nats:// or tls:// URL.

    Raises:
        BusMisconfigured: an option or a server that makes no sense, by name.
    """
    user_info, _, hosts = parts.netloc.rpartition("@")
    user, has_password, password = user_info.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _NATS_OPTIONS):
        raise BusMisconfigured(f"unknown bus URL options {unknown}; known: {sorted(_NATS_OPTIONS)}")
    address = NatsAddress(
        servers=tuple(server_address(host, NATS_PORT) for host in hosts.split(",")),
        user=unquote(user) or None,
        password=unquote(password) if has_password else None,
        credentials_file=options.get("credentials"),
        tls=_tls_context(parts.scheme, options),
    )
    replicas = options.get("replicas", str(settings.replicas))
    if replicas not in {"1", "3", "5"}:
        raise BusMisconfigured(f"bus URL option replicas must be 1, 3 or 5, not {replicas!r}")
    monitor = options.get("monitor", settings.monitor_url)
    return address, replace(settings, replicas=int(replicas), monitor_url=monitor)


def server_address(host: str, default_port: int) -> str:
    """`host:port` of one server, the default port filled in.

    Raises:
        BusMisconfigured: no host, or a port that is none.
    """
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port or default_port
    except ValueError as error:
        raise BusMisconfigured(f"bus URL: {host!r} has no valid port") from error
    if not parts.hostname:
        raise BusMisconfigured("bus URL: a server without a host name")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{name}:{port}"


def _tls_context(scheme: str, options: dict[str, str]) -> ssl.SSLContext | None:
    files = {name: value for name, value in options.items() if name.startswith("tls_")}
    if scheme != "tls":
        if files:
            raise BusMisconfigured(f"bus URL options {sorted(files)} need the scheme tls://")
        return None
    try:
        context = ssl.create_default_context(cafile=files.get("tls_ca"))
        if "tls_cert" in files:
            context.load_cert_chain(files["tls_cert"], files.get("tls_key"))
    except (OSError, ssl.SSLError) as error:
        raise BusMisconfigured(f"bus URL: TLS files cannot be loaded: {error}") from error
    return context
