"""Usage path, beside it: one record with its revisions, for those who look.

Invariant: what is shown as counting is what counts: of a record's revisions the highest folded one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import queries.usage_revisions
from queries.usage_revisions import ListUsageRevisionsRow

from billing.domain.errors import NotFound
from billing.domain.usage import UsagePeriodStatus
from billing.runtime.db import Connection


class UsageRecordNotFound(NotFound):
    """There is no usage record with this key."""

    reason = "USAGE_RECORD_NOT_FOUND"


class UsageState(StrEnum):
    """Where a record or revision stands; the names are those of the proto's UsageState."""

    PENDING = "PENDING"
    ASSIGNED = "ASSIGNED"
    BILLED = "BILLED"
    UNASSIGNED = "UNASSIGNED"
    VOIDED = "VOIDED"
    SUPERSEDED = "SUPERSEDED"


@dataclass(frozen=True, slots=True)
class RecordHistory:
    """A record and its revisions, oldest first; never empty."""

    revisions: Sequence[ListUsageRevisionsRow]

    @property
    def latest(self) -> ListUsageRevisionsRow:
        """The last one made, folded or not."""
        return self.revisions[-1]

    @property
    def effective(self) -> ListUsageRevisionsRow:
        """The one that counts; the latest while none does."""
        folded = [row for row in self.revisions if row.folded]
        return folded[-1] if folded else self.latest

    def state(self, row: ListUsageRevisionsRow) -> UsageState:
        """Where one of them stands."""
        if not row.folded:
            return UsageState.PENDING
        if row is not self.effective:
            return UsageState.SUPERSEDED
        return state_of(
            voided=row.voided, assigned=row.item_id is not None, status=row.period_status
        )


def state_of(*, voided: bool, assigned: bool, status: str | None) -> UsageState:
    """Where a folded record stands that no later revision has taken the place of."""
    if voided:
        return UsageState.VOIDED
    if not assigned:
        return UsageState.UNASSIGNED
    return UsageState.BILLED if status == UsagePeriodStatus.BILLED else UsageState.ASSIGNED


async def get_history(tx: Connection, tenant_id: UUID, key: str) -> RecordHistory:
    """The record of this key with its revisions. Raises UsageRecordNotFound."""
    rows = await queries.usage_revisions.list_usage_revisions(tx, tenant_id=tenant_id, root_key=key)
    if not rows:
        raise UsageRecordNotFound(metadata={"idempotency_key": key[:64]})
    return RecordHistory(rows)
