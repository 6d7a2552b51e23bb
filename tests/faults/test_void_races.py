"""Voids under fire: usage committed between any two statements, and death at each."""

from __future__ import annotations

from typing import Any

import pytest

from billing.services.draft_claims import FinalizationSettings, OnTestClocks
from billing.services.finalization import finalize_due
from billing.services.invoice_voids import VoidOrder, void_invoice
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of
from tests.faults.test_finalization_races import BOUNDARY, START, Hook, Stepping, make_due

STATEMENTS_MAX = 40
SETTINGS = FinalizationSettings()
# What final invoices that count carry for the month's usage, and how many marks ask for an adjustment.
BILLED = """
SELECT coalesce(sum(l.amount), 0)::int AS billed,
       (SELECT count(*) FROM usage_period_marks m WHERE m.tenant_id = $1 AND m.kind = 'adjust') AS marks
FROM invoice_lines l
JOIN invoices i ON i.tenant_id = l.tenant_id AND i.id = l.invoice_id
WHERE l.tenant_id = $1 AND (i.status IN ('open', 'paid') OR i.waived)
"""


async def open_house(databases: Databases) -> Driver:
    """A tenant with one open invoice, of 10 minutes at 1.00."""
    house = await house_of(databases, BOUNDARY + HOUR / 2)
    await house.customer("UA")
    await house.plan(per_minute="1.00")
    await house.subscribe(start_at=START)
    await house.use(START + DAY, "10")
    await house.settle()
    await finalize_all(house)
    return house


async def finalize_all(house: Driver) -> None:
    await make_due(house)
    scope = OnTestClocks(house.tenant_id)
    await finalize_due(house.databases.worker, SETTINGS, now=house.now, scope=scope)


async def void_stepping(house: Driver, order: VoidOrder, before: Hook) -> int:
    """Voids the open invoice; returns how many statements that had."""
    (row,) = [row for row in await house.invoices() if row["status"] == "open"]
    async with house.databases.worker.transaction() as tx:
        work: Any = Stepping(tx, before)
        await void_invoice(work, house.tenant_id, row["id"], order, house.cause(), now=house.now)
    return int(work.count)


async def billed_and_marks(house: Driver) -> tuple[int, int]:
    (row,) = await house.rows(BILLED, house.tenant_id)
    return row["billed"], row["marks"]


@pytest.mark.parametrize("reissue", [True, False], ids=["made again", "waived"])
async def test_usage_committed_at_any_point_of_a_void_is_billed_or_marked(
    databases: Databases, reissue: bool
) -> None:
    for point in range(STATEMENTS_MAX):
        house = await open_house(databases)

        async def strike(n: int, at: int = point, target: Driver = house) -> None:
            if n == at:
                await target.use(START + 2 * DAY, "5")
                await target.deliver()

        statements = await void_stepping(house, VoidOrder(reissue), strike)
        if point >= statements:
            break
        await house.deliver()
        await finalize_all(house)
        # Made again it bills all 15; waived, the 10 count as billed and the 5 are the next invoice's.
        assert await billed_and_marks(house) == ((1500, 0) if reissue else (1000, 1)), point
    assert 0 < point < STATEMENTS_MAX - 1


async def test_a_void_that_dies_at_any_statement_leaves_the_invoice_open(
    databases: Databases,
) -> None:
    class Died(Exception):
        pass

    house = await open_house(databases)
    before = await house.book()
    for point in range(STATEMENTS_MAX):

        async def die(n: int, at: int = point) -> None:
            if n == at:
                raise Died

        try:
            await void_stepping(house, VoidOrder(), die)
        except Died:
            assert await house.book() == before
            assert await billed_and_marks(house) == (1000, 0)
        else:
            break
    assert 0 < point < STATEMENTS_MAX - 1
    await finalize_all(house)
    assert await billed_and_marks(house) == (1000, 0)
