"""Publish path, beside it: the number of shards is changed, while nothing is on its way.

Invariant: a resource moves to another shard only when all of its events are behind it: the outbox is empty, every
partition is routed to its end, no dispatcher and no router lives, and whoever wants to emit waits for the commit. So
the order per resource holds across the change. What waits or is dead moves with its resource; the feed stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import queries.router
import queries.topology
from queries.router import ListPositionsRow as Position

from billing.runtime.bus.base import Bus, StreamMissing, StreamState
from billing.runtime.db import Connection, Database
from billing.services.events import resource_hash
from billing.services.leases import shard_count

SHARDS_MIN: Final = 1
SHARDS_MAX: Final = 256
MOVED_RESOURCES_MAX: Final = 10_000
_COUNT_MAX: Final = 1_000_000


class NotDrained(Exception):
    """Something is still on its way; the message says what, and what to do about it."""


async def change_shards(database: Database, bus: Bus, shards: int) -> int:
    """Changes the count, makes the streams, and returns the count before. Needs the workers' role.

    Raises NotDrained, ValueError for a count outside SHARDS_MIN to SHARDS_MAX, and what the bus does when it is away.
    """
    if not SHARDS_MIN <= shards <= SHARDS_MAX:
        raise ValueError(
            f"The number of shards is from {SHARDS_MIN} to {SHARDS_MAX}, not {shards}."
        )
    streams = await _streams(bus, await shard_count(database))
    async with database.transaction() as tx:
        before = await queries.topology.lock_topology(tx)
        assert before is not None, "the migration makes the row"
        await queries.topology.lock_outbox(tx)
        await _require_drained(tx, streams)
        await _move_kept_back(tx, shards)
        await queries.topology.set_shards(tx, shards=shards)
        await queries.topology.drop_shards_from(tx, shards=shards)
    await bus.ensure_streams(shards)
    return before


async def _streams(bus: Bus, shards: int) -> Mapping[int, StreamState]:
    """The streams that there are; one that was never made holds nothing."""
    found = {}
    for partition in range(shards):
        try:
            found[partition] = await bus.stream_state(partition)
        except StreamMissing:
            continue
    return found


async def _require_drained(tx: Connection, streams: Mapping[int, StreamState]) -> None:
    left = await queries.topology.count_undrained(tx, most=_COUNT_MAX)
    assert left is not None, "counts are always a row"
    if left.pending:
        raise NotDrained(
            f"{left.pending} events wait to be published: stop what emits (`tollway serve`) and let the workers finish."
        )
    unrouted = _unrouted(await queries.router.list_positions(tx), streams)
    if unrouted:
        raise NotDrained(f"{unrouted} messages on the bus are not routed: let the routers finish.")
    if left.workers:
        raise NotDrained(
            f"{left.workers} dispatchers and routers are alive: stop the workers (`tollway work`); one that was killed"
            " is forgotten after 15 seconds."
        )


def _unrouted(positions: Sequence[Position], streams: Mapping[int, StreamState]) -> int:
    routed = {p.partition: p.last_sequence for p in positions
              if p.partition in streams and p.stream_identity == streams[p.partition].identity}  # fmt: skip
    return sum(
        max(stream.last_seq - max(routed.get(partition, 0), stream.first_seq - 1), 0)
        for partition, stream in streams.items()
    )


async def _move_kept_back(tx: Connection, shards: int) -> None:
    rows = await queries.topology.list_kept_back(tx, most=MOVED_RESOURCES_MAX + 1)
    if len(rows) > MOVED_RESOURCES_MAX:
        raise NotDrained(
            f"Events of more than {MOVED_RESOURCES_MAX} resources wait or are dead: let them through, redrive or"
            " discard them; `tollway ops waiting` and `tollway ops dead-letters list` show them."
        )
    tenants = [row.tenant_id for row in rows]
    resources = [row.resource for row in rows]
    partitions = [resource_hash(row.tenant_id, row.resource) % shards for row in rows]
    for move in (
        queries.topology.move_waiting,
        queries.topology.move_router_dead_letters,
        queries.topology.move_outbox_dead_letters,
    ):
        await move(tx, tenant_ids=tenants, resources=resources, partitions=partitions)
