"""The dispatcher's reads go by their indexes, also when the statistics are wrong."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import queries.outbox

from tests.conftest import Databases

ROWS = (
    "INSERT INTO outbox (event_id, tenant_id, shard, position, subject, resource)"
    " SELECT uuidv7(), gen_random_uuid(), n % 4, n, 's', 'r' || n FROM generate_series(1, 20000) n"
)


async def plan_of(connection: asyncpg.Connection[asyncpg.Record], name: str, call: str) -> str:
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS off, TIMING off) EXECUTE {name}{call}")
    return "\n".join(row[0] for row in rows)


async def test_the_head_of_a_shard_is_read_without_a_sort_whatever_the_statistics_say(
    databases: Databases,
) -> None:
    connection = await asyncpg.connect(databases.url)
    try:
        await connection.execute(f"PREPARE pending AS {queries.outbox.LIST_PENDING}")
        hundred = "'{100,100,100,100}'"
        tenants = f"array_fill('{UUID(int=0)}'::uuid, '{{4}}')"
        call = f"('{{0,1,2,3}}', '{{0,0,0,0}}', {tenants}, {hundred}, {hundred}, '{{}}', now())"
        for statistics in (
            "SELECT 1",
            "ANALYZE outbox",
            "DELETE FROM outbox WHERE position > 100; ANALYZE outbox",
        ):
            await connection.execute("DELETE FROM outbox")
            await connection.execute(ROWS)
            await connection.execute(statistics)
            await connection.execute("DELETE FROM outbox; " + ROWS)
            for mode in ("force_custom_plan", "force_generic_plan"):
                await connection.execute(f"SET plan_cache_mode = {mode}")
                plan = await plan_of(connection, "pending", call)
                assert "Index Scan using outbox_in_order on outbox q" in plan, plan
                assert "Seq Scan on outbox" not in plan.replace("outbox_dead_letters", ""), plan
                # One sort of what is answered, none of what waits.
                assert "rows=400.00" in plan, plan
                assert "rows=5000.00" not in plan, plan
    finally:
        await connection.close()


async def test_published_rows_are_deleted_by_their_key(databases: Databases) -> None:
    connection = await asyncpg.connect(databases.url)
    try:
        await connection.execute(ROWS)
        await connection.execute("ANALYZE outbox")
        await connection.execute(f"PREPARE done AS {queries.outbox.DELETE_PUBLISHED}")
        ids = await connection.fetchval(
            "SELECT array_agg(event_id)::text FROM (SELECT event_id FROM outbox LIMIT 500) AS head"
        )
        plan = await plan_of(connection, "done", f"('{ids}', 'first', '{{0}}', '{{1}}')")
        assert "using outbox_pkey on outbox" in plan
    finally:
        await connection.close()
