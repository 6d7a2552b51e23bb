"""Publish path and router, beside them: operators pause a shard, a consumer or a tenant, and resume it.

Invariant: a pause of the router is made and ended under the lock of every position row, so a cycle comes before it or
after it; a partition never stops, since what is paused waits in router_waiting or in the outbox. No attempt is counted
meanwhile, and what was parked goes, in order, before what comes later on its resource. Who ordered it, and why, is in
the audit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.leases
import queries.pauses
from queries.models import Pause
from queries.pauses import FindRouterPausesRow as RouterPauses

from billing.domain.errors import Exhausted, Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.services.consumers import Wanted
from billing.services.tenants import get_tenant

__all__ = ["Pause", "PauseTarget", "apply", "list_pauses", "pause", "resume", "router_pauses"]

PAUSES_MAX: Final = 1_000


class ConsumerNotFound(NotFound):
    """The router has no such consumer."""

    reason = "CONSUMER_NOT_FOUND"


class ShardNotFound(NotFound):
    """There is no such shard; they are numbered from 0."""

    reason = "SHARD_NOT_FOUND"


class AlreadyPaused(Precondition):
    """It is paused already; resume it first to pause it for another reason."""

    reason = "ALREADY_PAUSED"


class NotPaused(Precondition):
    """It is not paused; `tollway ops status` shows what is."""

    reason = "NOT_PAUSED"


class TooManyPauses(Exhausted):
    """As many pauses as there may be at once; resume some of them."""

    reason = "TOO_MANY_PAUSES"


@dataclass(frozen=True, slots=True)
class PauseTarget:
    """One of the three: a shard of the dispatcher, a consumer of the router, or a tenant."""

    shard: int | None = None
    consumer: str | None = None
    tenant_id: UUID | None = None

    @property
    def name(self) -> str:
        """As the audit names it."""
        if self.tenant_id is not None:
            return encode(Prefix.TENANT, self.tenant_id)
        return f"consumer/{self.consumer}" if self.consumer else f"shard/{self.shard}"


@dataclass(frozen=True, slots=True)
class PauseOrder:
    """Who pauses it, and why."""

    actor: str
    reason: str


async def pause(
    tx: Connection, target: PauseTarget, order: PauseOrder, wanted: Wanted, *, now: datetime
) -> Pause:
    """Pauses it: when this is committed, nothing of it is begun any more; what is on its way to the bus arrives there.

    Raises AlreadyPaused, ConsumerNotFound, ShardNotFound, TenantNotFound or TooManyPauses.
    """
    await _require(tx, target, wanted)
    await _lock(tx, target)
    paused = await queries.pauses.count_pauses(tx) or 0
    if paused >= PAUSES_MAX:
        raise TooManyPauses(metadata={"limit": str(PAUSES_MAX)})
    made = await queries.pauses.insert_pause(
        tx,
        shard=target.shard,
        consumer=target.consumer,
        tenant_id=target.tenant_id,
        reason=order.reason,
        actor=order.actor,
        now=now,
    )
    if made is None:
        raise AlreadyPaused(metadata={"target": target.name})
    return made


async def resume(tx: Connection, target: PauseTarget, *, now: datetime) -> Pause:
    """Lets all through that waits, in order. Raises NotPaused."""
    await _lock(tx, target)
    resumed = await queries.pauses.resume_pause(
        tx, shard=target.shard, consumer=target.consumer, tenant_id=target.tenant_id, now=now
    )
    if resumed is None:
        raise NotPaused(metadata={"target": target.name})
    if target.shard is not None:
        await queries.pauses.delete_shard_pause(tx, shard=target.shard)
    hints.wake(hints.OUTBOX)
    return resumed


async def list_pauses(connection: Connection) -> Sequence[Pause]:
    """What is paused, or being resumed, the longest paused first; under a tenant's role its own pause alone."""
    # Those that are being resumed do not count against the limit.
    return await queries.pauses.list_pauses(connection, most=2 * PAUSES_MAX)


async def router_pauses(connection: Connection) -> RouterPauses:
    """Whether any consumer or tenant is paused, or being resumed."""
    found = await queries.pauses.find_router_pauses(connection)
    assert found is not None, "an aggregate without groups returns one row"
    return found


async def apply(tx: Connection, partitions: Collection[int], *, now: datetime, most: int) -> None:
    """Stills what waits for something paused, and makes due what something resumed had stilled, in these partitions.

    Bounded steps, in a transaction that holds the partitions' position rows. A pause whose rows are all due is over.
    """
    state = await router_pauses(tx)
    numbers = sorted(partitions)
    if state.paused:
        await queries.pauses.still_paused(tx, partitions=numbers, now=now, most=most)
    if state.resuming:
        freed = await queries.pauses.release_resumed(tx, partitions=numbers, now=now, most=most)
        if not freed:
            await queries.pauses.delete_resumed(tx)


async def _require(tx: Connection, target: PauseTarget, wanted: Wanted) -> None:
    if target.consumer is not None and target.consumer not in wanted:
        text = f"The router has no consumer {target.consumer!r}; it has {', '.join(wanted)}."
        raise ConsumerNotFound(text, metadata={"consumer": target.consumer})
    if target.shard is not None:
        shards = await queries.leases.get_topology(tx) or 0
        if not 0 <= target.shard < shards:
            raise ShardNotFound(metadata={"shard": str(target.shard), "shards": str(shards)})
    if target.tenant_id is not None:
        await get_tenant(tx, target.tenant_id)
    if target == PauseTarget():
        raise Invalid.field("target", "name a shard, a consumer or a tenant")


async def _lock(tx: Connection, target: PauseTarget) -> None:
    """No transaction of the router is under way then. The dispatcher needs none: it reads the pauses with its rows."""
    if target.shard is None:
        await queries.pauses.lock_router(tx)
