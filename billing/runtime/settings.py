"""Every path's ground: the environment, read once at the start and frozen.

Invariant: a value that is wrong stops the process before it does anything, and the message names the variable, what it
was, and what it must be. Nothing else in the house reads the environment.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PREFIX: Final = "TOLLWAY_"
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what it must be."""


def _number(default: float, least: float, most: float) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is the variable TOLLWAY_<NAME IN CAPITALS>; units are in the names.

    database_url: the owner's login to PostgreSQL 17 or newer; sessions take the roles tollway_api and tollway_worker.
    bus_url: nats://, tls://, kafka:// or noop://, see billing/runtime/bus/connect.py.
    secret_key: 32 bytes as base64; encrypts webhook secrets and stored answers. All processes need the same.
    http_cors_origins: origins such as https://console.example.com, with commas, whose pages may call the HTTP API.
    calls_max, call_mb_max, streams_max: what one server process has in hand at once; docs/limits.md tells all limits.
    tenant_…: what a tenant may do for which an operator has set nothing else; a quota of 0 is none.
    webhook_allow_networks: networks in CIDR notation, with commas, that webhooks may reach beside the public internet.
    """

    database_url: str = ""
    bus_url: str = ""
    secret_key: str = field(default="", repr=False)
    grpc_host: str = "127.0.0.1"
    grpc_port: int = _number(7070, 0, 65535)
    http_host: str = "127.0.0.1"
    http_port: int = _number(7071, 0, 65535)
    http_cors_origins: str = ""
    share_port: bool = False
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    database_connections_max: int = _number(10, 2, 1000)
    calls_max: int = _number(1000, 1, 100_000)
    call_mb_max: int = _number(64, 4, 65_536)
    streams_max: int = _number(500, 1, 100_000)
    tenant_requests_per_second: int = _number(10_000, 1, 10_000_000)
    tenant_records_per_second: int = _number(100_000, 1, 100_000_000)
    tenant_streams_max: int = _number(100, 1, 100_000)
    tenant_records_per_day: int = _number(0, 0, 2**62)
    tenant_records_per_month: int = _number(0, 0, 2**62)
    call_seconds_max: float = _number(60.0, 1.0, 3600.0)
    stream_seconds_max: float = _number(3600.0, 1.0, 7 * 86400.0)
    connection_streams_max: int = _number(256, 1, 100_000)
    connection_age_max_s: int = _number(3600, 1, 30 * 86400)
    connection_age_grace_s: int = _number(300, 1, 86400)
    stop_grace_s: float = _number(10.0, 0.0, 300.0)
    rating_interval_s: float = _number(1.0, 0.0, 3600.0)
    log_retention_days: int = _number(90, 36, 3650)
    inbox_retention_days: int = _number(35, 7, 3650)
    bus_retention_hours: int = _number(24, 1, 720)
    invoice_grace_s: int = _number(3600, 0, 30 * 86400)
    webhook_allow_networks: str = ""
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        """Raises SettingsError for a value outside its limits."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            least, most = item.metadata.get("least"), item.metadata.get("most")
            if least is not None and not least <= value <= most:
                raise _wrong(item.name, f"from {least:g} to {most:g}", value)
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise _wrong("log_level", "DEBUG, INFO, WARNING or ERROR", self.log_level)
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise SettingsError(
                "TOLLWAY_TLS_CERT_FILE and TOLLWAY_TLS_KEY_FILE must be set together."
            )
        _ = self.allowed_networks, self.cors_origins

    @property
    def allowed_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks that webhooks may reach beside the public internet."""
        names = [name.strip() for name in self.webhook_allow_networks.split(",") if name.strip()]
        try:
            return tuple(ipaddress.ip_network(name) for name in names)
        except ValueError as error:
            wanted = "networks such as 10.1.0.0/16, with commas"
            raise _wrong("webhook_allow_networks", wanted, self.webhook_allow_networks) from error

    @property
    def cors_origins(self) -> frozenset[str]:
        """The origins whose pages may call the HTTP API; none by default."""
        names = [name.strip() for name in self.http_cors_origins.split(",") if name.strip()]
        if not all(_ORIGIN.fullmatch(name) for name in names):
            wanted = "origins such as https://console.example.com, with commas"
            raise _wrong("http_cors_origins", wanted, self.http_cors_origins)
        return frozenset(names)

    def require(self, *names: str) -> None:
        """Raises SettingsError for the first of these settings that is empty."""
        for name in names:
            if not getattr(self, name):
                raise SettingsError(
                    f"{PREFIX}{name.upper()} must be set; `tollway up` sets it by itself."
                )


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings from an environment. Raises SettingsError."""
    fields = {item.name: item for item in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name in fields:
            values[name] = _parse(name, str(fields[name].type), text)
    return Settings(**values)


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        match kind:
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            case _:
                return text
    except (ValueError, KeyError) as error:
        wanted = {"int": "an integer", "float": "a number", "bool": "true or false"}[kind]
        raise _wrong(name, wanted, text) from error


def _wrong(name: str, wanted: str, value: object) -> SettingsError:
    return SettingsError(f"{PREFIX}{name.upper()} must be {wanted}, not {value!r}.")
