"""Usage path, step 3: what came of a subscription's rating is written and told.

Invariant: usage.rated and rating.completed are committed together with the charges, or rating.failed alone with the
reason on the subscription. A rating has many causes: it begins a correlation of its own and links them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.rating
from queries.rating import ClaimSubscriptionsToRateRow, ListDueMarksRow
from tollway.error.v1 import error_reason_pb2
from tollway.rating.v1 import rating_events_pb2
from tollway.type.v1 import money_pb2, time_range_pb2
from tollway.usage.v1 import usage_events_pb2

from billing.domain.backoff import ExponentialBackoff
from billing.domain.decimals import decimal_text
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.domain.usage import MACHINE, UsagePeriodAction, UsagePeriodStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause, Link
from billing.services.business_time import business_times
from billing.services.charges import Charge
from billing.services.usage_crossings import tell_crossings

ACTOR: Final = "worker:rating"
ERROR_LENGTH_MAX: Final = 500
# The cause is somebody's to mend, mostly a price; ten minutes is how long they wait at most to see it mended.
_RETRY: Final = ExponentialBackoff(base_ms=1_000, cap_ms=600_000)
_FROM_STATUSES: Final = MACHINE.sources(UsagePeriodAction.RATE)
_TO_STATUS: Final = UsagePeriodStatus.RATED


@dataclass(frozen=True, slots=True)
class Turn:
    """A claimed subscription and the marks that its turn takes away, oldest first."""

    row: ClaimSubscriptionsToRateRow
    marks: Sequence[ListDueMarksRow]

    @property
    def resource(self) -> str:
        """The subscription as events name it."""
        return encode(Prefix.SUBSCRIPTION, self.row.id)

    def cause(self, now: datetime) -> Cause:
        """A correlation of its own, linked to the first events that made the rating due."""
        links = dict.fromkeys(Link(mark.event_id, mark.correlation_id) for mark in self.marks)
        return Cause(ACTOR, new_id(now), links=tuple(links)[: events.LINKS_MAX])


@dataclass(frozen=True, slots=True)
class Rated:
    """The new charges of a subscription, and the sum of all its running ones."""

    turn: Turn
    charges: Sequence[Charge]
    total: Money


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a subscription could not be rated: an ErrorReason and the same for people."""

    turn: Turn
    reason: str
    message: str


async def write_rated(tx: Connection, outcomes: Sequence[Rated], now: datetime) -> None:
    """Charges, statuses, versions, marks and events of the rated subscriptions, all locked by the caller."""
    marks = [mark for outcome in outcomes for mark in outcome.turn.marks]
    if marks:
        await queries.rating.delete_due_marks(
            tx, tenant_ids=[mark.tenant_id for mark in marks], ids=[mark.id for mark in marks]
        )
    # Where all marked periods were billed meanwhile there is nothing to tell.
    outcomes = [outcome for outcome in outcomes if outcome.charges]
    if not outcomes:
        return
    await _write_charges(tx, [one for outcome in outcomes for one in outcome.charges], now)
    rows = await queries.rating.finish_rating(
        tx,
        tenant_ids=[outcome.turn.row.tenant_id for outcome in outcomes],
        ids=[outcome.turn.row.id for outcome in outcomes],
        now=now,
    )
    versions = {row.id: row.version for row in rows}
    tenants = {outcome.turn.row.tenant_id for outcome in outcomes}
    times = await business_times(tx, tenants, now)
    told = [event for one in outcomes for event in _rated(one, versions, times, now)]
    ids = await events.emit(tx, told, now=now)
    completed = list(zip(ids, told, strict=True))[1::2]
    await queries.rating.note_ratings(
        tx,
        tenant_ids=[outcome.turn.row.tenant_id for outcome in outcomes],
        ids=[outcome.turn.row.id for outcome in outcomes],
        event_ids=[identity for identity, _ in completed],
        correlation_ids=[event.cause.correlation_id for _, event in completed],
    )
    causes = {
        (outcome.turn.row.tenant_id, outcome.turn.row.id): replace(
            event.cause, causation_id=identity, links=()
        )
        for outcome, (identity, event) in zip(outcomes, completed, strict=True)
    }
    await tell_crossings(tx, causes, times, now=now)


