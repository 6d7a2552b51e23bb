"""Voids under fire: usage, a payment or a second void begun before any statement, and death at each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest

from billing.domain.errors import InvalidTransition, InvoicePartlyPaid
from billing.domain.money import Money
from billing.services.draft_claims import FinalizationSettings, OnTestClocks
from billing.services.finalization import finalize_due
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.payments import NewPayment, record_payment
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of
from tests.faults.test_change_races import nothing, until_it_waits_or_is_done
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


async def the_open_one(house: Driver) -> UUID:
    (row,) = [row for row in await house.invoices() if row["status"] == "open"]
    return UUID(int=row["id"].int)


async def void_stepping(
    house: Driver, order: VoidOrder, before: Hook, invoice: UUID | None = None
) -> int:
    """Voids the open invoice; returns how many statements that had."""
    invoice = invoice or await the_open_one(house)
    async with house.databases.worker.transaction() as tx:
        work: Any = Stepping(tx, before)
        await void_invoice(work, house.tenant_id, invoice, order, house.cause(), now=house.now)
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


Act = Callable[[Driver, UUID, Hook], Coroutine[Any, Any, int]]


async def take_back(house: Driver, invoice: UUID, before: Hook) -> int:
    return await void_stepping(house, VoidOrder(), before, invoice)


async def waive(house: Driver, invoice: UUID, before: Hook) -> int:
    return await void_stepping(house, VoidOrder(reissue=False), before, invoice)


async def pay(house: Driver, invoice: UUID, before: Hook) -> int:
    """A part of what is due."""
    async with house.databases.worker.transaction() as tx:
        work: Any = Stepping(tx, before)
        payment = NewPayment(invoice, Money(400, "USD"), "bank-1")
        await record_payment(work, house.tenant_id, payment, house.cause(), now=house.now)
    return int(work.count)


async def crossed(
    house: Driver, outer: Act, inner: Act, point: int
) -> tuple[bool, list[BaseException]]:
    """Begins `inner` before a statement of `outer`, which goes on when `inner` waits for it or is done.

    Whether there is such a statement, and who was refused.
    """
    invoice = await the_open_one(house)
    begun: list[asyncio.Task[int]] = []

    async def strike(n: int) -> None:
        if n == point:
            begun.append(asyncio.create_task(inner(house, invoice, nothing)))
            await until_it_waits_or_is_done(house, begun[0])

    first = await asyncio.gather(outer(house, invoice, strike), return_exceptions=True)
    outcomes = [*first, *await asyncio.gather(*begun, return_exceptions=True)]
    return bool(begun), [one for one in outcomes if isinstance(one, BaseException)]


async def crossings(
    databases: Databases, outer: Act, inner: Act
) -> AsyncIterator[tuple[Driver, BaseException]]:
    """A house for each point of `outer` at which `inner` begins, and the error of the one that was refused."""
    for point in range(STATEMENTS_MAX):
        house = await open_house(databases)
        begun, refused = await crossed(house, outer, inner, point)
        if not begun:
            break
        (error,) = refused
        yield house, error
    assert 0 < point < STATEMENTS_MAX - 1


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(take_back, pay), (pay, take_back), (waive, pay), (pay, waive)],
    ids=[
        "made again, then paid",
        "paid, then made again",
        "waived, then paid",
        "paid, then waived",
    ],
)
async def test_of_a_void_and_a_payment_begun_at_any_point_of_each_other_one_is_refused(
    databases: Databases, outer: Act, inner: Act
) -> None:
    seen = set()
    async for house, error in crossings(databases, outer, inner):
        paid = await house.rows(
            "SELECT applied FROM payments WHERE tenant_id = $1", house.tenant_id
        )
        (row, *again) = await house.rows(
            "SELECT status, amount_paid, amount_due FROM invoices WHERE tenant_id = $1 AND kind = 'period'"
            " ORDER BY id",
            house.tenant_id,
        )
        if paid:
            assert isinstance(error, InvoicePartlyPaid)
            assert (tuple(row), again) == (("open", 400, 600), [])
        else:
            assert isinstance(error, InvalidTransition)
            assert tuple(row) == ("void", 0, 0)
            assert len(again) == (take_back in (outer, inner))
        seen.add(bool(paid))
    assert seen == {True, False}


@pytest.mark.parametrize(("outer", "inner"), [(take_back, waive), (waive, take_back)])
async def test_of_two_voids_begun_at_any_point_of_each_other_one_is_refused(
    databases: Databases, outer: Act, inner: Act
) -> None:
    seen = set()
    async for house, error in crossings(databases, outer, inner):
        assert isinstance(error, InvalidTransition)
        rows = await house.rows(
            "SELECT status, waived FROM invoices WHERE tenant_id = $1 AND kind = 'period' ORDER BY id",
            house.tenant_id,
        )
        found = [tuple(row) for row in rows]
        assert found in ([("void", True)], [("void", False), ("draft", False)])
        seen.add(len(found))
        # Made again it is billed once more; waived it counts as billed.
        await finalize_all(house)
        assert await billed_and_marks(house) == (1000, 0)
    assert seen == {1, 2}
