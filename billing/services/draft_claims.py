"""Invoice path, step 4: which drafts become final now.

Invariant: a claim is a transaction of its own, before the locks: it says on the drafts that nobody else need look at them
for a while, and on their usage periods that folds keep off. Both run out by themselves, so a finalizer that dies holds
back nobody for long; correctness rests on neither of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import queries.finalization

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


@dataclass(frozen=True, slots=True)
class Claimed:
    """A draft to be made final: its key and its subscription."""

    tenant_id: UUID
    id: UUID
    subscription_id: UUID
    kind: str
    boundary: datetime


@dataclass(frozen=True, slots=True)
class OnTestClocks:
    """Only tenants with a test clock, or one of them."""

    tenant_id: UUID | None = None


async def claim_due(
    tx: Connection, scope: OnTestClocks | None, settings: FinalizationSettings, now: datetime
) -> list[Claimed]:
    """Due drafts, oldest first. Those whose usage is still on its way are marked as blocked instead."""
    if scope is None:
        live = await queries.finalization.claim_due_drafts(
            tx, now=now, batch_max=settings.batch_max
        )
        rows = [(Claimed(r.tenant_id, r.id, r.subscription_id, r.kind, r.boundary), r.usage_pending) for r in live]
    else:
        clocked = await queries.finalization.claim_due_drafts_on_test_clocks(
            tx, tenant_id=scope.tenant_id, now=now, batch_max=settings.batch_max
        )
        rows = [(Claimed(r.tenant_id, r.id, r.subscription_id, r.kind, r.boundary), r.usage_pending) for r in clocked]
    claimed = [draft for draft, pending in rows if not pending]
    # Lock order: usage periods before invoices.
    if claimed:
        until = now + timedelta(seconds=settings.claim_s)
        await queries.finalization.flag_closing(tx, closing_until=until, **_keys(claimed))
        await _hold(tx, claimed, None, until)
    await block(tx, [draft for draft, pending in rows if pending], Blocked.USAGE_PENDING, settings, now)
    return claimed


async def block(
    tx: Connection,
    drafts: Sequence[Claimed],
    reason: Blocked,
    settings: FinalizationSettings,
    now: datetime,
) -> None:
    """The drafts wait, for a while, with the reason shown; folds may go on."""
    retry_s = {
        Blocked.USAGE_PENDING: settings.usage_retry_s,
        Blocked.RATING_FAILED: settings.rating_retry_s,
    }
    await _let_go(tx, drafts, reason, now + timedelta(seconds=retry_s[reason]))


async def release(tx: Connection, drafts: Sequence[Claimed], now: datetime) -> None:
    """The drafts are free for the next claim."""
    await _let_go(tx, drafts, None, now)


async def _let_go(
    tx: Connection, drafts: Sequence[Claimed], reason: Blocked | None, retry_at: datetime
) -> None:
    if drafts:
        await queries.finalization.unflag_closing(tx, **_keys(drafts))
        await _hold(tx, drafts, reason, retry_at)


async def _hold(
    tx: Connection, drafts: Sequence[Claimed], reason: Blocked | None, retry_at: datetime
) -> None:
    await queries.finalization.hold_drafts(
        tx,
        tenant_ids=[draft.tenant_id for draft in drafts],
        ids=[draft.id for draft in drafts],
        blocked_reasons=[reason for _ in drafts],
        retry_at=retry_at,
    )
