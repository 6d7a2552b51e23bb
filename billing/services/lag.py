"""Publish path and router, beside them: how far each part is behind.

Invariant: each count ends at LAG_COUNT_MAX, so that looking at a house in trouble does not add to the trouble; and a
bus that does not answer leaves its figures unknown, never zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import queries.lag
from queries.lag import ListConsumerLagRow as ConsumerLag
from queries.lag import ListPartitionLagRow as Position
from queries.lag import ListShardLagRow as ShardLag

from billing.runtime.bus.base import BusError, Subscriber
from billing.runtime.db import Database
from billing.services.consumers import Wanted
from billing.services.routing import ANY_CONSUMER

__all__ = [
    "LAG_COUNT_MAX",
    "ConsumerLag",
    "Lag",
    "PartitionLag",
    "Position",
    "ShardLag",
    "read_lag",
]

LAG_COUNT_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Where a partition's router stands, and how many messages are behind it; None when the bus does not tell."""

    position: Position
    unrouted: int | None


@dataclass(frozen=True, slots=True)
class Lag:
    """How far all of it is behind."""

    shards: Sequence[ShardLag]
    partitions: Sequence[PartitionLag]
    consumers: Sequence[ConsumerLag]


async def read_lag(database: Database, bus: Subscriber | None, wanted: Wanted) -> Lag:
    """The lag now, for the role of the workers."""
    async with database.connection() as connection:
        shards = await queries.lag.list_shard_lag(connection, most=LAG_COUNT_MAX)
        consumers = await queries.lag.list_consumer_lag(
            connection, consumers=[*wanted, ANY_CONSUMER], most=LAG_COUNT_MAX
        )
        positions = await queries.lag.list_partition_lag(connection)
    unrouted = await asyncio.gather(*[_unrouted(bus, position) for position in positions])
    partitions = [PartitionLag(p, count) for p, count in zip(positions, unrouted, strict=True)]
    return Lag(shards, partitions, consumers)


async def _unrouted(bus: Subscriber | None, position: Position) -> int | None:
    if bus is None:
        return None
    try:
        stream = await bus.stream_state(position.partition)
    except BusError:
        return None
    # Of another stream than the router knows, nothing is routed.
    known = position.last_sequence if position.stream_identity == stream.identity else 0
    return max(stream.last_seq - max(known, stream.first_seq - 1), 0)
