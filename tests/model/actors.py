"""Who acts: dispatchers, routers, the healer. A step is as much as happens at once in the house; between two steps a
process may die, lose its lease without knowing, or be overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.model.rules import Rule
from tests.model.world import (
    ANY,
    ATTEMPTS_MAX,
    CONSUMERS,
    FEED,
    FIRST,
    FREE,
    ORDERED,
    Broken,
    Event,
    Position,
    Row,
    Stream,
    Waiting,
    World,
)

BATCH_MAX = 3
HEAL_AFTER = 3  # longer than any transaction


@dataclass(slots=True)
class Dispatcher:
    """Reads a batch, publishes it, deletes it: three steps."""

    world: World
    place: int
    term: int | None = None
    batch: list[Row] = field(default_factory=list)
    published: list[Row] = field(default_factory=list)

    def step(self) -> bool:
        """One of the three; False when there was nothing to do."""
        world, lease = self.world, self.world.leases["dispatcher"]
        if not world.holds(Rule.ONE_OWNER):
            self.term = lease.term
        if self.term is None:
            if lease.owner == self.place:
                self.term = lease.term
            return lease.owner == self.place
        if self.published:
            self._delete()
        elif self.batch:
            self._publish()
        elif self.term != lease.term:
            self.term = None  # it has heard of its successor
        else:
            self._read()
            return bool(self.batch)
        return True

    def _read(self) -> None:
        world = self.world
        held = {row.event.resource for row in world.outbox_dead if row.purpose == FIRST}
        rows = [
            row
            for row in world.outbox
            if row.purpose != FIRST
            or not world.holds(Rule.DEAD_HOLDS)
            or row.event.resource not in held
        ]
        if not world.holds(Rule.ONE_OWNER):
            # As with SKIP LOCKED: what another one has taken is passed over.
            rows = [row for row in rows if row not in world.claims[1 - self.place]]
        rows.sort(key=lambda row: (row.purpose != FIRST, row.event.position))
        self.batch = world.claims[self.place] = rows[:BATCH_MAX]
        if self.batch and not world.holds(Rule.ACK_BEFORE_DELETE):
            world.outbox = [row for row in world.outbox if row not in self.batch]

    def _publish(self) -> None:
        world, stream, batch = self.world, self.world.stream, self.batch
        self.batch = []
        if stream is None or world.happens(0.08):
            if not world.holds(Rule.OUTAGE_BLAMES_NOBODY):
                self._blame(batch)
            return
        if any(row.event.refused for row in batch):
            if not world.holds(Rule.BLAME_SINGLES):
                self._blame(batch)
            self._publish_singly(stream, batch)
            return
        if any(row.bus_id in stream.window for row in batch):
            self._publish_singly(stream, batch)
            return
        for row in batch:
            world.put(stream, row)
        world.tell(f"dispatcher {self.place} publishes {[row.bus_id for row in batch]}")
        if not world.happens(0.15):  # else the acknowledgement is lost
            self.published = batch

    def _publish_singly(self, stream: Stream, batch: list[Row]) -> None:
        world = self.world
        failed: set[int] = set()
        for row in batch:
            if row.event.resource in failed and world.holds(Rule.SINGLES_IN_ORDER):
                continue
            if row.event.refused:
                self._blame([row])
                failed.add(row.event.resource)
            elif world.happens(0.2):
                failed.add(row.event.resource)
            else:
                world.put(stream, row)
                self.published.append(row)
        world.tell(f"dispatcher {self.place} publishes singly {self.published}")

    def _blame(self, rows: list[Row]) -> None:
        world = self.world
        if self.term != world.leases["dispatcher"].term:
            return
        for row in rows:
            row.attempts += 1
            if row.attempts >= ATTEMPTS_MAX and row in world.outbox:
                world.outbox.remove(row)
                world.outbox_dead.append(row)
                world.tell(f"{row.bus_id} is dead")

    def _delete(self) -> None:
        published, self.published = self.published, []
        if self.term == self.world.leases["dispatcher"].term:
            self.world.outbox = [row for row in self.world.outbox if row not in published]


@dataclass(slots=True)
class Router:
    """Opens the stream at the stored position, pulls, commits; and tries again what waits."""

    world: World
    place: int
    is_new: bool = False  # of the later release
    term: int | None = None
    identity: int = 0
    sequence: int = 0
    pulled: list[tuple[int, Row]] = field(default_factory=list)
    unwritten: list[tuple[str, Event]] = field(default_factory=list)

    def step(self) -> bool:
        """One of these; False when there was nothing to do."""
        if self.unwritten:
            for consumer, event in self.unwritten:
                self.world.handle(consumer, event)
            self.unwritten = []
            return True
        if self.term is None:
            return self._open()
        if self.pulled:
            self._commit()
            return True
        if self.world.calm and not self._may_commit(self.sequence):
            self.close()  # sooner or later it hears that it was overtaken
            return True
        return self._pull() or self._retry()

    def close(self) -> None:
        """Forgets what it has in memory; the lease's next owner, or it itself, opens anew."""
        self.term, self.pulled, self.unwritten = None, [], []

    def _open(self) -> bool:
        world, stream, lease = self.world, self.world.stream, self.world.leases["router"]
        if lease.owner != self.place or stream is None:
            return False
        stored = world.position
        if world.holds(Rule.RESET) and (
            stored.identity != stream.identity or stream.last < stored.sequence
        ):
            fed = stored.fed if world.holds(Rule.FEED_COUNTS_ON) else 0
            stored = world.position = Position(stream.identity, 0, stored.term, fed)
            world.tell(f"router {self.place} begins stream {stream.identity}")
        self.term, self.identity, self.sequence = lease.term, stream.identity, stored.sequence
        return True

    def _pull(self) -> bool:
        world, stream = self.world, self.world.stream
        if stream is None or stream.identity != self.identity or stream.last < self.sequence:
            self.close()
            return True
        if self.sequence < stream.begin():
            self.sequence = stream.begin()  # trimmed: nothing is left below
            if self._may_commit(world.position.sequence):
                world.position.sequence = self.sequence
            else:
                self.close()
            return True
        ahead = sorted(sequence for sequence in stream.messages if sequence > self.sequence)
        most = world.chance.randint(1, BATCH_MAX)
        self.pulled = [(sequence, stream.messages[sequence]) for sequence in ahead[:most]]
        return bool(self.pulled)

    def _may_commit(self, known: int) -> bool:
        stored = self.world.position
        return (stored.term, stored.identity, stored.sequence) == (self.term, self.identity, known)

    def _commit(self) -> None:
        world, pulled = self.world, self.pulled
        self.pulled = []
        if world.holds(Rule.GUARD) and not self._may_commit(self.sequence):
            self.close()
            return
        if self.term != world.leases["router"].term:
            raise Broken(f"router {self.place} commits without its lease")
        for _, row in pulled:
            self._route(row.event)
        self.sequence = world.position.sequence = pulled[-1][0]
        world.tell(f"router {self.place} routes {[row.bus_id for _, row in pulled]}")

    def _route(self, event: Event) -> None:
        world = self.world
        if event.is_new and not self.is_new:
            if world.holds(Rule.UNKNOWN_WAITS) and not (
                world.knows(ANY, event) or world.knows(ORDERED, event)
            ):
                world.waiting.append(Waiting(ANY, event))
            takers: tuple[str, ...] = (FREE, FEED)
        else:
            takers = CONSUMERS
        for consumer in takers:
            self._deliver(consumer, event, by_unknown=world.holds(Rule.UNKNOWN_HOLDS))

    def _deliver(self, consumer: str, event: Event, *, by_unknown: bool) -> None:
        world = self.world
        if world.holds(Rule.INBOX) and world.knows(consumer, event):
            return
        if consumer == ORDERED and world.is_held(event, by_unknown=by_unknown):
            world.waiting.append(Waiting(consumer, event))
        elif event.failures[consumer]:
            event.failures[consumer] -= 1
            world.waiting.append(Waiting(consumer, event, attempts=1))
            world.tell(f"{consumer} fails on {event}, which waits")
        else:
            world.inbox.add((consumer, event))
            if world.holds(Rule.ONE_TRANSACTION):
                world.handle(consumer, event)
            else:
                self.unwritten.append((consumer, event))

    # --- what waits

    def _retry(self) -> bool:
        world = self.world
        rows = [row for row in world.waiting if self._may_try(row)]
        if not rows or world.position.term != self.term:
            return False
        row = world.chance.choice(rows)
        if row.consumer == ANY:
            world.waiting.remove(row)
            self._deliver(ORDERED, row.event, by_unknown=False)
            return True
        if row.event.failures[row.consumer]:
            row.event.failures[row.consumer] -= 1
            row.attempts += 1
            if row.attempts >= ATTEMPTS_MAX:
                world.waiting.remove(row)
                world.dead.append(row)
                world.tell(f"{row.event} is dead for {row.consumer}")
            return True
        world.waiting.remove(row)
        world.inbox.add((row.consumer, row.event))
        world.handle(row.consumer, row.event)
        return True

    def _may_try(self, row: Waiting) -> bool:
        world = self.world
        if row.consumer == ANY and not self.is_new:
            return False
        if row.consumer not in (ANY, ORDERED) or not world.holds(Rule.HEAD_ONLY):
            return True
        names = {row.consumer, ANY} if world.holds(Rule.UNKNOWN_HOLDS) else {row.consumer}
        before = [
            other
            for other in world.waiting + world.dead
            if other.event.resource == row.event.resource
            and other.event.version < row.event.version
            and other.consumer in names
        ]
        return not before


