"""Usage path, step 3, and invoice path, step 4: what meters count, read once per process.

Invariant: what a meter counts never changes, since usage was billed by it; so what was read once is true for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import queries.quantities

from billing.domain.meter import Aggregation
from billing.runtime.db import Connection

MeterKey = tuple[UUID, UUID]  # tenant, meter
KEPT_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class CountingRule:
    """How a meter aggregates, and the properties that it groups by."""

    aggregation: Aggregation
    group_by: tuple[str, ...]


class CountingRules:
    """The rules of the meters that this process has met, at most KEPT_MAX."""

    def __init__(self) -> None:
        self._kept: dict[MeterKey, CountingRule] = {}

    async def load(self, tx: Connection, keys: Sequence[MeterKey]) -> dict[MeterKey, CountingRule]:
        """The rules of (tenant id, meter id) pairs; of one that does not exist none."""
        wanted = set(keys)
        missing = sorted(wanted - self._kept.keys())
        if len(self._kept) + len(missing) > KEPT_MAX:
            self._kept.clear()
            missing = sorted(wanted)
        if missing:
            rows = await queries.quantities.list_counting_rules(
                tx,
                tenant_ids=[tenant for tenant, _ in missing],
                ids=[meter for _, meter in missing],
            )
            for row in rows:
                rule = CountingRule(Aggregation(row.aggregation), tuple(row.group_by))
                self._kept[row.tenant_id, row.id] = rule
        return {key: self._kept[key] for key in wanted if key in self._kept}


# One for the process: it holds nothing but immutable facts, and no connection.
load_counting_rules = CountingRules().load
