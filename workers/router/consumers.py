"""Router, step 2: who gets what. The one table of consumers.

Invariant: an event goes to each consumer that wants its subject, to none twice, and in the order of this table; a
subject that nobody here knows is kept until a release does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Self
from uuid import UUID

from billing.runtime.db import Connection
from billing.services.consumer_starts import BEGINNING, Starts
from billing.services.consumers import ORDERED
from billing.services.events import SCHEMA_VERSION
from billing.services.incoming import Handler, Incoming
from billing.services.routing import CONSUMER_LENGTH_MAX, CONSUMERS_MAX
from billing.services.subjects import CUSTOM_PREFIX

Handlers = Mapping[str, Handler]


@dataclass(frozen=True, slots=True)
class Consumer:
    """A named group of handlers; `subjects` is None for one that takes everything.

    `ordered`: its events of one resource must come in order, so what waits holds back what follows.
    """

    name: str
    subjects: frozenset[str] | None
    handle: Handler
    ordered: bool = False

    @classmethod
    def of(cls, name: str, handlers: Handlers, *, ordered: bool = False) -> Self:
        """A consumer with a handler per subject."""
        return cls(name, frozenset(handlers), _by_subject(handlers), ordered)


def _by_subject(handlers: Handlers) -> Handler:
    """Each handler gets its events together, in the order of the first of each; one handler gets all at once."""
    if len(set(handlers.values())) == 1:
        return next(iter(handlers.values()))

    async def handle(tx: Connection, events: Sequence[Incoming], now: datetime) -> set[UUID]:
        groups: dict[Handler, list[Incoming]] = {}
        for event in events:
            groups.setdefault(handlers[event.subject], []).append(event)
        waiting: set[UUID] = set()
        for handler, group in groups.items():
            waiting.update(await handler(tx, group, now))
        return waiting

    return handle


def house_consumers(*, invoice_grace: timedelta) -> tuple[Consumer, ...]:
    """The consumers of the house, in the order in which they get an event.

    Handlers are imported here, so that a router with other consumers needs none of them.
    """
    from billing.services import (
        cycles,
        event_feed,
        invoice_drafts,
        subscription_lifecycle,
        usage_fold,
        webhook_fanout,
    )

    subscriptions: Handlers = {"subscription.created": subscription_lifecycle.start_due}
    usage: Handlers = {"usage.reported": usage_fold.fold}
    schedule: Handlers = {
        "subscription.created": cycles.follow_subscription,
        "subscription.status.changed": cycles.follow_subscription,
    }
    invoices: Handlers = {
        "billing.cycle.closed": partial(invoice_drafts.draft_for_cycles, grace=invoice_grace),
        "rating.completed": invoice_drafts.note_rating,
    }
    return (
        _grouped("subscription", subscriptions),
        _grouped("usage", usage),
        _grouped("scheduler", schedule),
        _grouped("invoice", invoices),
        Consumer("webhooks", None, webhook_fanout.fan_out),
        Consumer("feed", None, event_feed.append),
    )


def _grouped(name: str, handlers: Handlers) -> Consumer:
    return Consumer.of(name, handlers, ordered=name in ORDERED)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a subject goes: a bit per consumer's place. `unknown` waits for a release that knows it."""

    wanted: int
    unknown: bool = False


class Routes:
    """The table, turned over: from a subject to its consumers."""

    def __init__(
        self,
        consumers: Sequence[Consumer],
        known: frozenset[str],
        starts: Starts = MappingProxyType({}),
    ) -> None:
        if len(consumers) > CONSUMERS_MAX:
            raise ValueError(f"At most {CONSUMERS_MAX} consumers, not {len(consumers)}.")
        if long := [c.name for c in consumers if len(c.name.encode()) > CONSUMER_LENGTH_MAX]:
            raise ValueError(f"A consumer's name has at most {CONSUMER_LENGTH_MAX} bytes: {long}")
        self.consumers = tuple(consumers)
        self.names = [consumer.name for consumer in consumers]
        self.ordered = [consumer.name for consumer in consumers if consumer.ordered]
        self._firsts = [starts.get(name, BEGINNING) for name in self.names]
        self._newest = max(self._firsts, default=BEGINNING)
        self._added_later = self._newest != BEGINNING
        self._places = {name: place for place, name in enumerate(self.names)}
        self._all_takers = self._bits(lambda consumer: consumer.subjects is None)
        named = {s for consumer in consumers for s in consumer.subjects or ()}
        self._routes = {subject: Route(self._wanting(subject)) for subject in known | named}

    def of(self, subject: str, schema_version: int = SCHEMA_VERSION) -> Route:
        """The route of an event. What is newer than this release goes only to those that take everything."""
        route = self._routes.get(subject)
        if route is not None and schema_version <= SCHEMA_VERSION:
            return route
        if route is None and subject.startswith(CUSTOM_PREFIX):
            return Route(self._all_takers)
        return Route(self._all_takers, unknown=True)

    def addressed(self, route: Route, target: str) -> Route:
        """The route of a replayed event that is for one consumer, or (`!name`) for all but one."""
        place = self._places.get(target.removeprefix("!"))
        bit = 0 if place is None else 1 << place
        if target.startswith("!"):
            return Route(route.wanted & ~bit, route.unknown)
        return Route(route.wanted & bit)

    def begun(self, wanted: int, event_id: UUID) -> int:
        """Those of the wanting consumers that the event is not too old for."""
        if not self._added_later or event_id >= self._newest:
            return wanted
        return wanted & self._bits_at(
            p for p, first in enumerate(self._firsts) if event_id >= first
        )

    def late(self, subject: str, schema_version: int, event_id: UUID) -> list[Consumer] | None:
        """Who still has to get an event that waited as unknown; None when it still is."""
        route = self.of(subject, schema_version)
        if route.unknown:
            return None
        late = self.begun(route.wanted, event_id) & ~self._all_takers
        return [c for place, c in enumerate(self.consumers) if late >> place & 1]

    def consumer(self, name: str) -> Consumer | None:
        """The consumer of this name; None for one of another release."""
        place = self._places.get(name)
        return None if place is None else self.consumers[place]

    def _wanting(self, subject: str) -> int:
        return self._bits(lambda c: c.subjects is None or subject in c.subjects)

    def _bits(self, wants: Callable[[Consumer], bool]) -> int:
        return self._bits_at(place for place, c in enumerate(self.consumers) if wants(c))

    @staticmethod
    def _bits_at(places: Iterable[int]) -> int:
        return sum(1 << place for place in places)
