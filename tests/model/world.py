"""What there is: the database's tables, the streams, the leases. Every method is one transaction or one request.

One shard, since shards know nothing of each other; two processes of each role, one of which has the lease.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from tests.model.rules import Rule

ORDERED: Final = "ordered"
FREE: Final = "free"
FEED: Final = "feed"
CONSUMERS: Final = (ORDERED, FREE, FEED)
ANY: Final = "*"
FIRST: Final = "first"
ATTEMPTS_MAX: Final = 2
FOR_EVER: Final = 1_000_000


class Broken(Exception):
    """The run has shown something that must never happen."""


@dataclass(slots=True, eq=False)
class Event:
    """One event, and what chance has in store for it."""

    number: int
    resource: int
    version: int
    position: int
    made_at: int
    is_new: bool  # a subject that only the later release knows
    failures: Counter[str] = field(
        default_factory=Counter
    )  # how often each consumer will fail on it
    refused: bool = False  # by the bus, until an operator mends it
    lost: bool = False  # by the bus, after it had acknowledged it

    def __repr__(self) -> str:
        return f"e{self.number}"


@dataclass(slots=True, eq=False)
class Row:
    """A publication that is still to be made."""

    event: Event
    purpose: str
    attempts: int = 0

    @property
    def bus_id(self) -> str:
        return f"{self.event}:{self.purpose}"


@dataclass(slots=True, eq=False)
class Waiting:
    """An event that a consumer could not handle yet."""

    consumer: str
    event: Event
    attempts: int = 0


@dataclass(slots=True, eq=False)
class Stream:
    """What the bus holds. `window` are the ids that it drops."""

    identity: int
    messages: dict[int, Row] = field(default_factory=dict)
    last: int = 0
    window: set[str] = field(default_factory=set)

    def begin(self) -> int:
        """One before the first that is left."""
        return min(self.messages, default=self.last + 1) - 1


@dataclass(slots=True)
class Lease:
    """Who owns the shard, and how many owners there have been."""

    owner: int = 0
    term: int = 1


@dataclass(slots=True)
class Position:
    """How far the router has come, guarded by all of it."""

    identity: int
    sequence: int = 0
    term: int = 1
    fed: int = 0


class World:
    """Everything that outlives a process."""

    def __init__(self, seed: int, without: Collection[Rule] = ()) -> None:
        self.chance = random.Random(seed)
        self.without = frozenset(without)
        self.now = 10
        self.calm = False  # at the end: no more faults
        self.told: list[str] = []
        # The log, and transactions that are still open.
        self.log: list[Event] = []
        self.open: list[Event] = []
        self.versions: Counter[int] = Counter()
        self.drawn = 0
        # The publish path.
        self.outbox: list[Row] = []
        self.outbox_dead: list[Row] = []
        self.claims: list[list[Row]] = [[], []]  # what each dispatcher has read
        self.streams_made = 0
        self.stream: Stream | None = None
        self.make_stream()
        self.leases = {"dispatcher": Lease(), "router": Lease()}
        # The router.
        self.position = Position(identity=1)
        self.inbox: set[tuple[str, Event]] = set()
        self.waiting: list[Waiting] = []
        self.dead: list[Waiting] = []
        self.effects: dict[str, list[Event]] = {name: [] for name in CONSUMERS}
        self.feed: list[tuple[int, Event]] = []
        self.discarded: set[tuple[str, Event]] = set()
        # Healing, and a reader of the feed.
        self.healed_until = -1
        self.heals = 0
        self.cursor = 0
        self.watched: list[Event] = []

    def holds(self, rule: Rule) -> bool:
        return rule not in self.without

    def tell(self, what: str) -> None:
        self.told.append(f"{self.now}: {what}")

    def happens(self, probability: float) -> bool:
        """Whether a fault happens now."""
        return not self.calm and self.chance.random() < probability

    # --- producers

    def begin(self, resource: int, *, troubled: bool) -> None:
        """A transaction with one event: version and position are drawn under the resource's lock."""
        self.versions[resource] += 1
        self.drawn += 1
        event = Event(
            len(self.log) + len(self.open) + 1,
            resource,
            self.versions[resource],
            self.drawn,
            self.now,
            is_new=self.chance.random() < 0.2,
        )
        if troubled and self.chance.random() < 0.3:
            event.failures[self.chance.choice((ORDERED, FREE))] = self.chance.choice((1, FOR_EVER))
        event.refused = troubled and self.chance.random() < 0.15
        self.open.append(event)
        self.tell(f"begin {event} of resource {resource}, version {event.version}")

    def commit(self, event: Event) -> None:
        self.open.remove(event)
        self.log.append(event)
        self.outbox.append(Row(event, FIRST))
        self.tell(f"commit {event}")

    # --- the bus

    def make_stream(self) -> None:
        self.streams_made += 1
        self.stream = Stream(self.streams_made)

    def put(self, stream: Stream, row: Row) -> None:
        """The bus takes one message, unless it remembers the id."""
        if row.bus_id in stream.window:
            return
        stream.last += 1
        stream.window.add(row.bus_id)
        stream.messages[stream.last] = row
        if stream.identity == self.position.identity and stream.last <= self.position.sequence:
            row.event.lost = True  # the stream went back unseen, and this stands where was read

    def lose(self, stream: Stream, sequences: Collection[int]) -> None:
        """The bus forgets messages; what was not routed is lost to it."""
        for sequence in sequences:
            row = stream.messages.pop(sequence)
            stream.window.discard(row.bus_id)
            row.event.lost = True

    # --- the consumers' side

    def is_held(self, event: Event, *, by_unknown: bool) -> bool:
        """Whether an earlier event of the resource stands in an ordered consumer's way."""
        rows = self.waiting + self.dead
        if self.holds(Rule.FOLLOWERS_WAIT) and any(
            row.consumer == ORDERED and row.event.resource == event.resource for row in rows
        ):
            return True
        return by_unknown and any(
            row.consumer == ANY and row.event.resource == event.resource for row in self.waiting
        )

    def knows(self, consumer: str, event: Event) -> bool:
        """Whether the consumer has it, or has it waiting or dead."""
        return (consumer, event) in self.inbox or any(
            row.event is event and row.consumer == consumer for row in self.waiting + self.dead
        )

    def handle(self, consumer: str, event: Event) -> None:
        """The effect."""
        self.effects[consumer].append(event)
        if consumer == FEED:
            self.position.fed += 1
            self.feed.append((self.position.fed, event))

    def read_feed(self) -> None:
        """A watcher reads on from its cursor."""
        for place, event in sorted(self.feed, key=lambda item: item[0]):
            if place > self.cursor:
                self.watched.append(event)
        self.cursor = max([self.cursor, *(place for place, _ in self.feed)])
