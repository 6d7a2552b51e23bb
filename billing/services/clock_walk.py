"""Business time, step 2: a test clock goes to its target, due instant by due instant.

Invariant: the clock leaves an instant only when everything of it is done: one snapshot shows nothing due, no event
that a consumer still has to handle, nothing on its way to the bus. What is under way in another transaction is seen
as not done, since its effect and the end of its being due are committed together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.clocks
from queries.models import TestClock as AdvancingClock

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import first_id_at

__all__ = [
    "AdvancingClock",
    "Wanted",
    "fail_if_stalled",
    "list_advancing",
    "move",
    "next_instant",
    "paused",
    "tell",
    "waiting_for",
]

# Which consumer wants which subjects; None for all of them.
Wanted = Mapping[str, Collection[str] | None]

CLOCKS_MAX: Final = 50
# An event's id is made before its transaction; how much older than the step it may be. What is older still and not
# published, or parked, or not folded is found without its id.
EVENT_LAG_MAX: Final = timedelta(seconds=10)
_ALL: Final = "*"


async def list_advancing(tx: Connection) -> list[AdvancingClock]:
    """The clocks on their way, at most CLOCKS_MAX."""
    return await queries.clocks.list_advancing_clocks(tx, batch_max=CLOCKS_MAX)


async def waiting_for(tx: Connection, clock: AdvancingClock, wanted: Wanted) -> str:
    """What the clock's instant still waits for, for people; empty when all of it is done. `tx` reads one snapshot."""
    return (
        await _due(tx, clock)
        or await _unhandled(tx, clock, wanted)
        or await _parked(tx, clock.tenant_id)
        or await _on_its_way(tx, clock.tenant_id)
    )


async def paused(tx: Connection, clock: AdvancingClock) -> str:
    """The pause that holds back an event of the tenant, for people; empty when there is none.

    While there is one a clock never fails: what an operator holds back comes when he lets it go.
    """
    found = await queries.clocks.find_pause_in_the_way(tx, tenant_id=clock.tenant_id)
    return f"; {found.paused} is paused: {found.reason}" if found else ""


async def next_instant(tx: Connection, clock: AdvancingClock) -> datetime:
    """The next instant at which something falls due, or the target when that comes first."""
    due = await queries.clocks.find_next_instant(
        tx, tenant_id=clock.tenant_id, business_time=clock.business_time
    )
    return clock.target_time if due is None else min(due, clock.target_time)


async def move(tx: Connection, clock: AdvancingClock, to: datetime, *, now: datetime) -> bool:
    """Moves the clock, which is then ready if `to` is where it stands already. False when somebody else was first."""
    status = "ready" if to == clock.business_time else "advancing"
    moved = await queries.clocks.move_test_clock(
        tx,
        tenant_id=clock.tenant_id,
        version=clock.version,
        business_time=clock.business_time,
        next_time=to,
        status=status,
        now=now,
    )
    return moved > 0


async def tell(tx: Connection, clock: AdvancingClock, waiting: str, *, now: datetime) -> None:
    """Shows what the clock waits for."""
    if waiting != clock.waiting_for:
        await queries.clocks.tell_waiting(
            tx,
            tenant_id=clock.tenant_id,
            version=clock.version,
            business_time=clock.business_time,
            waiting_for=waiting,
            now=now,
        )


@dataclass(frozen=True, slots=True)
class Watched:
    """Since when a worker looks at the clocks, and how long one may wait for the same thing (machine time)."""

    since: datetime
    stall: timedelta


async def fail_if_stalled(
    tx: Connection, clock: AdvancingClock, waiting: str, *, watched: Watched, now: datetime
) -> bool:
    """Gives up when the clock has waited for the very same thing, under a worker's eyes, for too long."""
    if waiting != clock.waiting_for or clock.waiting_since is None:
        return False
    # Time in which no worker ran is nobody's fault.
    if now - max(clock.waiting_since, watched.since) <= watched.stall:
        return False
    failed = await queries.clocks.fail_test_clock(
        tx,
        tenant_id=clock.tenant_id,
        version=clock.version,
        business_time=clock.business_time,
        waiting_for=waiting,
    )
    return failed > 0


async def _due(tx: Connection, clock: AdvancingClock) -> str:
    counts = await queries.clocks.count_due(
        tx, tenant_id=clock.tenant_id, business_time=clock.business_time
    )
    assert counts is not None, "counts are always a row"
    if counts.subscriptions:
        return f"{counts.subscriptions} subscriptions to start, activate or renew"
    if counts.changes:
        return f"{counts.changes} scheduled changes to be executed"
    if counts.marks:
        return await _unrated(tx, clock.tenant_id, counts.marks)
    if counts.drafts:
        blocked = await queries.clocks.find_blocked_draft(
            tx, tenant_id=clock.tenant_id, business_time=clock.business_time
        )
        reason = (
            f", {encode(Prefix.INVOICE, blocked.id)}: {blocked.blocked_reason}" if blocked else ""
        )
        return f"{counts.drafts} invoices to become final{reason}"
    if counts.unpaid:
        return f"{counts.unpaid} invoices to be told due"
    return ""


async def _unrated(tx: Connection, tenant_id: UUID, marks: int) -> str:
    unrated = await queries.clocks.find_unrated_usage(tx, tenant_id=tenant_id)
    if unrated is None:
        return f"{marks} marks of usage to be rated"
    why = f": {unrated.rating_error}" if unrated.rating_error else ""
    named = encode(Prefix.SUBSCRIPTION, unrated.id)
    return f"{marks} marks of usage to be rated, {named}{why}"


async def _unhandled(tx: Connection, clock: AdvancingClock, wanted: Wanted) -> str:
    pairs = [
        (consumer, subject)
        for consumer, subjects in sorted(wanted.items())
        for subject in (sorted(subjects) if subjects is not None else [_ALL])
    ]
    event = await queries.clocks.find_unhandled_event(
        tx,
        tenant_id=clock.tenant_id,
        first_id=_first_id(clock),
        consumers=[consumer for consumer, _ in pairs],
        subjects=[subject for _, subject in pairs],
    )
    if event is None:
        return ""
    return (
        f"the consumer {event.consumer} to handle {event.subject}, {encode(Prefix.EVENT, event.id)}"
    )


async def _parked(tx: Connection, tenant_id: UUID) -> str:
    event = await queries.clocks.find_waiting_event(tx, tenant_id=tenant_id)
    if event is None:
        return ""
    named = encode(Prefix.EVENT, event.event_id)
    return f"the consumer {event.consumer} to handle {event.subject}, {named}: {event.last_error}"


async def _on_its_way(tx: Connection, tenant_id: UUID) -> str:
    event = await queries.clocks.find_unpublished_event(tx, tenant_id=tenant_id)
    if event is not None:
        named = encode(Prefix.EVENT, event.event_id)
        return f"the bus to take {event.subject}, {named}: {event.last_error}"
    if await queries.clocks.has_unfolded_usage(tx, tenant_id=tenant_id):
        return "usage to be folded"
    return ""


def _first_id(clock: AdvancingClock) -> UUID:
    """The least id that an event of this step can have."""
    began = clock.step_began_at or clock.created_at
    return first_id_at(began - EVENT_LAG_MAX)
