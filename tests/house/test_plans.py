"""Every statement finds its rows by an index: a table that grows for ever is never read from end to end."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, Final

import asyncpg

import queries
from tests.conftest import Databases

LOCKS_A_TABLE: Final = re.compile(r"^LOCK TABLE", re.MULTILINE)
GROWING = re.compile(
    r"(billing_events|event_links|event_feed|inbox|usage_records|usage_buckets|usage_periods|usage_period_marks|charges|subscriptions"
    r"|subscription_items|billing_cycles|invoices|invoice_lines|webhook_deliveries|webhook_delivery_attempts|audit_log"
    r"|idempotent_requests|customers|outbox)(_\d.*)?"
)
# Statements that read everything on purpose, with the reason.
WHOLE: dict[str, str] = {}


def statements() -> Iterator[tuple[str, str]]:
    """The name and the text of every statement."""
    for module in pkgutil.iter_modules(queries.__path__):
        loaded = importlib.import_module(f"queries.{module.name}")
        for name, value in vars(loaded).items():
            if name.isupper() and isinstance(value, str) and value.startswith("-- name:"):
                if LOCKS_A_TABLE.search(value):
                    continue  # has no plan
                yield name.lower(), value


def scanned(plan: dict[str, Any]) -> Iterator[str]:
    """The tables that a plan reads from end to end."""
    if plan["Node Type"] == "Seq Scan" and GROWING.fullmatch(plan["Relation Name"]):
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from scanned(part)


async def generic_plan(
    connection: asyncpg.Connection[asyncpg.Record], text: str
) -> dict[str, Any] | None:
    """The plan for any arguments; None for a statement that has none."""
    await connection.execute(f"PREPARE one AS {text}")
    types = await connection.fetchval(
        "SELECT parameter_types FROM pg_prepared_statements WHERE name = 'one'"
    )
    arguments = f"({', '.join('NULL' for _ in types)})" if types else ""
    answer = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE one{arguments}")
    await connection.execute("DEALLOCATE one")
    plan: dict[str, Any] | None = json.loads(answer)[0].get("Plan")
    return plan


async def test_no_statement_reads_a_growing_table_from_end_to_end(databases: Databases) -> None:
    connection = await asyncpg.connect(databases.url, statement_cache_size=0)
    found: dict[str, set[str]] = {}
    explained = 0
    try:
        # Empty tables are cheapest read whole; what counts is whether there is another way at all.
        await connection.execute(
            "SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan"
        )
        for name, text in statements():
            plan = await generic_plan(connection, text)
            explained += 1
            tables = set(scanned(plan)) if plan else set()
            if tables:
                found[name] = tables
    finally:
        await connection.close()
    assert explained > 100
    assert set(found) == set(WHOLE), found
