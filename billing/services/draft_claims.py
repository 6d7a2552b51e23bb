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
from typing import TypedDict
from uuid import UUID

import queries.finalization
from queries.finalization import ClaimDueDraftsOnTestClocksRow, ClaimDueDraftsRow

from billing.runtime.db import Connection


class Blocked(StrEnum):
    """Why a draft whose time has come is not final yet."""

    USAGE_PENDING = "USAGE_PENDING"
    RATING_FAILED = "RATING_FAILED"
    INVOICE_EMPTY = "INVOICE_EMPTY"


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
            case Blocked.RATING_FAILED | Blocked.INVOICE_EMPTY:
                return now + timedelta(seconds=self.rating_retry_s)
            case None:
                return now + timedelta(seconds=self.taken_retry_s)


@dataclass(frozen=True, slots=True)
class OnTestClocks:
    """Only tenants with a test clock, or only one of them."""

    tenant_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A draft to be made final: what it bills, and for which subscription; a manual one has none."""

    tenant_id: UUID
    id: UUID
    subscription_id: UUID | None
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
        await queries.finalization.flag_closing(tx, closing_until=until, **billed_by(claimed))
    claimed += await _manual(tx, scope, settings, now)
    later = settings.retry_at(Blocked.USAGE_PENDING, now)
    held: list[tuple[UUID, UUID, Blocked | None, datetime]]
    held = [(draft.tenant_id, draft.id, None, until) for draft in claimed]
    held += [
        (row.tenant_id, row.id, Blocked.USAGE_PENDING, later) for row in rows if row.usage_pending
    ]
    if held:
        await queries.finalization.hold_drafts(
            tx,
            tenant_ids=[tenant for tenant, _, _, _ in held],
            ids=[identity for _, identity, _, _ in held],
            blocked_reasons=[reason for _, _, reason, _ in held],
            retry_ats=[at for _, _, _, at in held],
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
    await queries.finalization.unflag_closing(tx, **billed_by(drafts))
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


async def _manual(
    tx: Connection, scope: OnTestClocks | None, settings: FinalizationSettings, now: datetime
) -> list[Claimed]:
    rows = await queries.finalization.claim_due_manual_drafts(
        tx,
        now=now,
        on_test_clocks=scope is not None,
        tenant_id=scope.tenant_id if scope else None,
        batch_max=settings.batch_max,
    )
    return [Claimed(row.tenant_id, row.id, None, row.kind, row.boundary) for row in rows]


class Bills(TypedDict):
    """What drafts of subscriptions bill, as the statements take it."""

    tenant_ids: list[UUID]
    subscription_ids: list[UUID]
    kinds: list[str]
    boundaries: list[datetime]


def billed_by(drafts: Sequence[Claimed]) -> Bills:
    """The subscriptions' drafts among these; manual ones bill no usage."""
    of_subscriptions = [draft for draft in drafts if draft.subscription_id]
    return Bills(
        tenant_ids=[draft.tenant_id for draft in of_subscriptions],
        subscription_ids=[
            draft.subscription_id for draft in of_subscriptions if draft.subscription_id
        ],
        kinds=[draft.kind for draft in of_subscriptions],
        boundaries=[draft.boundary for draft in of_subscriptions],
    )


def _claimed(row: ClaimDueDraftsRow | ClaimDueDraftsOnTestClocksRow) -> Claimed:
    return Claimed(row.tenant_id, row.id, row.subscription_id, row.kind, row.boundary)
