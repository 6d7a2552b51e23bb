"""Usage path, step 1: a batch of records as columns, and what became of each.

Invariant: a batch is a set of lists of one length, and record n is what they hold at place n. Columns, since an object
for each record would cost more than all the rest of the ingest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

BATCH_RECORDS_MAX: Final = 1000

Properties = Mapping[str, str]


class Outcome(StrEnum):
    """What became of a record; the names are those of the proto's RecordOutcome."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for a record that was not accepted. `reason` is an ErrorReason; empty for a duplicate."""

    outcome: Outcome
    reason: str = ""
    message: str = ""


DUPLICATE = Verdict(Outcome.DUPLICATE)


def rejected(reason: str, message: str) -> Verdict:
    """The answer for a record that cannot be recorded as it is."""
    return Verdict(Outcome.REJECTED, reason, message)


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """Records as they were sent. An absent text is empty; a customer has an id or an external id.

    `used_at_us` is microseconds since 1970, None where there is no valid timestamp; the last two columns are None when
    no record has such a value. Under a backfill job old timestamps are allowed.
    """

    idempotency_keys: Sequence[str]
    meter_keys: Sequence[str]
    customer_ids: Sequence[str]
    external_customer_ids: Sequence[str]
    used_at_us: Sequence[int | None]
    quantities: Sequence[str]
    subscription_ids: Sequence[str] | None = None
    properties: Sequence[Properties | None] | None = None
    allow_backfill: bool = False
    backfill_id: UUID | None = None

    def __len__(self) -> int:
        return len(self.idempotency_keys)


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What became of a batch of `size` records: `verdicts` by place for all that were not accepted."""

    size: int
    batch_id: UUID | None = None
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        """How many records have this outcome."""
        if outcome is Outcome.ACCEPTED:
            return self.size - len(self.verdicts)
        return sum(verdict.outcome is outcome for verdict in self.verdicts.values())
