"""Subscription path, step 3, put off: changes that are stored with their instant, and taken back or executed.

Invariant: a scheduled change is executed once, under the locks of customer and subscription, as of its own instant
however late that is done, and before whatever else is due for the subscription then. One that cannot be executed fails
alone and leaves the subscription as it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import queries.subscription_changes
from google.protobuf.message import Message
from queries.models import ScheduledChange, Subscription
from tollway.subscription.v1 import subscription_events_pb2 as payloads
from tollway.subscription.v1 import subscription_service_pb2 as pb

from billing.domain.errors import BillingError, Exhausted, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.runtime.savepoints import savepoint
from billing.services import events
from billing.services.subscription_cancel import cancel_at
from billing.services.subscription_change import apply_change
from billing.services.subscription_edits import Change, ItemChange, Proration
from billing.services.subscription_hold import Moment, draw_version, read_again

PENDING_MAX: Final = 50


class ChangeKind(StrEnum):
    """What a scheduled change does."""

    CHANGE = "change"
    CANCEL = "cancel"


class ChangeStatus(StrEnum):
    """What became of it."""

    PENDING = "pending"
    EXECUTED = "executed"
    CANCELED = "canceled"
    FAILED = "failed"


class ScheduledChangeNotFound(NotFound):
    """There is no such scheduled change in this tenant."""

    reason = "SCHEDULED_CHANGE_NOT_FOUND"


class ScheduledChangeFinished(Precondition):
    """The change was executed, canceled or has failed; it cannot be taken back."""

    reason = "SCHEDULED_CHANGE_FINISHED"


class TooManyScheduledChanges(Exhausted):
    """The subscription has as many scheduled changes as it may; cancel some first."""

    reason = "TOO_MANY_SCHEDULED_CHANGES"


async def schedule_change(
    tx: Connection, row: Subscription, change: Change, due_at: datetime, moment: Moment
) -> ScheduledChange:
    """Stores a change of items, plan or interval for later, for callers that hold the subscription."""
    return await _store(tx, row, ChangeKind.CHANGE, _to_json(change), due_at, moment)


async def schedule_cancel(
    tx: Connection, row: Subscription, due_at: datetime, moment: Moment, *, credit: bool
) -> ScheduledChange:
    """Stores the subscription's end for later; it replaces one that was stored before."""
    await finish_pending(tx, row, ChangeKind.CANCEL, moment)
    return await _store(tx, row, ChangeKind.CANCEL, {"credit": credit}, due_at, moment)


async def finish_pending(
    tx: Connection, row: Subscription, kind: ChangeKind | None, moment: Moment
) -> int:
    """Takes all pending changes back, of one kind if it is given. Returns how many."""
    pending = await queries.subscription_changes.list_pending_ids(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, kind=kind or ""
    )
    await _finish(tx, row, pending, ChangeStatus.CANCELED, moment)
    return len(pending)


async def take_back(
    tx: Connection, row: Subscription, change: ScheduledChange, moment: Moment
) -> ScheduledChange:
    """Takes one back. Raises ScheduledChangeFinished."""
    if not await _finish(tx, row, [change.id], ChangeStatus.CANCELED, moment):
        raise ScheduledChangeFinished(metadata={"status": change.status})
    return await get_scheduled_change(tx, row.tenant_id, change.id)


async def get_scheduled_change(tx: Connection, tenant_id: UUID, change_id: UUID) -> ScheduledChange:
    """The change by id. Raises ScheduledChangeNotFound."""
    change = await queries.subscription_changes.get_scheduled_change(
        tx, tenant_id=tenant_id, id=change_id
    )
    if change is None:
        named = encode(Prefix.SCHEDULED_CHANGE, change_id)
        raise ScheduledChangeNotFound(metadata={"scheduled_change": named})
    return change


