"""Publish path, step 2: which shard's turn it is, and within a shard, which tenant's.

Invariant: no two turns under way share a shard, and every owned shard that may be served gets its turn in the order of
its last one; a shard in an outage has turns of its own, so that its waiting holds up no other. Whatever one tenant
has pending, another's event is read at the latest with the next batch of its shard.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from billing.domain.backoff import ExponentialBackoff
from billing.services.leases import Lease
from billing.services.outbox import NOBODY, Claim, Pending


@dataclass(slots=True, eq=False)
class Shard:
    """One owned shard, from taking its lease to losing it."""

    lease: Lease
    busy: bool = False
    deep: bool = False  # more waits than a shared turn takes
    failures: int = 0  # outages in a row
    retry_at: float = 0.0  # on the monotonic clock
    served_at: float = 0.0
    # How many rows may be read before it is asked again how much of the partition is unrouted.
    room: int = 0
    stream_end: int | None = None  # the partition's last sequence, as far as our own publishes tell
    after_tenant: UUID = NOBODY  # who was served last when not all could be
    heavy: set[UUID] = field(default_factory=set)  # tenants that had more than their share

    def claim(self, rows_max: int) -> Claim:
        """What to read next: the tenants that have much pending share a batch."""
        rows = min(rows_max, self.room)
        share = max(rows // max(len(self.heavy), 1), 1)
        return Claim(self.lease.shard, rows, share, self.after_tenant)

    def note_read(self, claim: Claim, rows: Sequence[Pending], *, cut: bool) -> None:
        """Remembers who had much, and where the next read goes on when this one left tenants out."""
        self.room -= len(rows)
        counts = Counter(row.tenant_id for row in rows)
        heavy = {tenant for tenant, count in counts.items() if count >= claim.tenant_rows_max}
        self.heavy = (self.heavy - counts.keys() | heavy) if cut else heavy
        if cut and rows:
            self.after_tenant = rows[-1].tenant_id

    def note_published(self, count: int, *, known: bool) -> None:
        """The stream has grown by so many at most; not known after an outage, which may have stored what it lost."""
        if self.stream_end is not None:
            self.stream_end = self.stream_end + count if known else None

    def meet_outage(self, backoff: ExponentialBackoff, now: float) -> None:
        """Leaves the shard alone for a while, longer each time."""
        self.failures += 1
        delay = backoff.delay(self.failures, jitter_permille=random.randint(0, 1000))
        self.retry_at = now + delay.total_seconds()

    def recover(self) -> None:
        """The bus has taken something of this shard, or can be reached again."""
        self.failures, self.retry_at = 0, 0.0


class Shards:
    """The owned shards."""

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}

    def all(self) -> list[Shard]:
        """All of them."""
        return list(self._shards.values())

    def own(self, leases: Iterable[Lease]) -> None:
        """Brings the shards in line with the leases that are held now."""
        held = {lease.shard: lease for lease in leases}
        for shard in list(self._shards):
            if held.get(shard) != self._shards[shard].lease:
                del self._shards[shard]
        for number, lease in held.items():
            self._shards.setdefault(number, Shard(lease))

    def next_turn(self, now: float) -> list[Shard]:
        """The shards of the next turn: one that needs a turn of its own, or all the others together; none: empty."""
        free = [shard for shard in self._shards.values() if not shard.busy]
        alone = [s for s in free if (s.deep or s.failures) and s.retry_at <= now]
        together = [s for s in free if not s.deep and not s.failures]
        first = min(alone, key=lambda shard: shard.served_at, default=None)
        if first is not None and (
            not together or first.served_at < min(shard.served_at for shard in together)
        ):
            return [first]
        return together
