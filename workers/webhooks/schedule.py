"""Webhook path, step 2: whose turn it is. Pure and in memory; times are seconds of a monotonic clock, handed in.

Invariant: an endpoint never has more open exchanges than its cap, and begins no more in a second than its rate; slots
are held for 50 ms at most, so endpoints that hang cannot keep them; and each turn takes the newest arrival, the oldest
endpoint at work and the oldest waiting, the tenants in turn, so neither a backlog nor a flood of arrivals, nor a tenant
with thousands of endpoints, keeps anybody out.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from workers.webhooks.settings import SenderSettings
from workers.webhooks.turns import Lane, Turns

# What an idle endpoint's cap was is forgotten after this; it grows again within a few answers.
FORGET_AFTER_S: Final = 600.0


@dataclass(slots=True, eq=False)
class Exchange:
    """One claimed delivery, from the claim until its result is committed."""

    lane: Lane
    began_at: float
    slow: bool = False


class Schedule:
    """The lanes, the slots and the queues. `choose` and `settle` frame a claim, `end` and `commit` an exchange."""

    def __init__(self, settings: SenderSettings) -> None:
        self._settings = settings
        self._lanes: dict[UUID, Lane] = {}
        # Lanes that could be claimed for, in the order in which they came to be so; a lane is in one queue or none.
        self._fresh, self._busy, self._bad = Turns(), Turns(), Turns()
        # Open exchanges by age: those that hold a slot, those that may still become slow, those that have.
        self._young: dict[Exchange, None] = {}
        self._aging: dict[Exchange, None] = {}
        self._slow: dict[Exchange, None] = {}
        # Lanes that asked for time, by when it ends; an entry whose lane was held anew is ignored.
        self._held: list[tuple[float, UUID]] = []
        self._reserved = 0

    @property
    def free_slots(self) -> int:
        """How many exchanges may begin now."""
        held = len(self._young) + self._reserved
        open_now = held + len(self._aging) + len(self._slow)
        return max(0, min(self._settings.slots - held, self._settings.open_max - open_now))

    @property
    def waits(self) -> bool:
        """Whether a claim could be made now."""
        bad = self._bad and self._bad_allowed
        return bool(self._fresh or self._busy or bad) and self.free_slots > 0

    @property
    def _bad_allowed(self) -> bool:
        return len(self._slow) < self._settings.bad_open_max

    @property
    def open_exchanges(self) -> int:
        """How many exchanges are posting."""
        return len(self._young) + len(self._aging) + len(self._slow)

    @property
    def next_release(self) -> float | None:
        """When the next hold ends; None when nobody is held."""
        return self._held[0][0] if self._held else None

    def arrive(self, tenant_id: UUID, webhook_id: UUID, at: float) -> None:
        """Something is, or may be, due for this endpoint."""
        lane = self._lane(tenant_id, webhook_id, at)
        if not lane.due:
            lane.due = True
            self._queue(lane)

    def _lane(self, tenant_id: UUID, webhook_id: UUID, at: float) -> Lane:
        lane = self._lanes.get(webhook_id)
        if lane is None:
            lane = self._lanes[webhook_id] = Lane(tenant_id, webhook_id)
        lane.touched_at = at
        return lane

    def choose(self) -> dict[UUID, int]:
        """Whom to claim for, and how many rows at most; they are reserved until `settle`."""
        rows = min(self._settings.claim_rows_max, self.free_slots)
        chosen: dict[UUID, int] = {}
        for _ in range(self._settings.bad_per_claim_max if self._bad_allowed else 0):
            if self._bad and rows > len(chosen):
                self._take(self._bad.oldest(), 1, chosen)
        rows -= len(chosen)
        while rows > 0 and (self._fresh or self._busy):
            for queue, take in (
                (self._fresh, Turns.newest),
                (self._busy, Turns.oldest),
                (self._fresh, Turns.oldest),
            ):
                if rows > 0 and queue:
                    rows -= self._take(take(queue), rows, chosen)
        return chosen

    def _take(self, lane: Lane, most: int, chosen: dict[UUID, int]) -> int:
        room = min(lane.cap - lane.open, most)
        if lane.rate:
            room = min(room, max(1, int(lane.rate * self._settings.pace_s)))
        lane.open += room
        # What arrives while the claim is under way sets it again.
        lane.due = False
        self._reserved += room
        chosen[lane.webhook_id] = room
        return room

    def settle(
        self,
        chosen: Mapping[UUID, int],
        got: Mapping[UUID, int],
        at: float,
        rates: Mapping[UUID, int] | None = None,
    ) -> None:
        """A claim is done: what was not got is free again. Whoever got all that was asked for may have more due.

        `rates` are those of the endpoints that got something; one with a limit is held for what it has used of it.
        """
        for webhook_id, room in chosen.items():
            lane, count = self._lanes[webhook_id], got.get(webhook_id, 0)
            if count and rates is not None:
                lane.rate = rates[webhook_id]
            if count and lane.rate:
                self._hold(lane, at + count / lane.rate)
            lane.open -= room - count
            lane.due = lane.due or count == room
            lane.touched_at = at
            self._reserved -= room
            self._queue(lane)

    def abandon(self, chosen: Mapping[UUID, int], at: float) -> None:
        """A claim failed: nothing is known, so all may still be due."""
        self.settle(chosen, {}, at)
        for webhook_id in chosen:
            self.arrive(self._lanes[webhook_id].tenant_id, webhook_id, at)

    def begin(self, webhook_id: UUID, at: float) -> Exchange:
        """One of the rows that `settle` was told of is posted; it holds a slot."""
        exchange = Exchange(self._lanes[webhook_id], at)
        self._young[exchange] = None
        return exchange

    def begin_probe(self, tenant_id: UUID, webhook_id: UUID, at: float) -> Exchange:
        """A row that nobody chose is posted: the probe of a disabled endpoint."""
        lane = self._lane(tenant_id, webhook_id, at)
        lane.open += 1
        return self.begin(webhook_id, at)

    def age(self, at: float) -> None:
        """Takes slots from exchanges older than 50 ms, makes endpoints bad by those older than 0.5 s, ends holds."""
        _move_older(self._young, self._aging, at - self._settings.slot_s)
        for exchange in _move_older(self._aging, self._slow, at - self._settings.slow_s):
            exchange.slow = True
            self._punish(exchange.lane)
        while self._held and self._held[0][0] <= at:
            until, webhook_id = heapq.heappop(self._held)
            if self._lanes[webhook_id].held_until == until:
                self.release(webhook_id)

    def hold(self, exchange: Exchange, at: float, for_s: float) -> None:
        """The endpoint asked for time: nothing more is claimed for it until that is over."""
        self._hold(exchange.lane, at + min(for_s, self._settings.hold_max_s))

    def _hold(self, lane: Lane, until: float) -> None:
        if until > lane.held_until:
            lane.held_until = until
            heapq.heappush(self._held, (until, lane.webhook_id))
            self._queue(lane)

    def release(self, webhook_id: UUID) -> None:
        """Whatever holds the endpoint is over."""
        lane = self._lanes[webhook_id]
        lane.held_until = 0.0
        self._queue(lane)

    def end(self, exchange: Exchange) -> None:
        """The answer is there, or none will be; the slot is free, the endpoint's room not yet."""
        for ages in (self._young, self._aging, self._slow):
            ages.pop(exchange, None)

    def commit(self, exchange: Exchange, at: float, *, success: bool | None) -> None:
        """The result is committed: the cap moves, and the endpoint may be claimed for again.

        None is neither: the fault was the house's.
        """
        lane = exchange.lane
        lane.open -= 1
        lane.touched_at = at
        if success:
            lane.bad = False
            if not exchange.slow:
                lane.cap = min(lane.cap + 1, self._settings.per_endpoint_max)
        elif success is False:
            self._punish(lane)
        self._queue(lane)

    def _punish(self, lane: Lane) -> None:
        lane.bad, lane.cap = True, max(1, lane.cap // 2)
        self._queue(lane)

    def _queue(self, lane: Lane) -> None:
        queue = self._bad if lane.bad else self._busy if lane.open else self._fresh
        for other in (self._fresh, self._busy, self._bad):
            if other is not queue:
                other.remove(lane)
        if not lane.due or lane.held_until or lane.open >= lane.cap:
            queue.remove(lane)
        else:
            queue.add(lane)

    def forget(self, at: float) -> None:
        """Drops what is idle, so that memory follows the endpoints in use."""
        for lane in [
            lane for lane in self._lanes.values() if lane.touched_at < at - FORGET_AFTER_S
        ]:
            if not lane.open and not lane.due and not lane.held_until:
                del self._lanes[lane.webhook_id]


def _move_older(
    young: dict[Exchange, None], old: dict[Exchange, None], began_before: float
) -> list[Exchange]:
    moved = []
    for exchange in young:  # in the order in which they began
        if exchange.began_at > began_before:
            break
        moved.append(exchange)
    for exchange in moved:
        del young[exchange]
        old[exchange] = None
    return moved
