"""Every path's ground: what may be chosen about the embedded PostgreSQL and NATS.

Invariant: the defaults are durable; giving durability up takes a visible `durable=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How a server comes to run as an ordinary user; `identity.choose` picks the first that works."""

    DIRECT = "direct"  # we are an ordinary user already
    CAPABILITY = "capability"  # root -> nobody, who may still read below a 0700 parent
    NAMESPACE = "namespace"  # root, seen as nobody inside a user namespace
    PLAIN = "plain"  # root -> nobody, where every parent folder is open to others


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """Settings of both servers. A port of None means: a free one, chosen once and kept in the folder.

    Raises ValueError, naming the field, for a value outside its limits.
    """

    durable: bool = True  # False (tests): a power cut may lose or spoil everything
    postgres_port: int | None = None
    nats_port: int | None = None
    nats_monitor_port: int | None = None
    shared_buffers_mb: int = 256
    connections_max: int = 100
    wal_mb_max: int = 2048  # also bounds the time of crash recovery
    # Streams reserve their max_bytes here when they are made; the disk is used only as it fills.
    nats_store_mb_max: int = 65_536
    start_timeout_s: float = 300.0  # crash recovery counts; a server that exits is noticed at once
    stop_grace_s: float = 30.0  # then the server is killed, and recovers at the next start
    run_as: Way | None = None  # None: the best way that works here
    # The kernel stops the servers when we are killed (Linux); without it the next start takes over.
    die_with_owner: bool = True

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}.")
        ports = [p for p in (self.postgres_port, self.nats_port, self.nats_monitor_port) if p]
        if len(set(ports)) < len(ports):
            raise ValueError(
                f"postgres_port, nats_port and nats_monitor_port must differ: {ports}."
            )


_LIMITS = (
    ("postgres_port", 1, 65_535),
    ("nats_port", 1, 65_535),
    ("nats_monitor_port", 1, 65_535),
    ("shared_buffers_mb", 16, 65_536),
    ("connections_max", 10, 5_000),
    ("wal_mb_max", 64, 1_048_576),
    ("nats_store_mb_max", 64, 16_777_216),
    ("start_timeout_s", 1, 3_600),
    ("stop_grace_s", 0.1, 600),
)
