"""Publish path, step 2: which shard's turn it is.

Invariant: no two turns under way share a shard, and every owned shard that may be served gets its turn in the order of
its last one; a shard in an outage has turns of its own, so that its waiting holds up no other.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from billing.domain.backoff import ExponentialBackoff
from billing.services.leases import Lease


@dataclass(slots=True, eq=False)
class Shard:
    """One owned shard, from taking its lease to losing it."""

    lease: Lease
    busy: bool = False
    deep: bool = False  # more waits than a shared turn takes
    failures: int = 0  # outages in a row
    retry_at: float = 0.0  # on the monotonic clock
    served_at: float = 0.0

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
