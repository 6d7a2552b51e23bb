"""Publish path, step 2: which queue's turn it is, and within a queue, which tenant's.

Invariant: no two turns under way share a queue, and every queue that may be served gets its turn in the order of its
last one; a queue in an outage has turns of its own, so that its waiting holds up no other. Whatever one tenant has
pending, another's event is read at the latest with the next batch of its queue. While there are both, replays have
small turns of their own, one at a time and with a rest behind each, so that what is live finds a free lane and an idle
disk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from billing.domain.backoff import ExponentialBackoff
from billing.services.leases import Lease
from billing.services.outbox import NOBODY, Claim, Pending, Priority

# When both live events and replays were there within so long, each has turns of its own.
MIXED_S: Final = 1.0


@dataclass(slots=True, eq=False)
class Ahead:
    """How far a shard has published ahead of the router, as `window.py` found it, and what was read since."""

    unrouted: int | None = None  # None: to be looked at
    stream_end: int | None = None  # the partition's last sequence, as far as our own publishes tell


@dataclass(slots=True, eq=False)
class Queue:
    """An owned shard's rows of one priority, from taking the lease to losing it."""

    lease: Lease
    priority: Priority
    ahead: Ahead
    busy: bool = False
    deep: bool = False  # more waits than a shared turn takes
    failures: int = 0  # outages in a row
    retry_at: float = 0.0  # on the monotonic clock
    served_at: float = 0.0
    after_tenant: UUID = NOBODY  # who was served last when not all could be
    heavy: set[UUID] = field(default_factory=set)  # tenants that had more than their share

    @property
    def is_replay(self) -> bool:
        """Whether it can wait for all that is live."""
        return self.priority is Priority.REPLAY

    def claim(self, rows: int) -> Claim:
        """What to read next: the tenants that have much pending share a batch."""
        share = max(rows // max(len(self.heavy), 1), 1)
        return Claim(self.lease.shard, self.priority, rows, share, self.after_tenant)

    def note_read(self, claim: Claim, rows: Sequence[Pending], *, cut: bool) -> None:
        """Remembers who had much, and where the next read goes on when this one left tenants out."""
        if self.ahead.unrouted is not None:
            self.ahead.unrouted += len(rows)
        counts = Counter([row.tenant_id for row in rows])
        heavy = {tenant for tenant, count in counts.items() if count >= claim.tenant_rows_max}
        self.heavy = (self.heavy - counts.keys() | heavy) if cut else heavy
        if cut and rows:
            self.after_tenant = rows[-1].tenant_id

    def note_published(self, count: int, *, known: bool) -> None:
        """The stream has grown by so many at most; not known after an outage, which may have stored what it lost."""
        if self.ahead.stream_end is not None:
            self.ahead.stream_end = self.ahead.stream_end + count if known else None

    def meet_outage(self, backoff: ExponentialBackoff, now: float) -> None:
        """Leaves the queue alone for a while, longer each time."""
        self.failures += 1
        delay = backoff.delay(self.failures, jitter_permille=random.randint(0, 1000))
        self.retry_at = now + delay.total_seconds()

    def recover(self) -> None:
        """The bus has taken something of this queue, or can be reached again."""
        self.failures, self.retry_at = 0, 0.0


class Queues:
    """The queues of the owned shards."""

    def __init__(self) -> None:
        self._queues: dict[tuple[int, Priority], Queue] = {}
        self._read_at = dict.fromkeys(Priority, float("-inf"))
        self._rested_at = float("-inf")  # until then replays make way

    def all(self) -> list[Queue]:
        """All of them."""
        return list(self._queues.values())

    def own(self, leases: Iterable[Lease]) -> None:
        """Brings the queues in line with the leases that are held now."""
        held = {lease.shard: lease for lease in leases}
        for key, queue in list(self._queues.items()):
            if held.get(queue.lease.shard) != queue.lease:
                del self._queues[key]
        for number, lease in held.items():
            if (number, Priority.LIVE) not in self._queues:
                ahead = Ahead()
                for priority in Priority:
                    self._queues[number, priority] = Queue(lease, priority, ahead)

    def note_read(self, priority: Priority, now: float) -> None:
        """Something of this priority was there to publish."""
        self._read_at[priority] = now

    def more_in(self, now: float) -> float | None:
        """In how many seconds what is known to wait may have its turn; None when nothing is known to."""
        deep = [queue for queue in self._queues.values() if queue.deep and not queue.busy]
        turns = [max(q.retry_at, self._rested_at if q.is_replay else 0.0) for q in deep]
        return max(0.0, min(turns) - now) if turns else None

    def mixed(self, now: float) -> bool:
        """Whether there are live events as well as replays."""
        return all(now - read_at <= MIXED_S for read_at in self._read_at.values())

    def rest(self, until: float) -> None:
        """Replays make way until then."""
        self._rested_at = until

    def next_turn(self, now: float) -> list[Queue]:
        """The queues of the next turn: one that needs a turn of its own, or all the others together; none: empty."""
        free = [queue for queue in self._queues.values() if not queue.busy]
        if not self.mixed(now):
            return _turn(free, now)
        live = _turn([queue for queue in free if not queue.is_replay], now)
        replays = [queue for queue in self._queues.values() if queue.is_replay]
        lately = max((queue.served_at for queue in replays), default=now)
        if any(queue.busy for queue in replays) or now < self._rested_at:
            return live
        if live and _served_at(live) <= lately:
            return live
        return _turn(replays, now) or live


def _turn(free: Sequence[Queue], now: float) -> list[Queue]:
    alone = [queue for queue in free if (queue.deep or queue.failures) and queue.retry_at <= now]
    together = [queue for queue in free if not queue.deep and not queue.failures]
    first = min(alone, key=lambda queue: queue.served_at, default=None)
    if first is not None and (not together or first.served_at <= _served_at(together)):
        return [first]
    return together


def _served_at(turn: Sequence[Queue]) -> float:
    return min(queue.served_at for queue in turn)
