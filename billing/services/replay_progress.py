"""Replay path, steps 3 and 4: a running replay goes slice by slice, waits for its consumers, and ends.

Invariant: a slice is given in the transaction that says how far the replay has come, under the replay's row lock, so a
worker that dies repeats nothing and skips nothing. An event is sent again only after its first publication; one whose
first publication is dead is never sent past it, and counts as failed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final
from uuid import UUID

import queries.replays
from queries.replays import ListRunningRow as Running
from queries.replays import ListSliceRow as Event

from billing.runtime.db import Connection
from billing.services import replay_control
from billing.services.consumers import Wanted
from billing.services.replay_run import Pace, Run
from billing.services.replay_safety import consumers_reached
from billing.services.replay_sinks import queue, queues, sink_of
from billing.services.replay_token import ReplayPlan

__all__ = ["Pace", "Running", "advance", "list_running"]

# A worker that was away for longer does not make up for it with a burst.
_RATE_WINDOW: Final = timedelta(seconds=1)
# With a rate, so much of it is given at once.
_STROKE_S: Final = 0.1
# Without one, what went within so long goes fast.
_SLOW: Final = timedelta(milliseconds=50)


async def list_running(connection: Connection, after: UUID, *, most: int) -> list[Running]:
    """The running replays of all tenants after this one, in the order of their ids."""
    return await queries.replays.list_running(connection, after=after, most=most)


async def advance(
    tx: Connection, running: Running, wanted: Wanted, pace: Pace, *, now: datetime
) -> int:
    """Takes one bounded step of a replay; 0 when there is nothing to do now. Needs the worker role.

    It gives slices while few of its own are queued; then it waits until every consumer that it reaches has its events;
    then it ends, and emits billing.replay.finished.
    """
    row = await queries.replays.lock_running(tx, tenant_id=running.tenant_id, id=running.id)
    if row is None:
        return 0
    plan = ReplayPlan.parse(row.plan)
    reached = consumers_reached(plan.target, plan.safety, wanted) if wanted else {}
    run = Run(row, plan, reached, pace, now)
    counts = await queries.replays.count_queued(tx, id=row.id)
    assert counts is not None, "counts are always a row"
    failed = row.failed + counts.dead
    if plan.safety.stop_on_errors and failed > row.failures_accepted:
        await replay_control.stop_on_error(tx, row, failed, now=now)
        return 1
    if row.armed_until != run.last:
        return await _give(tx, run, counts.queued)
    if counts.queued:
        return 0
    if reached and queues(run) and row.settled_until != run.last:
        return await _settle(tx, run)
    await replay_control.finish(tx, row, counts.dead, now=now)
    return 1


# --- step 3: give


async def _give(tx: Connection, run: Run, queued: int) -> int:
    rate = run.plan.rate_per_second
    since = max(run.row.armed_at, run.now - _RATE_WINDOW)
    budget = int((run.now - since).total_seconds() * rate) if rate else run.slice_max
    # What goes to the bus although it was handled counts as both.
    behind = max(run.row.armed, run.row.skipped) + run.row.failed - queued
    queued_max = min(run.pace.queued_max, max(run.pace.queued_first, 2 * behind))
    most = min(run.slice_max, queued_max - queued, budget)
    # In strokes: a few events at a time would cost live traffic a commit for each of them.
    stroke = min(run.slice_max, queued_max) // 2
    if rate:
        stroke = min(stroke, int(rate * _STROKE_S))
    elif run.now - run.row.armed_at > _SLOW:
        # They go slowly, beside live traffic: smaller strokes, which it hardly feels.
        stroke = min(stroke, run.pace.queued_first)
    if most < max(stroke, 1):
        return 0
    given = await run.next_events(tx, run.row.armed_until, most, consumers=list(run.reached))
    # Never ahead of a first publication, whatever the bus is doing to it.
    taken = list(takewhile(lambda event: not event.unpublished, given))
    exhausted = len(taken) == len(given) < most
    if not taken and not exhausted:
        return 0
    done = await sink_of(run)(tx, run, taken)
    await queries.replays.move_armed(
        tx,
        tenant_id=run.tenant_id,
        id=run.row.id,
        armed=done.sent,
        skipped=done.skipped,
        failed=done.failed,
        armed_until=run.last if exhausted else taken[-1].id,
        armed_at=since + timedelta(seconds=len(taken) / rate) if rate else run.now,
    )
    return max(len(taken), 1)


# --- step 4: wait for the consumers


async def _settle(tx: Connection, run: Run) -> int:
    """Moves past what every consumer has handled, or has waiting or dead: that is in the router's hands, and shows
    there. What came to no consumer in a long time was lost on the way and is sent again, under bus ids of its own."""
    most = run.pace.slice_max
    given = await run.next_events(tx, run.row.settled_until, most, wanting=run.reached)
    settled = list(takewhile(_accounted, given))
    exhausted = len(settled) == len(given) < most
    lost: list[Event] = []
    if not settled and run.now - run.row.armed_at >= run.pace.rearm_after:
        lost = [event for event in given if not _accounted(event) and not event.unpublished]
    if not (settled or lost or exhausted):
        return 0
    until = settled[-1].id if settled else run.row.settled_until
    moved = await queries.replays.move_settled(
        tx,
        tenant_id=run.tenant_id,
        id=run.row.id,
        settled_until=run.last if exhausted else until,
        armed_at=run.now,
        rounds=run.row.rounds + bool(lost),
    )
    if lost and moved is not None:
        await queue(tx, Run(moved, run.plan, run.reached, run.pace, run.now), lost)
    return max(len(settled) + len(lost), 1)


def _accounted(event: Event) -> bool:
    return event.dead or not event.lacking
