"""Router, step 4: events that wait are tried again, and what a pause had parked is let through.

Invariant: a retry stands behind the position rows of its partitions, like every transaction of the router. An event
that fails by its own fault counts an attempt and waits longer; after the last it is a dead letter, with its error. One
that only has to wait counts none and never dies; nor does what waits for a paused consumer or tenant, untried.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby

from google.protobuf.message import DecodeError

from billing.domain.errors import InvalidId
from billing.runtime.db import Connection, Database
from billing.runtime.faults import Fault, fault_of
from billing.services import pauses, routing
from billing.services.holding import list_followers, read_holding
from billing.services.incoming import Incoming
from billing.services.leases import Lease
from billing.services.routing import ANY_CONSUMER, Due, Waiting
from workers.router.arrivals import read_incoming
from workers.router.consumers import Consumer, Routes
from workers.router.cycle import waiting_row
from workers.router.isolation import describe, handle_apart
from workers.router.settings import RouterSettings

NOT_IN_LOG = "the event is not in the log"


@dataclass(slots=True)
class Retried:
    """What a retry did, by consumer."""

    handled: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    parked: Counter[str] = field(default_factory=Counter)
    full: bool = False  # as many as are taken at once, so there may be more

    @property
    def progress(self) -> int:
        """How many rows wait no longer."""
        return self.handled.total() + self.dead.total()


@dataclass(slots=True)
class _Outcome:
    """The rows of one transaction, by what becomes of them."""

    finished: list[Due] = field(default_factory=list)
    postponed: list[Waiting] = field(default_factory=list)
    failed: list[tuple[Due, str]] = field(default_factory=list)
    parked: list[Waiting] = field(default_factory=list)


class Parking:
    """Tries what is due."""

    def __init__(self, database: Database, routes: Routes, settings: RouterSettings) -> None:
        self._database, self._routes, self._settings = database, routes, settings
        self._most = settings.retry_events_max

    async def retry(self, leases: Sequence[Lease], now: datetime) -> Retried:
        """Tries what is due in these partitions, a bounded number. Raises what the database does when it is away."""
        async with self._database.connection() as connection:
            partitions = [lease.shard for lease in leases]
            paused = await pauses.router_pauses(connection)
            quiet = not paused.paused and not paused.resuming
            if quiet and not await self._due(connection, partitions, now, 1):
                return Retried()
        try:
            retried = await self._retry(leases, now, self._most)
        except Exception as error:
            if fault_of(error) is not Fault.TIME_LIMIT:
                raise
            # Fewer at once; and a single one that ends its whole transaction is blamed unseen.
            if self._most > 1:
                self._most = max(1, self._most // 10)
                return Retried()
            retried = await self._retry(leases, now, 1, blame=describe(error))
        self._most = min(self._most * 2, self._settings.retry_events_max)
        return retried

    async def _retry(
        self, leases: Sequence[Lease], now: datetime, most: int, *, blame: str | None = None
    ) -> Retried:
        async with self._database.transaction() as tx:
            held = await routing.lock_positions(tx, leases)
            await pauses.apply(tx, held, now=now, most=self._settings.release_events_max)
            due = await self._due(tx, held, now, most)
            full = len(due) == most
            if blame is None:
                # Behind a head that is handled, what it held back goes at once.
                due += await list_followers(tx, due, self._routes.ordered) if most > 1 else []
                outcome = await self._try(tx, due, now)
            else:
                outcome = _Outcome(failed=[(row, blame) for row in due])
            retried = await self._settle(tx, outcome, now)
            retried.full = full
            return retried

    async def _due(
        self, connection: Connection, partitions: Collection[int], now: datetime, most: int
    ) -> list[Due]:
        return await routing.list_due(
            connection, partitions, ordered=self._routes.ordered, now=now, most=most
        )

    async def _try(self, tx: Connection, due: Sequence[Due], now: datetime) -> _Outcome:
        outcome = _Outcome()
        events = await self._events(tx, due, outcome)
        # The order of the versions within a resource, whatever the times at which they are due.
        readable = sorted(
            (row for row in due if row.waiting.event_id in events),
            key=lambda row: (
                row.waiting.consumer,
                row.waiting.resource,
                row.waiting.resource_version,
                row.waiting.event_id,
            ),
        )
        for name, group in groupby(readable, key=lambda row: row.waiting.consumer):
            rows = list(group)
            consumer = self._routes.consumer(name)
            if name == ANY_CONSUMER:
                for row in rows:
                    await self._expand(tx, row, events[row.waiting.event_id], outcome, now)
            elif consumer is None:
                # Of another release: it waits for the router that has the consumer.
                outcome.postponed += [self._later(row, now) for row in rows]
            else:
                await self._handle(tx, consumer, rows, events, outcome, now)
        return outcome

    async def _events(
        self, tx: Connection, due: Sequence[Due], outcome: _Outcome
    ) -> dict[object, Incoming]:
        logged = await routing.load_logged(tx, {row.waiting.event_id for row in due})
        events: dict[object, Incoming] = {}
        for row in due:
            body = logged.get(row.waiting.event_id)
            try:
                if body is not None:
                    events[row.waiting.event_id] = read_incoming(body, row.waiting.partition)
                    continue
                error = NOT_IN_LOG
            except (DecodeError, InvalidId) as unreadable:
                error = describe(unreadable)
            outcome.failed.append((row, error))
        return events

    async def _handle(
        self,
        tx: Connection,
        consumer: Consumer,
        rows: Sequence[Due],
        events: dict[object, Incoming],
        outcome: _Outcome,
        now: datetime,
    ) -> None:
        wanted = list(dict.fromkeys(row.waiting.event_id for row in rows))
        isolated = await handle_apart(tx, consumer, [events[event] for event in wanted], now)
        for row in rows:
            event_id = row.waiting.event_id
            if event_id in isolated.held:
                continue  # not tried, so nothing changes
            if event_id in isolated.failed:
                outcome.failed.append((row, isolated.failed[event_id]))
            elif event_id in isolated.waiting:
                outcome.postponed.append(self._wait_on(row, now))
            else:
                outcome.finished.append(row)

    async def _expand(
        self, tx: Connection, row: Due, event: Incoming, outcome: _Outcome, now: datetime
    ) -> None:
        """An event that an earlier release did not know: one outcome per consumer that lacked it."""
        late = self._routes.late(event.subject, event.envelope.schema_version, event.event_id)
        if late is None:
            outcome.postponed.append(self._later(row, now))
            return
        replay_id = row.waiting.replay_id
        holding = await read_holding(tx, [event])
        for consumer in late:
            if holding.has(consumer.name, event):
                continue
            name, ordered = consumer.name, consumer.ordered
            paused = holding.is_paused(name, event)
            parked = paused or holding.holds(name, event, ordered=False)
            held = parked or holding.holds(name, event, ordered=ordered, under_any=False)
            isolated = await handle_apart(tx, consumer, [] if held else [event], now)
            if held or isolated.waiting:
                at = None if paused else now + self._settings.wait_min
                outcome.parked.append(
                    waiting_row(name, event, at, replay_id=replay_id, paused=parked)
                )
            for error in isolated.failed.values():
                at = now + self._settings.failed_backoff.delay(1, jitter_permille=0)
                outcome.parked.append(
                    waiting_row(consumer.name, event, at, replay_id=replay_id, error=error)
                )
        outcome.finished.append(row)

    async def _settle(self, tx: Connection, outcome: _Outcome, now: datetime) -> Retried:
        dead: list[Waiting] = []
        postponed = outcome.postponed
        for row, error in outcome.failed:
            attempts = row.waiting.attempts + 1
            pause = self._settings.failed_backoff.delay(attempts, jitter_permille=_jitter())
            failed = replace(
                row.waiting,
                attempts=attempts,
                last_error=error,
                next_attempt_at=now + pause,
                paused=False,
            )
            # What no release knows yet is kept for the one that will.
            mortal = failed.consumer != ANY_CONSUMER
            (dead if mortal and attempts >= self._settings.attempts_max else postponed).append(
                failed
            )
        await routing.drop_waiting(tx, [row.waiting for row in outcome.finished])
        await routing.postpone(tx, postponed)
        await routing.bury(tx, dead, now=now)
        await routing.park(tx, outcome.parked, now=now)
        return Retried(
            Counter(row.waiting.consumer for row in outcome.finished),
            Counter(row.consumer for row in dead),
            Counter(row.consumer for row in outcome.parked),
        )

    def _wait_on(self, row: Due, now: datetime) -> Waiting:
        pause = (now - row.parked_at) / 4
        pause = min(max(pause, self._settings.wait_min), self._settings.wait_max)
        return replace(row.waiting, next_attempt_at=now + pause, paused=False)

    def _later(self, row: Due, now: datetime) -> Waiting:
        return replace(row.waiting, next_attempt_at=now + self._settings.unknown_wait)


def _jitter() -> int:
    return random.randint(0, 1000)
