"""Publish path, steps 2 to 4: read a shard in order, publish, delete.

Invariant: one owner per shard at a time, and it deletes only what the bus has acknowledged; so what is committed is
published at least once and in order per resource, and a crash between publish and delete publishes again. An outage of
the bus changes nothing in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from uuid import UUID

from billing.runtime.bus.base import BusMessage
from billing.runtime.hints import OUTBOX
from billing.services import outbox
from billing.services.leases import Lease
from billing.services.outbox import Pending, Priority, Publication, Refusal
from workers.dispatcher.messages import message_of
from workers.dispatcher.publishing import Published, publish
from workers.dispatcher.queues import Queue, Queues
from workers.dispatcher.settings import DispatcherSettings
from workers.dispatcher.window import Window
from workers.ground import Ground
from workers.leases import LeaseKeeper
from workers.loop import run_loop
from workers.metrics import DispatcherMetrics

log = logging.getLogger(__name__)

NOT_IN_LOG = "the event is not in the log"


@dataclass(slots=True)
class Batch:
    """One queue's rows that are published together."""

    queue: Queue
    rows: list[Pending] = field(default_factory=list)
    messages: list[BusMessage] = field(default_factory=list)
    unlogged: list[Pending] = field(default_factory=list)

    @property
    def count(self) -> int:
        """All rows of the batch, those without an event included."""
        return len(self.rows) + len(self.unlogged)