@dataclass(slots=True)
class Healer:
    """Finds a slice, takes the streams' ends as targets, waits for the router, and arms what is missing."""

    world: World
    until: int | None = None
    target: tuple[int, int] | None = None

    def step(self) -> None:
        world = self.world
        if not world.holds(Rule.HEAL) or world.stream is None:
            return
        if self.until is None:
            until = world.now - HEAL_AFTER
            queued = {row.event for row in world.outbox}
            if not queued & set(self._slice(until)):
                self.until = until
        elif self.target is None:
            self.target = (world.stream.identity, world.stream.last)
        else:
            self._check(world.stream)

    def _slice(self, until: int) -> list[Event]:
        log = [e for e in self.world.log if self.world.healed_until < e.made_at <= until]
        return sorted(log, key=lambda event: event.position)

    def _check(self, stream: Stream) -> None:
        world = self.world
        assert self.until is not None
        assert self.target is not None
        identity, last = self.target
        if world.holds(Rule.HEAL_AFTER_ROUTING):
            if (stream.identity, world.position.identity) != (identity, identity) or (
                stream.last < last
            ):
                self.until = self.target = None  # it was lost meanwhile: begin again
                return
            if world.position.sequence < last:
                return
        until, self.until, self.target = self.until, None, None
        missing = [event for event in self._slice(until) if self._is_missing(event)]
        for event in missing:
            world.heals += 1
            number = world.heals if world.holds(Rule.HEAL_UNDER_NEW_ID) else 1
            world.outbox.append(Row(event, f"heal_{number}"))
            world.tell(f"healing arms {event}")
            if not event.lost:
                raise Broken(f"{event} is healed, but the bus has not lost it")
        if not missing or not world.holds(Rule.HEAL_UNTIL_QUIET):
            world.healed_until = max(world.healed_until, until)

    def _is_missing(self, event: Event) -> bool:
        world = self.world
        if any(row.event is event for row in world.outbox_dead + world.outbox):
            return False
        if world.knows(ANY, event):
            return not all(world.knows(consumer, event) for consumer in (FREE, FEED))
        return not all(world.knows(consumer, event) for consumer in CONSUMERS)
