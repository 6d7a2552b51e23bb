"""Publish path and router, step 0: who owns a shard or a partition.

Invariant: at most one holder per (kind, shard) at any time of the database, and each owner's term is higher than every
earlier one's; so what an earlier owner still does can be told by its term and refused. For the router the term goes
into the position row in the same statement, so a commit of an earlier owner changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import queries.leases

from billing.runtime.db import Connection, Database


class LeaseKind(StrEnum):
    """What is owned."""

    DISPATCHER = "dispatcher"  # a shard of the outbox
    ROUTER = "router"  # a partition of the bus
    SENDER = "sender"  # a shard of the webhook endpoints


@dataclass(frozen=True, slots=True)
class Lease:
    """A shard and the term under which it is held."""

    shard: int
    term: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a holder has after a renewal, and how many living holders share the kind."""

    leases: list[Lease]
    members: int


async def shard_count(database: Database) -> int:
    """How many shards the outbox has, which is how many partitions the bus has."""
    async with database.connection() as connection:
        shards = await queries.leases.get_topology(connection)
    if shards is None:
        raise LookupError("The database has no topology; run the migrations.")
    return shards


async def forget_holders(database: Database) -> None:
    """Frees every lease at once, for an owner of the whole database who has just started: nobody else can be alive.

    Were somebody alive nevertheless, his acts would be refused by the terms of those who take the leases now.
    """
    async with database.transaction() as tx:
        await queries.leases.forget_holders(tx)


async def prepare(database: Database, kind: LeaseKind, shards: int) -> None:
    """Makes the rows of a kind, held by nobody; those that exist stay as they are."""
    async with database.transaction() as tx:
        await queries.leases.ensure_leases(tx, kind=kind, shards=range(shards))
        if kind is LeaseKind.ROUTER:
            await queries.leases.ensure_positions(tx, partitions=range(shards))


async def renew(database: Database, kind: LeaseKind, holder: UUID, *, lease_s: float) -> Holdings:
    """Says that the holder lives, and renews what it has and nobody has taken since."""
    async with database.transaction() as tx:
        await queries.leases.keep_member(tx, kind=kind, holder=holder, lease_s=lease_s)
        members = await queries.leases.count_members(tx, kind=kind)
        rows = await queries.leases.renew_leases(tx, kind=kind, holder=holder, lease_s=lease_s)
    return Holdings([Lease(row.shard, row.term) for row in rows], members or 1)


async def take(
    database: Database, kind: LeaseKind, holder: UUID, *, most: int, lease_s: float
) -> list[Lease]:
    """Takes at most so many free leases, each under a new term."""
    async with database.transaction() as tx:
        return await _take(tx, kind, holder, most, lease_s)


async def _take(
    tx: Connection, kind: LeaseKind, holder: UUID, most: int, lease_s: float
) -> list[Lease]:
    if kind is LeaseKind.ROUTER:
        parts = await queries.leases.take_partitions(
            tx, kind=kind, holder=holder, most=most, lease_s=lease_s
        )
        return [Lease(row.shard, row.term) for row in parts]
    rows = await queries.leases.take_leases(
        tx, kind=kind, holder=holder, most=most, lease_s=lease_s
    )
    return [Lease(row.shard, row.term) for row in rows]


async def release(
    database: Database, kind: LeaseKind, holder: UUID, shards: Collection[int]
) -> None:
    """Gives shards up at once, for somebody else to take."""
    async with database.transaction() as tx:
        await queries.leases.release_leases(tx, kind=kind, holder=holder, shards=sorted(shards))


async def leave(database: Database, kind: LeaseKind, holder: UUID, shards: Collection[int]) -> None:
    """Gives up everything and the membership: the others' shares grow at once."""
    async with database.transaction() as tx:
        await queries.leases.release_leases(tx, kind=kind, holder=holder, shards=sorted(shards))
        await queries.leases.delete_members(tx, kind=kind, holder=holder)