async def write_failed(tx: Connection, outcomes: Sequence[Failed], now: datetime) -> None:
    """The reasons on the subscriptions, when they are tried again, and the events. Their marks stay."""
    if not outcomes:
        return
    rows = await queries.rating.fail_rating(
        tx,
        tenant_ids=[outcome.turn.row.tenant_id for outcome in outcomes],
        ids=[outcome.turn.row.id for outcome in outcomes],
        failures=[outcome.reason for outcome in outcomes],
        errors=[outcome.message[:ERROR_LENGTH_MAX] for outcome in outcomes],
        retry_ats=[
            now + _RETRY.delay(outcome.turn.row.rating_attempts + 1, jitter_permille=0)
            for outcome in outcomes
        ],
    )
    versions = {row.id: row.version for row in rows}
    tenants = {outcome.turn.row.tenant_id for outcome in outcomes}
    times = await business_times(tx, tenants, now)
    await events.emit(tx, [_failed(one, versions, times, now) for one in outcomes], now=now)


async def _write_charges(tx: Connection, charges: Sequence[Charge], now: datetime) -> None:
    first = [one for one in charges if one.rated.row.status in _FROM_STATUSES]
    if first:
        await queries.rating.move_usage_periods(
            tx,
            tenant_ids=[one.key.tenant_id for one in first],
            item_ids=[one.key.item_id for one in first],
            period_starts=[one.key.period_start for one in first],
            from_statuses=list(_FROM_STATUSES),
            to_status=_TO_STATUS,
        )
    lines = [(one, line) for one in charges for line in one.lines()]
    await queries.rating.upsert_charges(
        tx,
        tenant_ids=[one.key.tenant_id for one, _ in lines],
        item_ids=[one.key.item_id for one, _ in lines],
        period_starts=[one.key.period_start for one, _ in lines],
        kinds=[line.kind for _, line in lines],
        group_keys=[line.group_key for _, line in lines],
        subscription_ids=[one.rated.row.subscription_id for one, _ in lines],
        measured=[decimal_text(line.measured) for _, line in lines],
        quantities=[decimal_text(line.quantity) for _, line in lines],
        amounts=[line.amount.minor_units for _, line in lines],
        currencies=[line.amount.currency for _, line in lines],
        now=now,
    )
    await queries.rating.delete_stale_charges(
        tx,
        tenant_ids=[one.key.tenant_id for one in charges],
        item_ids=[one.key.item_id for one in charges],
        period_starts=[one.key.period_start for one in charges],
        now=now,
    )


def _rated(
    outcome: Rated, versions: Mapping[UUID, int], times: Mapping[UUID, datetime], now: datetime
) -> Iterator[events.NewEvent]:
    turn = outcome.turn
    tenant_id, version = turn.row.tenant_id, versions[turn.row.id]
    at, cause = times[tenant_id], turn.cause(now)
    rated = usage_events_pb2.UsageRated(
        subscription_id=turn.resource, periods=[_period(one) for one in outcome.charges]
    )
    completed = rating_events_pb2.RatingCompleted(
        subscription_id=turn.resource,
        total=money_pb2.Money(
            minor_units=outcome.total.minor_units, currency_code=outcome.total.currency
        ),
    )
    yield events.NewEvent(tenant_id, turn.resource, version - 1, rated, at, cause)
    yield events.NewEvent(tenant_id, turn.resource, version, completed, at, cause)


def _failed(
    outcome: Failed, versions: Mapping[UUID, int], times: Mapping[UUID, datetime], now: datetime
) -> events.NewEvent:
    turn = outcome.turn
    payload = rating_events_pb2.RatingFailed(
        subscription_id=turn.resource,
        reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{outcome.reason}"),
        message=outcome.message[:ERROR_LENGTH_MAX],
    )
    tenant_id = turn.row.tenant_id
    version = versions[turn.row.id]
    return events.NewEvent(
        tenant_id, turn.resource, version, payload, times[tenant_id], turn.cause(now)
    )


def _period(one: Charge) -> usage_events_pb2.RatedUsage:
    row = one.rated.row
    span = time_range_pb2.TimeRange()
    span.start.FromDatetime(row.period_start)
    span.end.FromDatetime(row.period_end)
    return usage_events_pb2.RatedUsage(
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, row.item_id),
        meter_id=encode(Prefix.METER, row.meter_id),
        period=span,
        quantity=decimal_text(one.rated.quantity),
    )
