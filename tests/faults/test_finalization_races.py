"""Finalization under fire: many at once, killed at every statement, and usage committed between any two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from billing.runtime.db import DatabaseSettings, Role, connect
from billing.services.draft_claims import FinalizationSettings, OnTestClocks, claim_due, let_go
from billing.services.finalization import finalize, finalize_due
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)
BOUNDARY = utc(2024, 6, 1)
SETTINGS = FinalizationSettings()
FINALIZERS = 20
# How many statements a claim and a finalization have, and a few more: the tests find out.
STATEMENTS_MAX = 60
Hook = Callable[[int], Awaitable[None]]


class Stepping:
    """A transaction that calls `before(n)` ahead of its n-th statement."""

    def __init__(self, tx: Any, before: Hook, first: int = 0) -> None:
        self._tx, self._before, self.count = tx, before, first

    async def _step(self, name: str, *arguments: Any) -> Any:
        await self._before(self.count)
        self.count += 1
        return await getattr(self._tx, name)(*arguments)

    async def execute(self, *arguments: Any) -> Any:
        return await self._step("execute", *arguments)

    async def fetch(self, *arguments: Any) -> Any:
        return await self._step("fetch", *arguments)

    async def fetchrow(self, *arguments: Any) -> Any:
        return await self._step("fetchrow", *arguments)

    async def fetchval(self, *arguments: Any) -> Any:
        return await self._step("fetchval", *arguments)

    async def executemany(self, *arguments: Any) -> Any:
        return await self._step("executemany", *arguments)


async def finalize_stepping(house: Driver, before: Hook) -> int:
    """One claim and one finalization; returns how many statements they had."""
    database, scope = house.databases.worker, OnTestClocks(house.tenant_id)
    async with database.transaction() as tx:
        claim: Any = Stepping(tx, before)
        claimed = await claim_due(claim, scope, SETTINGS, house.now)
    async with database.transaction() as tx:
        work: Any = Stepping(tx, before, claim.count)
        done = await finalize(work, claimed, now=house.now)
    async with database.transaction() as tx:
        await let_go(tx, done.left, done.blocked, SETTINGS, house.now)
    return int(work.count)


async def due_house(databases: Databases) -> Driver:
    """A tenant with two due drafts, of the activation and of a period in which 10 minutes were used."""
    house = await house_of(databases, BOUNDARY + HOUR / 2)
    await house.customer("UA")
    await house.plan(fee="2.00", per_minute="1.00")
    await house.subscribe(start_at=START)
    await house.use(START + DAY, "10")
    await house.settle()
    await make_due(house)
    return house


async def make_due(house: Driver) -> None:
    """As if the grace had passed, and every claim of a dead finalizer had run out."""
    await house.execute(
        "UPDATE invoices SET finalize_at = $2, retry_at = NULL WHERE status = 'draft' AND tenant_id = $1",
        house.tenant_id,
        BOUNDARY,
    )
    await house.execute(
        "UPDATE usage_periods SET closing_until = NULL WHERE tenant_id = $1", house.tenant_id
    )


async def finish(house: Driver) -> None:
    """What the scheduler and the router do afterwards, until all is final and folded."""
    for _ in range(3):
        await house.deliver()
        await make_due(house)
        scope = OnTestClocks(house.tenant_id)
        await finalize_due(house.databases.worker, SETTINGS, now=house.now, scope=scope)
    await house.deliver()
    unfolded = "SELECT count(*) FROM usage_records WHERE tenant_id = $1 AND NOT folded"
    assert await house.value(unfolded, house.tenant_id) == 0


async def billed_and_marked(house: Driver) -> tuple[int, int]:
    """How many minutes the invoices bill, and how many marks ask for an adjustment."""
    row = await house.rows(
        "SELECT (SELECT sum(quantity)::int FROM invoice_lines WHERE tenant_id = $1 AND kind <> 'fee'),"
        " (SELECT count(*) FROM usage_period_marks WHERE tenant_id = $1 AND kind = 'adjust')",
        house.tenant_id,
    )
    return row[0][0], row[0][1]


@pytest.mark.parametrize("counted_on", [True, False], ids=["before the close", "after the close"])
async def test_usage_committed_at_any_point_is_billed_or_marked_for_an_adjustment(
    databases: Databases, counted_on: bool
) -> None:
    seen = set()
    for point in range(STATEMENTS_MAX):
        house = await due_house(databases)
        if not counted_on:
            await house.execute(
                "UPDATE invoices SET closed_at = $1 WHERE status = 'draft'", BOUNDARY
            )

        async def strike(n: int, at: int = point, target: Driver = house) -> None:
            if n == at:
                await target.use(START + 2 * DAY, "5")
                await target.deliver()

        statements = await finalize_stepping(house, strike)
        if point >= statements:
            break
        await finish(house)
        outcome = await billed_and_marked(house)
        assert outcome in {(15, 0), (10, 1)}, f"at statement {point}: {outcome}"
        seen.add(outcome)
    assert point < STATEMENTS_MAX - 1
    assert seen == {(15, 0), (10, 1)}


async def test_a_finalizer_that_dies_at_any_statement_loses_and_doubles_nothing(
    databases: Databases,
) -> None:
    class Died(Exception):
        pass

    whole = await due_house(databases)
    await finish(whole)
    expected = await whole.book()
    for point in range(STATEMENTS_MAX):
        house = await due_house(databases)

        async def die(n: int, at: int = point) -> None:
            if n == at:
                raise Died

        try:
            await finalize_stepping(house, die)
        except Died:
            assert {row["status"] for row in await house.invoices()} == {"draft"}
            await finish(house)
        else:
            break
        assert await house.book() == expected
        assert sorted(row["number"] for row in await house.invoices()) == [
            "INV-000001",
            "INV-000002",
        ]
        told = (
            "SELECT count(*) FROM billing_events WHERE tenant_id = $1 AND subject = 'usage.billed'"
        )
        assert await house.value(told, house.tenant_id) == 1
    assert 0 < point < STATEMENTS_MAX - 1


async def test_twenty_finalizers_at_once_leave_no_gap_and_draw_no_number_twice(
    databases: Databases,
) -> None:
    houses = [await house_of(databases, mode="live") for _ in range(3)]
    for house in houses:
        await house.plan(fee="3.00", per_minute="0.50")
        for n in range(20):
            await house.customer(f"C{n}")
            await house.subscribe(f"C{n}", start_at=house.now - 31 * DAY - n * HOUR)
            await house.use(house.now - 30 * DAY, str(n), f"C{n}")
    await houses[0].settle()
    await houses[0].execute("UPDATE invoices SET finalize_at = now() - interval '1 s'")
    wide = await connect(databases.url, Role.WORKER, DatabaseSettings(connections_max=20))

    async def work() -> None:
        settings = FinalizationSettings(batch_max=7)
        while await houses[0].value("SELECT count(*) FROM invoices WHERE status = 'draft'"):
            await finalize_due(wide, settings, now=houses[0].now)

    await asyncio.gather(*(work() for _ in range(20)))
    await wide.close()

    for house in houses:
        invoices = await house.invoices()
        assert len(invoices) >= 40
        numbers = sorted(row["number"] for row in invoices)
        assert numbers == [f"INV-{n:06}" for n in range(1, len(invoices) + 1)]
        last = "SELECT last FROM invoice_sequences WHERE tenant_id = $1 AND kind = 'invoice'"
        assert await house.value(last, house.tenant_id) == len(invoices)
        in_order = sorted(invoices, key=lambda row: row["number"])
        stamps = [row["finalized_at"] for row in in_order]
        assert stamps == sorted(stamps)
        total = sum(row["total"] for row in invoices)
        assert total == len(invoices) * 300 + sum(range(20)) * 50


async def test_twenty_finalizers_that_wait_for_one_sequence_draw_from_it_in_turn(
    databases: Databases,
) -> None:
    """Each has computed its invoice and stands before the number, which somebody holds until all of them wait."""
    house = await house_of(databases, mode="live")
    await house.plan(fee="3.00")
    for n in range(FINALIZERS):
        await house.customer(f"C{n}")
        await house.subscribe(f"C{n}")
    await house.settle()
    await house.execute("UPDATE invoices SET finalize_at = now() - interval '1 s'")
    wide = await connect(databases.url, Role.WORKER, DatabaseSettings(connections_max=25))

    async def work() -> int:
        async with wide.transaction() as tx:
            claimed = await claim_due(tx, None, FinalizationSettings(batch_max=1), house.now)
        claims.append(1)
        if len(claims) == FINALIZERS:
            all_claimed.set()
        await all_claimed.wait()
        async with wide.transaction() as tx:
            return len((await finalize(tx, claimed, now=house.now)).invoices)

    claims: list[int] = []
    all_claimed = asyncio.Event()
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    async with wide.transaction() as holding:
        await holding.execute("SELECT FROM invoice_sequences FOR NO KEY UPDATE")
        working = [asyncio.create_task(work()) for _ in range(FINALIZERS)]
        while await house.value(waiting) < FINALIZERS:
            await asyncio.wait(working, timeout=0.002)
            assert not any(task.done() for task in working)
        assert await house.value("SELECT count(*) FROM invoices WHERE number IS NOT NULL") == 0
    assert await asyncio.gather(*working) == [1] * FINALIZERS
    await wide.close()

    numbers = sorted(row["number"] for row in await house.invoices())
    assert numbers == [f"INV-{n:06}" for n in range(1, FINALIZERS + 1)]
