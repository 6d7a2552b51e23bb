"""The demo's proof: what each airline owes, computed from the raw file with exact fractions and nothing of the house.

Invariant: this module imports none of ours; it would be wrong in its own way.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

ZONE: Final = ZoneInfo("America/New_York")
MISSING: Final = "NA"  # how the file says that a flight had no minutes in the air
MONTHLY_FEE_CENTS: Final = 4900
# Up to so many minutes, so many dollars for each; the last has no bound.
TIERS: Final[tuple[tuple[int | None, str], ...]] = (
    (10_000, "0.0125"),
    (100_000, "0.0095"),
    (None, "0.0071"),
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the file says: rows of the month, rows without minutes, and minutes per airline."""

    rows: int
    without_minutes: int
    minutes: Mapping[str, Fraction]

    @property
    def records(self) -> int:
        """How many rows are usage."""
        return self.rows - self.without_minutes

    def usage_cents(self, airline: str) -> int:
        """The airline's graduated charge, rounded once, half away from zero."""
        left, lower, exact = self.minutes.get(airline, Fraction(0)), Fraction(0), Fraction(0)
        for bound, price in TIERS:
            inside = left if bound is None else min(left, bound - lower)
            exact += inside * Fraction(price)
            left -= inside
            lower = lower if bound is None else Fraction(bound)
        return int(exact * 100 + Fraction(1, 2))


def expected(flights: Path, year: int, month: int) -> Expected:
    """Reads the raw file: which rows are of the month in New York, and what they sum to."""
    rows = without = 0
    minutes: dict[str, Fraction] = {}
    with flights.open(newline="") as file:
        for row in csv.DictReader(file):
            local = datetime.fromisoformat(row["time_hour"]).astimezone(ZONE)
            if (local.year, local.month) != (year, month):
                continue
            rows += 1
            if row["air_time"] != MISSING:
                minutes[row["carrier"]] = minutes.get(row["carrier"], Fraction(0)) + Fraction(
                    row["air_time"]
                )
            else:
                without += 1
    return Expected(rows, without, minutes)
