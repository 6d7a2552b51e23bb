"""Invoice path, step 4: which drafts become final now.

Invariant: a claim is a transaction of its own, before the locks: it says on the drafts that nobody else need look at
them for a while, and on their usage periods that folds keep off. Both run out by themselves, so a finalizer that dies
holds back nobody for long; correctness rests on neither of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import queries.finalization
from queries.finalization import ClaimDueDraftsOnTestClocksRow, ClaimDueDraftsRow

from billing.runtime.db import Connection


class Blocked(StrEnum):
    """Why a draft whose time has come is not final yet."""

    USAGE_PENDING = "USAGE_PENDING"
    RATING_FAILED = "RATING_FAILED"


@dataclass(frozen=True, slots=True)
class FinalizationSettings:
    """How many drafts a transaction takes, how long a claim lasts, and when a blocked draft is looked at again."""

    batch_max: int = 200
    claim_s: float = 10.0
    usage_retry_s: float = 0.25
    rating_retry_s: float = 60.0
    taken_retry_s: float = 0.02

    def retry_at(self, reason: Blocked | None, now: datetime) -> datetime:
        """When a draft is looked at again (machine time) that is blocked, or whose subscription somebody holds."""
        match reason:
            case Blocked.USAGE_PENDING:
                return now + timedelta(seconds=self.usage_retry_s)
            case Blocked.RATING_FAILED:
                return now + timedelta(seconds=self.rating_retry_s)
            case None:
                return now + timedelta(seconds=self.taken_retry_s)


@dataclass(frozen=True, slots=True)
class OnTestClocks:
    """Only tenants with a test clock, or only one of them."""

    tenant_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A draft to be made final: what it bills, and for which subscription."""

    tenant_id: UUID
    id: UUID
    subscription_id: UUID
    kind: str
    boundary: datetime


async def claim_due(
    tx: Connection, scope: OnTestClocks | None, settings: FinalizationSettings, now: datetime
) -> list[Claimed]:
    """Due drafts, oldest first; without a scope, those of tenants that live in machine time.

    Those whose usage is still on its way are marked as blocked instead. Their periods are left to the folds.
    """
    rows = await _list_due(tx, scope, settings, now)
    claimed = [_claimed(row) for row in rows if not row.usage_pending]
    until = now + timedelta(seconds=settings.claim_s)
    if claimed:
        await queries.finalization.flag_closing(
            tx,
            closing_until=until,
            tenant_ids=[draft.tenant_id for draft in claimed],
            subscription_ids=[draft.subscription_id for draft in claimed],
            kinds=[draft.kind for draft in claimed],
            boundaries=[draft.boundary for draft in claimed],
        )
    if rows:
        later = settings.retry_at(Blocked.USAGE_PENDING, now)
        await queries.finalization.hold_drafts(
            tx,
            tenant_ids=[row.tenant_id for row in rows],
            ids=[row.id for row in rows],
            blocked_reasons=[Blocked.USAGE_PENDING if row.usage_pending else None for row in rows],
            retry_ats=[later if row.usage_pending else until for row in rows],
        )
    return claimed


async def let_go(
    tx: Connection,
    drafts: Sequence[Claimed],
    blocked: Mapping[UUID, Blocked],
    settings: FinalizationSettings,
    now: datetime,
) -> None:
    """Claimed drafts that do not become final now wait for a while, blocked ones with the reason shown.

    `blocked` goes by invoice id. Folds may go on.
    """
    if not drafts:
        return
    await queries.finalization.unflag_closing(
        tx,
        tenant_ids=[draft.tenant_id for draft in drafts],
        subscription_ids=[draft.subscription_id for draft in drafts],
        kinds=[draft.kind for draft in drafts],
        boundaries=[draft.boundary for draft in drafts],
    )
    reasons = [blocked.get(draft.id) for draft in drafts]
    await queries.finalization.hold_drafts(
        tx,
        tenant_ids=[draft.tenant_id for draft in drafts],
        ids=[draft.id for draft in drafts],
        blocked_reasons=reasons,
        retry_ats=[settings.retry_at(reason, now) for reason in reasons],
    )


async def _list_due(
    tx: Connection, scope: OnTestClocks | None, settings: FinalizationSettings, now: datetime
) -> Sequence[ClaimDueDraftsRow | ClaimDueDraftsOnTestClocksRow]:
    if scope is None:
        return await queries.finalization.claim_due_drafts(
            tx, now=now, batch_max=settings.batch_max
        )
    return await queries.finalization.claim_due_drafts_on_test_clocks(
        tx, tenant_id=scope.tenant_id, now=now, batch_max=settings.batch_max
    )


def _claimed(row: ClaimDueDraftsRow | ClaimDueDraftsOnTestClocksRow) -> Claimed:
    return Claimed(row.tenant_id, row.id, row.subscription_id, row.kind, row.boundary)
