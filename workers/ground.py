"""Every worker of the backbone: what all of them stand on.

Invariant: made once by the composition root and handed in; a worker opens nothing of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.runtime.bus.base import Bus
from billing.runtime.clock import Clock
from billing.runtime.db import Database


@dataclass(frozen=True, slots=True)
class Ground:
    """The workers' pool (row-level security does not bind it), the bus, and machine time."""

    database: Database
    bus: Bus
    clock: Clock
