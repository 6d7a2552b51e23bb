"""Dispatch under a held snapshot: an idle transaction keeps every deleted row of the outbox from being vacuumed.

Invariant: the same rounds are run without the transaction first. The dead rows lie before the living ones in the
outbox's index, so this is what a dispatcher reads through while somebody has forgotten a session.
"""

from __future__ import annotations

import os

import asyncpg

from bench.case_dispatch import dispatch_all, fill
from bench.environment import Environment, Result
from billing.services.leases import shard_count

EVENTS = 20_000  # of a round
ROUNDS_VARIABLE = "TOLLWAY_BENCH_HELD_ROUNDS"
ROUNDS_DEFAULT = 5
ROUNDS_MAX = 1_000


async def run(env: Environment) -> list[Result]:
    """The rate of the last round with the snapshot, against that of the last one without."""
    rounds = int(os.environ.get(ROUNDS_VARIABLE, ROUNDS_DEFAULT))
    if not 1 <= rounds <= ROUNDS_MAX:
        raise ValueError(f"{ROUNDS_VARIABLE} must be from 1 to {ROUNDS_MAX}, not {rounds}")
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    for _ in range(2):
        free = await _round(env, shards)
    holder = await asyncpg.connect(env.database_url)
    try:
        await holder.execute(
            "SET idle_in_transaction_session_timeout = 0; SET transaction_timeout = 0"
        )
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await holder.execute("SELECT count(*) FROM topology")
        for _ in range(rounds):
            held = await _round(env, shards)
        await holder.execute("COMMIT")
    finally:
        await holder.close()
    dead = rounds * EVENTS
    note = f"without; {dead:,} deleted rows were held ({ROUNDS_VARIABLE} for more than {ROUNDS_DEFAULT} rounds)"
    return [Result("held_snapshot", held, "events/s", free, note)]


async def _round(env: Environment, shards: int) -> float:
    await fill(env, EVENTS)
    return await dispatch_all(env, shards, EVENTS)
