"""Usage path, step 3: rate the subscriptions that folds marked as due, many in one transaction.

Invariant: a subscription's charges, its rated usage and what is told of them are committed together, or its failure
alone; one that fails changes nothing for the others. The marks that were seen are deleted and no others, and the
buckets are read after the marks: so usage that is folded meanwhile is rated the next time.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.rating
from queries.models import UsagePeriod
from queries.rating import ClaimSubscriptionsToRateRow, ListDueMarksRow, ListRunningChargesRow

from billing.domain.errors import BillingError
from billing.domain.money import Money, total_of
from billing.domain.usage import UsagePeriodStatus
from billing.runtime.db import Connection
from billing.services.charges import charge
from billing.services.period_rating import RatedPeriod, rate_periods
from billing.services.quantities import Source
from billing.services.quantity_reads import PeriodKey, key_of
from billing.services.rating_outcome import Failed, Rated, Turn, write_failed, write_rated

log = logging.getLogger(__name__)

# Bounds of one subscription's turn, so that its event stays well below the envelope's limit; the rest is due next time.
PERIODS_PER_TURN_MAX: Final = 1000
MARKS_PER_BATCH_MAX: Final = 50_000
_NOBODY: Final = UUID(int=0)

Position = tuple[UUID, UUID]  # tenant, subscription
START: Final[Position] = (_NOBODY, _NOBODY)


@dataclass(frozen=True, slots=True)
class RatingSettings:
    """How often a subscription is rated at most, how many are rated in one transaction, how many are looked at."""

    interval_s: float = 1.0
    batch_max: int = 200
    walk_max: int = 1000


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the charges of a batch are computed from."""

    periods: Mapping[Position, Sequence[UsagePeriod]]
    rated: Mapping[PeriodKey, RatedPeriod | BillingError]
    running: Mapping[Position, Sequence[ListRunningChargesRow]]


async def rate_due(
    tx: Connection, after: Position, settings: RatingSettings, *, now: datetime
) -> tuple[int, Position]:
    """Rates the next subscriptions whose turn has come, in order behind `after`.

    Answers how many were rated or failed, and where to go on; START when the end was reached. `now` is machine time.
    """
    walked = await queries.rating.walk_due_subscriptions(
        tx,
        after_tenant_id=after[0],
        after_subscription_id=after[1],
        walk_max=settings.walk_max,
    )
    claimed = await queries.rating.claim_subscriptions_to_rate(
        tx,
        tenant_ids=[row.tenant_id for row in walked],
        ids=[row.subscription_id for row in walked],
        now=now,
        rated_until=now - timedelta(seconds=settings.interval_s),
        batch_max=settings.batch_max,
    )
    if claimed:
        await _rate(tx, claimed, now)
    if len(claimed) == settings.batch_max:
        return len(claimed), (claimed[-1].tenant_id, claimed[-1].id)
    if len(walked) == settings.walk_max:
        return len(claimed), (walked[-1].tenant_id, walked[-1].subscription_id)
    return len(claimed), START


async def rate_now(
    tx: Connection, tenant_id: UUID, subscription_id: UUID, *, now: datetime
) -> Failed | None:
    """Rates what is due of one subscription, whose turn it is and which the caller holds; answers why it cannot be."""
    claimed = await queries.rating.claim_subscriptions_to_rate(
        tx, tenant_ids=[tenant_id], ids=[subscription_id], now=now, rated_until=now, batch_max=1
    )
    return next(iter(await _rate(tx, claimed, now)), None)


async def _rate(
    tx: Connection, claimed: Sequence[ClaimSubscriptionsToRateRow], now: datetime
) -> list[Failed]:
    """Rates them as far as they can be; answers the failures."""
    marks = await queries.rating.list_due_marks(
        tx,
        tenant_ids=[row.tenant_id for row in claimed],
        subscription_ids=[row.id for row in claimed],
        marks_max=MARKS_PER_BATCH_MAX,
    )
    turns = list(_turns(claimed, marks))
    facts = await _read(tx, turns)
    outcomes = [_outcome(turn, facts) for turn in turns]
    failed = [one for one in outcomes if isinstance(one, Failed)]
    await write_rated(tx, [one for one in outcomes if isinstance(one, Rated)], now)
    await write_failed(tx, failed, now)
    return failed


def _turns(
    claimed: Sequence[ClaimSubscriptionsToRateRow], marks: Sequence[ListDueMarksRow]
) -> Iterator[Turn]:
    """Each subscription with the marks of its turn: those of its first periods, oldest marks first."""
    marks_of: dict[Position, list[ListDueMarksRow]] = defaultdict(list)
    for mark in marks:
        marks_of[mark.tenant_id, mark.subscription_id].append(mark)
    for row in claimed:
        own = marks_of.get((row.tenant_id, row.id), [])
        periods = list(dict.fromkeys((mark.item_id, mark.period_start) for mark in own))
        chosen = set(periods[:PERIODS_PER_TURN_MAX])
        seen = [mark for mark in own if (mark.item_id, mark.period_start) in chosen]
        if seen:
            yield Turn(row, seen)


async def _read(tx: Connection, turns: Sequence[Turn]) -> _Facts:
    keys = list(
        dict.fromkeys(
            PeriodKey(mark.tenant_id, mark.item_id, mark.period_start)
            for turn in turns
            for mark in turn.marks
        )
    )
    periods = await queries.rating.list_periods_to_rate(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    # A billed period has its marks dropped: its finalization read the records themselves.
    unbilled = [row for row in periods if row.status != UsagePeriodStatus.BILLED]
    running = await queries.rating.list_running_charges(
        tx,
        tenant_ids=[turn.row.tenant_id for turn in turns],
        subscription_ids=[turn.row.id for turn in turns],
    )
    by_subscription: dict[Position, list[UsagePeriod]] = defaultdict(list)
    for row in unbilled:
        by_subscription[row.tenant_id, row.subscription_id].append(row)
    running_of: dict[Position, list[ListRunningChargesRow]] = defaultdict(list)
    for kept in running:
        running_of[kept.tenant_id, kept.subscription_id].append(kept)
    return _Facts(
        by_subscription,
        await rate_periods(tx, unbilled, Source.BUCKETS),
        running_of,
    )


def _outcome(turn: Turn, facts: _Facts) -> Rated | Failed:
    try:
        return _rated(turn, facts)
    except BillingError as error:
        return Failed(turn, error.reason, error.message)
    except Exception:
        # A fault of ours in one subscription's numbers must not stop everybody's rating.
        log.exception("rating subscription %s of tenant %s failed", turn.row.id, turn.row.tenant_id)
        return Failed(turn, "INTERNAL", "An internal fault; the log of the rating worker has it.")


def _rated(turn: Turn, facts: _Facts) -> Rated:
    position = (turn.row.tenant_id, turn.row.id)
    charges = []
    for row in facts.periods.get(position, ()):
        rated = facts.rated[key_of(row)]
        if isinstance(rated, BillingError):
            raise rated
        charges.append(charge(rated, turn.row.currency))
    amounts = {
        PeriodKey(row.tenant_id, row.item_id, row.period_start): Money(
            row.amount, turn.row.currency
        )
        for row in facts.running.get(position, ())
    }
    amounts |= {one.key: one.amount for one in charges}
    return Rated(turn, charges, total_of(amounts.values(), turn.row.currency))