async def execute_next(tx: Connection, row: Subscription, moment: Moment) -> Subscription:
    """Executes the subscription's earliest pending change as of its instant; the row as it is afterwards."""
    change = await queries.subscription_changes.get_next_scheduled_change(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    if change is None:
        return await _set_due(tx, row)
    # Never before the period that the subscription is in: its invoice is closed.
    at = max(change.due_at, row.period_start or change.due_at)
    then = replace(moment, at=at)
    try:
        async with savepoint(tx):
            await _execute(tx, row, change, then)
    except BillingError as error:
        await _finish(tx, row, [change.id], ChangeStatus.FAILED, moment, error=error)
    else:
        await _finish(tx, row, [change.id], ChangeStatus.EXECUTED, moment)
    row = await read_again(tx, row)
    if row.canceled_at is not None:
        await finish_pending(tx, row, None, moment)
    return await _set_due(tx, row)


async def _execute(
    tx: Connection, row: Subscription, change: ScheduledChange, moment: Moment
) -> None:
    request = json.loads(change.request)
    if change.kind == ChangeKind.CANCEL:
        await cancel_at(tx, row, moment, credit=bool(request["credit"]))
    else:
        await apply_change(tx, row, _from_json(request), moment)


async def _store(
    tx: Connection,
    row: Subscription,
    kind: ChangeKind,
    request: dict[str, Any],
    due_at: datetime,
    moment: Moment,
) -> ScheduledChange:
    pending = await queries.subscription_changes.list_pending_ids(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, kind=""
    )
    if len(pending) >= PENDING_MAX:
        raise TooManyScheduledChanges(metadata={"limit": str(PENDING_MAX)})
    change = await queries.subscription_changes.insert_scheduled_change(
        tx,
        tenant_id=row.tenant_id,
        id=new_id(moment.now),
        subscription_id=row.id,
        kind=kind,
        due_at=due_at,
        request=json.dumps(request),
        created_at=moment.today,
    )
    assert change is not None, "an insert without conflict answers its row"
    await _set_due(tx, row)
    payload = payloads.SubscriptionChangeScheduled(
        subscription_id=encode(Prefix.SUBSCRIPTION, row.id),
        scheduled_change_id=encode(Prefix.SCHEDULED_CHANGE, change.id),
        kind=wire_kind(kind),
    )
    payload.due_time.FromDatetime(due_at)
    await _tell(tx, row, payload, moment)
    return change


async def _finish(
    tx: Connection,
    row: Subscription,
    ids: Sequence[UUID],
    status: ChangeStatus,
    moment: Moment,
    *,
    error: BillingError | None = None,
) -> int:
    finished = await queries.subscription_changes.finish_scheduled_changes(
        tx,
        tenant_id=row.tenant_id,
        ids=list(ids),
        status=status,
        error=f"{error.reason}: {error.message}" if error else "",
        finished_at=moment.today,
    )
    for change in finished:
        payload = payloads.SubscriptionChangeFinished(
            subscription_id=encode(Prefix.SUBSCRIPTION, row.id),
            scheduled_change_id=encode(Prefix.SCHEDULED_CHANGE, change.id),
            kind=wire_kind(change.kind),
            status=wire_status(status),
            error=error.reason if error else "",
        )
        await _tell(tx, row, payload, moment)
    if finished:
        await _set_due(tx, row)
    return len(finished)


async def _set_due(tx: Connection, row: Subscription) -> Subscription:
    stored = await queries.subscription_changes.set_change_due(
        tx, tenant_id=row.tenant_id, id=row.id
    )
    assert stored is not None, "the row is held"
    return stored


async def _tell(tx: Connection, row: Subscription, payload: Message, moment: Moment) -> None:
    resource = encode(Prefix.SUBSCRIPTION, row.id)
    version = await draw_version(tx, row)
    event = events.NewEvent(row.tenant_id, resource, version, payload, moment.today, moment.cause)
    await events.emit(tx, [event], now=moment.now)


def wire_kind(kind: str) -> pb.ScheduledChangeKind.ValueType:
    """A stored kind as the contract spells it."""
    return pb.ScheduledChangeKind.Value(f"SCHEDULED_CHANGE_KIND_{kind.upper()}")


def wire_status(status: str) -> pb.ScheduledChangeStatus.ValueType:
    """A stored status as the contract spells it."""
    return pb.ScheduledChangeStatus.Value(f"SCHEDULED_CHANGE_STATUS_{status.upper()}")


def _to_json(change: Change) -> dict[str, Any]:
    return {
        "items": [
            {
                "item_id": str(item.item_id) if item.item_id else None,
                "price_id": str(item.price_id) if item.price_id else None,
                "quantity": item.quantity,
                "remove": item.remove,
                "subscription_required": item.subscription_required,
            }
            for item in change.items
        ],
        "plan_id": str(change.plan_id) if change.plan_id else None,
        "plan_key": change.plan_key,
        "anchor_at": change.anchor_at.isoformat() if change.anchor_at else None,
        "proration": change.proration,
    }


def _from_json(stored: dict[str, Any]) -> Change:
    return Change(
        [
            ItemChange(
                UUID(item["item_id"]) if item["item_id"] else None,
                UUID(item["price_id"]) if item["price_id"] else None,
                item["quantity"],
                item["remove"],
                item.get("subscription_required", False),  # not in what an older release stored
            )
            for item in stored["items"]
        ],
        UUID(stored["plan_id"]) if stored["plan_id"] else None,
        stored["plan_key"],
        datetime.fromisoformat(stored["anchor_at"]) if stored["anchor_at"] else None,
        Proration(stored["proration"]),
    )
