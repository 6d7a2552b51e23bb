"""Publish path and router, step 0: keeps one process's leases of one kind, and its fair share of them.

Invariant: a worker acts on a shard only while `acting` lets it, that is, while the lease has more time left on a
monotonic clock than the longest act; and a shard is given up only when no act on it is under way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from billing.runtime.db import Database
from billing.services import leases
from billing.services.leases import Lease, LeaseKind


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Times of the leases, in seconds."""

    lease_s: float = 15.0  # after a kill, somebody else takes over within this
    renew_every_s: float = 2.0
    # What must be left of a lease before an act begins: longer than the longest publish or transaction.
    act_margin_s: float = 6.0

    def __post_init__(self) -> None:
        """Refuses times with which a lease could run out between two renewals.

        Raises:
            ValueError: the lease is not longer than two renewals and the margin.
        """
        if self.lease_s <= 2 * self.renew_every_s + self.act_margin_s:
            raise ValueError("lease_s must be longer than two times renew_every_s and act_margin_s")


@dataclass(slots=True)
class _Held:
    term: int
    until: float  # on the monotonic clock, counted from before the statement that renewed it


class LeaseKeeper:
    """Renews, takes and gives up; `step` is run every `renew_every_s`."""

    def __init__(
        self,
        database: Database,
        kind: LeaseKind,
        holder: UUID,
        settings: LeaseSettings,
        *,
        shards: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = kind
        self.holder = holder
        self.settings = settings
        self._database = database
        self._shards = shards
        self._monotonic = monotonic
        self._held: dict[int, _Held] = {}
        self._surplus: set[int] = set()
        self._acts: Counter[int] = Counter()
        self._prepared = False

    def usable(self) -> list[Lease]:
        """The leases under which an act may begin now, by shard."""
        latest = self._monotonic() + self.settings.act_margin_s
        return [
            Lease(shard, held.term)
            for shard, held in sorted(self._held.items())
            if held.until > latest and shard not in self._surplus
        ]

    def may_act(self, lease: Lease) -> bool:
        """Whether the lease is still held under this term, with time enough for another act."""
        held = self._held.get(lease.shard)
        return (
            held is not None
            and held.term == lease.term
            and held.until > self._monotonic() + self.settings.act_margin_s
        )

    @contextmanager
    def acting(self, lease: Lease) -> Iterator[None]:
        """Says that an act on the shard is under way, so that it is not given up meanwhile."""
        self._acts[lease.shard] += 1
        try:
            yield
        finally:
            self._acts[lease.shard] -= 1

    async def step(self) -> int:
        """Renews what is held, gives up what exceeds the fair share, takes what is free; how many were taken."""
        if not self._prepared:
            await leases.prepare(self._database, self.kind, self._shards)
            self._prepared = True
        until = self._monotonic() + self.settings.lease_s
        now_held = await leases.renew(
            self._database, self.kind, self.holder, lease_s=self.settings.lease_s
        )
        self._held = {lease.shard: _Held(lease.term, until) for lease in now_held.leases}
        share = -(-self._shards // now_held.members)
        await self._give_up(share)
        return await self._take(share)

    async def _give_up(self, share: int) -> None:
        # The same shards as chosen before, so that each is idle only once.
        self._surplus &= self._held.keys()
        self._surplus = set(
            sorted(self._held, key=lambda shard: (shard not in self._surplus, -shard))[
                : max(0, len(self._held) - share)
            ]
        )
        if idle := [shard for shard in self._surplus if not self._acts[shard]]:
            await leases.release(self._database, self.kind, self.holder, idle)
            for shard in idle:
                del self._held[shard]
            self._surplus.difference_update(idle)

    async def _take(self, share: int) -> int:
        wanted = share - len(self._held)
        if wanted <= 0:
            return 0
        until = self._monotonic() + self.settings.lease_s
        taken = await leases.take(
            self._database,
            self.kind,
            self.holder,
            most=wanted,
            lease_s=self.settings.lease_s,
        )
        self._held.update((lease.shard, _Held(lease.term, until)) for lease in taken)
        return len(taken)

    async def close(self) -> None:
        """Gives everything up; call it when no act is under way any more."""
        held, self._held = list(self._held), {}
        await leases.leave(self._database, self.kind, self.holder, held)