class Dispatcher:
    """Publishes the shards that `keeper` holds. `step` does one turn; `run` does all, with several turns at once."""

    def __init__(
        self,
        ground: Ground,
        keeper: LeaseKeeper,
        settings: DispatcherSettings,
        metrics: DispatcherMetrics,
    ) -> None:
        self._database, self._bus, self._clock = ground.database, ground.bus, ground.clock
        self._keeper, self._settings, self._metrics = keeper, settings, metrics
        self._queues = Queues()
        self._window = Window(ground, settings)
        ground.bus.on_connection(self._on_connection)

    async def run(
        self, stop: asyncio.Event, *, on_failure: Callable[[], None] | None = None
    ) -> None:
        """Keeps the leases and takes turns until `stop`; then finishes what is under way and gives the leases up."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            group.create_task(
                run_loop(
                    self._keeper.step,
                    stop,
                    idle_s=self._keeper.settings.renew_every_s,
                    on_failure=on_failure,
                )
            )
            for _ in range(settings.lanes):
                # Each lane has an event of its own: a hint that one lane takes must not be lost for another.
                wake = self._bus.subscribe_hints(OUTBOX)
                lane = run_loop(
                    partial(self._lane_step, wake),
                    stop,
                    idle_s=settings.idle_s,
                    wake=wake,
                    on_failure=on_failure,
                    at_once=False,
                )
                group.create_task(lane)
        await self._keeper.close()

    async def _lane_step(self, wake: asyncio.Event) -> int:
        done = await self.step()
        pause = self._queues.more_in(time.monotonic())
        if done and pause is not None:
            asyncio.get_running_loop().call_later(pause, wake.set)
        return done

    async def step(self) -> int:
        """A turn of a deep queue, or of all the others together; how many events were published.

        A turn that finds nothing makes way for the next, until all that may be served now were looked at: zero means
        that nothing could be done.
        """
        self._queues.own(self._keeper.usable())
        done, seen = 0, set[Queue]()
        while self._bus.connected and not done:
            turn = self._queues.next_turn(time.monotonic())
            if seen.issuperset(turn):
                break
            seen.update(turn)
            done = await self._take_turn(turn)
        self._show()
        return done

    async def _take_turn(self, turn: Sequence[Queue]) -> int:
        now = time.monotonic()
        with contextlib.ExitStack() as acts:
            for queue in turn:
                acts.enter_context(self._keeper.acting(queue.lease))
                queue.busy, queue.served_at = True, now
            try:
                if len(turn) == 1 and (turn[0].deep or turn[0].failures):
                    return await self._drain(turn[0])
                return await self._share(turn)
            finally:
                for queue in turn:
                    queue.busy = False
                if turn[0].is_replay:
                    self._make_way(now)

    def _make_way(self, began: float) -> None:
        """Beside live events, replays rest behind a turn for a multiple of its time."""
        now = time.monotonic()
        if self._queues.mixed(now):
            self._queues.rest(now + (now - began) * self._settings.beside_live_rest)

    # --- many queues with little waiting

    async def _share(self, queues: Sequence[Queue]) -> int:
        """Publishes a little of each queue, and deletes all of it in one statement."""
        batches = await self._read(queues, self._settings.shared_rows_max)
        outcomes = await asyncio.gather(*[self._publish(batch) for batch in batches])
        parts = list(zip(batches, outcomes, strict=True))
        await self._delete(parts)
        for batch, published in parts:
            await self._settle(batch, published)
        return sum(len(published.done) for published in outcomes)

    # --- one queue with much waiting, or in an outage

    async def _drain(self, queue: Queue) -> int:
        """Some batches of one queue: while one is published, the next is read and the one before is deleted.

        The next is read from the start of the queue, without what is under way: a row that was committed late, with a
        lower position, must not be passed over by a later one of its resource. It is published only when all of the
        one before was acknowledged.
        """
        count = 0
        settings = self._settings
        limit, batches_max = settings.batch_rows_max, settings.batches_per_turn
        if queue.is_replay:
            batches_max = 1
            if self._queues.mixed(time.monotonic()):
                limit = min(limit, settings.beside_live_rows_max)
        before: list[tuple[Batch, Published]] = []
        batches = await self._read([queue], limit)
        for turn in range(batches_max):
            if not batches or not self._keeper.may_act(queue.lease):
                break
            batch = batches[0]
            more = queue.deep and turn + 1 < batches_max
            in_flight = [row.position for part, _ in before for row in part.rows]
            in_flight += [row.position for row in batch.rows]
            unanswered = len(batch.rows)
            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(self._publish(batch))
                deleting = group.create_task(self._delete(before))
                read = self._read([queue], limit, in_flight, unanswered) if more else None
                ahead = group.create_task(read) if read is not None else None
            deleting.result()
            before = [(batch, publishing.result())]
            count += len(before[0][1].done)
            if ahead is None or len(before[0][1].done) < batch.count:
                break
            batches = ahead.result()
        await self._delete(before)
        for batch, published in before:
            await self._settle(batch, published)
        return count

    # --- the parts of a turn

    async def _read(
        self,
        queues: Sequence[Queue],
        per_queue: int,
        in_flight: Sequence[int] = (),
        unanswered: int = 0,
    ) -> list[Batch]:
        """A batch of each queue that has something to publish and may, in two reads for all."""
        await self._window.look(queues, per_queue, unanswered=unanswered)
        open_ = {(q.lease.shard, q.priority): q for q in queues if self._has_room(q)}
        # Of replays few in a turn of many queues: what is live may stand in the same one.
        few = max(self._settings.beside_live_rows_max // len(queues), 1)
        again = min(per_queue, few) if len(queues) > 1 else per_queue
        most = {Priority.LIVE: per_queue, Priority.REPLAY: again}
        claims = {
            key: queue.claim(min(most[queue.priority], self._window.room(queue)))
            for key, queue in open_.items()
        }
        if not claims:
            return []
        rows = await outbox.read_pending(
            self._database, list(claims.values()), in_flight=in_flight, now=self._clock.now()
        )
        loaded = await outbox.load_envelopes(
            self._database, rows, bytes_max=self._settings.batch_bytes_max
        )
        groups = groupby(loaded, key=lambda one: (one.row.shard, one.row.priority))
        taken = {key: list(group) for key, group in groups}
        # What did not fit is the rest of one queue, and all of those behind it.
        left = {(row.shard, row.priority) for row in rows[len(loaded) :]}
        for key, queue in open_.items():
            part = taken.get(key, [])
            queue.deep = key in left or len(part) >= claims[key].rows_max
            queue.note_read(claims[key], [one.row for one in part], cut=queue.deep)
            if part:
                self._queues.note_read(queue.priority, time.monotonic())
        return [_batch(open_[key], part) for key, part in taken.items()]

    def _has_room(self, queue: Queue) -> bool:
        room = self._window.room(queue)
        if not room:
            queue.retry_at = time.monotonic() + self._settings.window_poll_s
        return room > 0

    async def _publish(self, batch: Batch) -> Published:
        if not batch.messages or not self._keeper.may_act(batch.queue.lease):
            return Published()
        published = await publish(self._bus, batch.messages, self._settings)
        batch.queue.note_published(len(published.done), known=published.outage is None)
        return published

    async def _delete(self, parts: Sequence[tuple[Batch, Published]]) -> None:
        """Deletes what the bus has. A crash before this publishes again."""
        rows = [batch.rows[index] for batch, published in parts for index in published.done]
        if not rows:
            return
        leases = [batch.queue.lease for batch, _ in parts]
        deleted = await outbox.delete_published(self._database, rows, leases)
        self._metrics.published.inc(len(rows))
        if deleted < len(rows):
            self._metrics.zombie_deletes.inc(len(rows) - deleted)
            log.warning("%d published rows were left: their lease was lost", len(rows) - deleted)

    async def _settle(self, batch: Batch, published: Published) -> None:
        """Takes note of an outage, of duplicates and of refusals."""
        queue, metrics = batch.queue, self._metrics
        metrics.duplicates.inc(published.duplicates)
        metrics.batches_refused.inc(published.batch_refused)
        if published.outage is not None:
            queue.meet_outage(self._settings.outage_backoff, time.monotonic())
            if queue.failures == 1:
                log.warning("shard %d waits for the bus: %s", queue.lease.shard, published.outage)
        elif published.done or published.refused:
            queue.recover()
        refused = [(batch.rows[index], str(error)) for index, error in published.refused]
        refused += [(row, NOT_IN_LOG) for row in batch.unlogged]
        if refused:
            await self._refuse(queue.lease, refused)

    async def _refuse(self, lease: Lease, refused: Sequence[tuple[Pending, str]]) -> None:
        settings, now = self._settings, self._clock.now()
        refusals = [
            Refusal(
                row,
                error,
                now + settings.refused_backoff.delay(row.attempts + 1, jitter_permille=_jitter()),
            )
            for row, error in refused
        ]
        dead = await outbox.record_refusals(
            self._database, refusals, lease, attempts_max=settings.attempts_max, now=now
        )
        self._metrics.refused.inc(len(refusals))
        self._metrics.dead_letters.inc(dead)
        for row, error in refused:
            log.warning("event %s of %s was refused: %s", row.event_id, row.resource, error)

    # --- what is seen

    def _on_connection(self, connected: bool) -> None:
        if connected:
            for queue in self._queues.all():
                queue.retry_at, queue.ahead.stream_end = 0.0, None

    def _show(self) -> None:
        queues = self._queues.all()
        owned = {queue.lease.shard for queue in queues}
        troubled = {queue.lease.shard for queue in queues if queue.failures}
        self._metrics.shards_owned.set(len(owned))
        self._metrics.shards_in_outage.set(len(troubled if self._bus.connected else owned))


def _batch(queue: Queue, publications: Sequence[Publication]) -> Batch:
    """What is published of one queue; nothing of a resource behind a row whose event is missing."""
    batch = Batch(queue)
    held: set[tuple[UUID, str]] = set()
    for row, at, envelope in publications:
        if held and (row.tenant_id, row.resource) in held:
            continue
        if at is None or envelope is None:
            held.add((row.tenant_id, row.resource))
            batch.unlogged.append(row)
            continue
        batch.rows.append(row)
        batch.messages.append(message_of(row, at, envelope))
    return batch


def _jitter() -> int:
    return random.randint(0, 1000)
