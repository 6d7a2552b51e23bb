"""Usage import: what to read and how its columns become records.

Invariant: options that could not import a single row are refused before the file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from billing.domain import period

# What a record is made of, each from a column (--map) or the same for all rows (--set).
FIELDS: Final = (
    "idempotency_key",
    "meter",
    "customer",
    "customer_id",
    "timestamp",
    "quantity",
    "subscription",
)
JOINT: Final = "+"
ISO: Final = "iso"
UNIX: Final = "unix"
UNIX_MS: Final = "unix_ms"


class ImportFailed(click.ClickException):
    """The import cannot begin or go on; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`columns`: field -> column, or columns joined by `+`; `constants`: field -> value; `where`: column -> its text.

    `customer` is the tenant's own id. `timestamp_format` is iso, unix, unix_ms or as in strptime; instants without an
    offset are in `time_zone`. Rows that are not recorded go to `rejects`, if given; what is recorded comes under the
    job that `backfill` names, if it does. Raises ImportFailed.
    """

    file: Path
    columns: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    timestamp_format: str = ISO
    time_zone: str = "UTC"
    allow_backfill: bool = False
    backfill: str = ""
    rejects: Path | None = None

    def __post_init__(self) -> None:
        given = {*self.columns, *self.constants}
        if unknown := given - set(FIELDS):
            raise ImportFailed(f"{min(unknown)!r} is no field; there are {', '.join(FIELDS)}.")
        if twice := set(self.columns) & set(self.constants):
            raise ImportFailed(f"{min(twice)!r} is given by --map and by --set; choose one.")
        for name in ("idempotency_key", "meter", "timestamp"):
            if name not in given:
                raise ImportFailed(f"Say what the {name} is: --map {name}=COLUMN.")
        if len(given & {"customer", "customer_id"}) != 1:
            raise ImportFailed("Say whose usage it is: --map customer=COLUMN, or customer_id.")
        if "idempotency_key" in self.constants:
            raise ImportFailed("Each row needs a key of its own: --map idempotency_key=COLUMN.")
        period.time_zone(self.time_zone)

    def named_columns(self) -> set[str]:
        """Every column that the options name."""
        joined = [one for spec in self.columns.values() for one in spec.split(JOINT)]
        return {*joined, *self.properties.values(), *self.where}
