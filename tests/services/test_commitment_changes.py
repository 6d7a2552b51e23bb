"""Commitments of periods that change their plan or their interval on the way, and what running charges show of them."""

from __future__ import annotations

from fractions import Fraction
from uuid import UUID

from billing.services.charges import get_charges
from billing.services.invoice_line import LineKind
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.subscription_edits import ItemChange, Proration
from billing.services.subscription_preview import Moment, preview_subscription
from billing.services.subscription_requests import Later
from billing.services.usage_amendments import void_usage
from billing.services.usage_revisions import Author
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, Driver
from tests.services.commitment_world import (
    JULY,
    JUNE,
    START,
    commitments,
    lines,
    move,
    promise,
    promised,
)
from tests.services.plain_rating import cents


async def test_a_period_owes_the_commitment_of_the_plan_that_it_had(databases: Databases) -> None:
    house = await promised(databases, "100")
    other = await promise(house, "other", "500", fee="0.00")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "other", other, Later())
    await house.advance(JUNE + 2 * HOUR)
    assert (LineKind.COMMITMENT, 5100) in await lines(house, JUNE)
    await house.use(START + 7 * DAY, "510", backfill=True)
    await house.deliver()
    await house.advance(JULY + 2 * HOUR)
    # What comes late for May takes May's true-up back, and June owes what the new plan promises.
    found = await lines(house, JULY)
    assert [amount for kind, amount in found if kind is LineKind.COMMITMENT] == [-5100, 50000]


async def test_a_change_of_plan_owes_each_plan_its_share_of_the_period(
    databases: Databases,
) -> None:
    """The example of docs/prices.md: 100.00 for ten days of 31 and 250.00 for 21, rounded once."""
    house = await promised(databases, "100", fee="0.00")
    other = await promise(house, "other", "250", fee="0.00")
    await house.subscribe()
    await house.advance(START + 10 * DAY)
    await house.use(START + 3 * DAY, "120")
    await house.deliver()
    await move(house, "other", other, None)
    await house.use(START + 10 * DAY, "7")
    await house.deliver()
    await house.advance(JUNE + 2 * HOUR)
    owed = Fraction(100) * 10 / 31 + Fraction(250) * 21 / 31
    (line,) = await commitments(house, JUNE)
    assert (line.amount.minor_units, cents(owed)) == (20161 - 1200 - 70, 20161)
    assert [(step["label"], step["unit_amount"]) for step in line.steps] == [
        ("commitment", "100"),
        ("commitment", "250"),
        ("usage and fees", "-12.7"),
    ]
    assert line.derivation.share == 1
    # June owes the new plan's alone; late usage takes May's back down to what both promised.
    await house.use(START + 20 * DAY, "2000", backfill=True)
    await house.deliver()
    await house.advance(JULY + 2 * HOUR)
    assert [one.amount.minor_units for one in await commitments(house, JULY)] == [
        -(20161 - 1270),
        25000,
    ]


async def test_plans_changed_and_changed_back_owe_their_days(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    free = await promise(house, "free", "", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    view = await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "free", free, None)
    await move(house, "dear", dear, None)  # the clock stands: nothing is owed to the plan between
    await house.advance(START + 11 * DAY)
    await move(house, "free", free, None)
    await house.advance(START + 20 * DAY)
    await move(house, "plan", view.row.plan_id, None)
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.amount.minor_units == (5 * 10 + 6 * 20 + 9 * 0 + 11 * 10) * 100


async def test_a_cancellation_owes_the_plans_up_to_its_instant(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    view = await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "dear", dear, None)
    await house.advance(START + 7 * DAY + HOUR)
    await Desk(house).cancel(view.row.id)
    end = START + 7 * DAY + HOUR
    await house.advance(end + 2 * HOUR)
    (line,) = await commitments(house, end)
    assert line.amount.minor_units == cents(5 * Fraction(10) + (2 + Fraction(1, 24)) * 20)


async def test_by_day_the_day_of_the_change_belongs_to_the_new_plan(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    await house.execute("UPDATE plans SET granularity = 'day'")
    await house.subscribe()
    await house.advance(START + 5 * DAY + 18 * HOUR)
    await move(house, "dear", dear, None)
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.amount.minor_units == (5 * 10 + 26 * 20) * 100


async def test_a_change_on_the_first_day_owes_the_new_plan_alone(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    await house.execute("UPDATE plans SET granularity = 'day'")
    await house.subscribe()
    await house.advance(START + 18 * HOUR)
    await move(house, "dear", dear, None)
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.amount.minor_units == 62000
    assert line.steps[0]["quantity"] == "1"


async def test_without_proration_the_period_owes_the_old_plan(databases: Databases) -> None:
    """As its fees, which stay until the period's end."""
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "dear", dear, None, Proration.NONE)
    await house.advance(JULY + 2 * HOUR)
    assert [one.amount.minor_units for one in await commitments(house, JUNE)] == [31000]
    assert [one.amount.minor_units for one in await commitments(house, JULY)] == [62000]


async def test_a_change_of_interval_bills_the_commitment_of_the_part_that_it_ends(
    databases: Databases,
) -> None:
    house = await promised(databases, "310", fee="31.00")
    yearly = await promise(house, "yearly", "", fee="366.00", interval="year")
    await house.subscribe()
    middle = START + 10 * DAY
    await house.advance(middle)
    await move(house, "yearly", yearly, None)
    await house.advance(middle + 2 * HOUR)
    # Ten of 31 days: 100.00 are promised, and 10.00 of the fee remain after what was given back.
    assert (LineKind.COMMITMENT, 9000) in await lines(house, middle)


async def test_a_change_of_interval_that_joins_an_earlier_change_s_invoice_bills_the_commitment(
    databases: Databases,
) -> None:
    """The clock stands, so both have one instant, one cycle and one invoice."""
    house = await promised(databases, "310", fee="31.00")
    yearly = await promise(house, "yearly", "", fee="366.00", interval="year")
    view = await house.subscribe()
    middle = START + 10 * DAY
    await house.advance(middle)
    fee = next(item.id for item in view.items if item.meter_id is None)
    await Desk(house).change(view.row.id, ItemChange(fee, quantity="2"))
    await move(house, "yearly", yearly, None)
    await house.advance(middle + 2 * HOUR)
    assert (LineKind.COMMITMENT, 9000) in await lines(house, middle)


async def test_by_day_a_change_of_interval_counts_each_fee_towards_its_own_period(
    databases: Databases,
) -> None:
    """The new fee is charged from the midnight before, which lies in the period that ends."""
    house = await promised(databases, "310", fee="31.00")
    weekly = await promise(house, "weekly", "70", fee="7.00", interval="week")
    await house.execute("UPDATE plans SET granularity = 'day'")
    await house.subscribe()
    middle = START + 10 * DAY + 12 * HOUR
    await house.advance(middle)
    await move(house, "weekly", weekly, None)
    await house.advance(middle + 8 * DAY)
    first = await commitments(house, middle)
    # Ten and a half of 31 days are promised, and ten days of the fee remain.
    assert [one.amount.minor_units for one in first] == [10500 - 1000]
    (row, *_) = await house.rows(
        "SELECT * FROM billing_cycles WHERE kind = 'period' AND closed_at IS NOT NULL ORDER BY boundary"
    )
    second = await commitments(house, row["boundary"])
    days = Fraction(int((row["boundary"] - row["period_start"]).total_seconds()), 86400)
    fee = cents(Fraction(7) * (days + Fraction(1, 2)) / 7)
    assert [one.amount.minor_units for one in second] == [cents(70 * days / 7) - fee]


async def test_a_waived_fee_that_was_changed_from_its_begin_on_counts_towards_no_commitment(
    databases: Databases,
) -> None:
    """By day a change on the first of June replaces June's fee whole; the invoice of both it and May is waived then."""
    house = await promised(databases, "310", fee="31.00")
    await house.execute("UPDATE plans SET granularity = 'day'")
    view = await house.subscribe()
    await house.use(START + HOUR / 60, "1000")
    await house.advance(JUNE + 12 * HOUR)
    assert (LineKind.COMMITMENT, 31000 - 10000 - 3100) in await lines(house, JUNE)
    fee = next(item.id for item in view.items if item.meter_id is None)
    await Desk(house).change(view.row.id, ItemChange(fee, quantity="2"))
    await house.deliver()
    waived = await house.value("SELECT id FROM invoices WHERE boundary = $1", JUNE)
    key = await house.value("SELECT idempotency_key FROM usage_records")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        order = VoidOrder(reissue=False)
        await void_invoice(tx, house.tenant_id, waived, order, house.cause(), now=house.now)
        author = Author(house.cause(), "wrong", True)
        await void_usage(tx, house.tenant_id, key, author, now=house.now)
    await house.advance(JUNE + 14 * HOUR)
    # Without its usage May lacks 100.00 more than was waived; June's fee is no part of it.
    (line,) = await commitments(house, JUNE + 12 * HOUR)
    assert line.amount.minor_units == 10000


async def test_a_part_of_a_period_is_measured_by_its_own_full_period_whatever_began_on_its_day(
    databases: Databases,
) -> None:
    """The fee of the week begins with the day, as the month did, and half a day of it is left."""
    house = await promised(databases, "310", fee="31.00")
    weekly = await promise(house, "weekly", "", fee="7.00", interval="week")
    await house.execute("UPDATE plans SET granularity = 'day' WHERE key = 'weekly'")
    view = await house.subscribe()
    await house.advance(START + 12 * HOUR)
    await move(house, "weekly", weekly, None)
    await move(house, "plan", view.row.plan_id, None)
    await house.advance(START + 14 * HOUR)
    (line,) = await commitments(house, START + 12 * HOUR)
    assert line.amount.minor_units == 500 - 50


async def test_running_charges_show_the_commitment_as_the_draft_will(databases: Databases) -> None:
    house = await promised(databases, "100")
    other = await promise(house, "other", "250")
    view = await house.subscribe()
    await house.advance(START + 10 * DAY)
    await house.use(START + 3 * DAY, "120")
    await house.deliver()
    await move(house, "other", other, None)
    await house.use(START + 10 * DAY, "7")
    await house.deliver()
    await house.rate()
    assert await running(house, view.row.id) == await previewed(house, view.row.id)
    found = await running(house, view.row.id)
    assert [amount for kind, amount in found if kind == "commitment"] == [20161 - 4900 - 1270]
    # The draft of May waits for its grace, and June runs.
    await house.advance(JUNE + HOUR / 2)
    found = await running(house, view.row.id)
    assert [amount for kind, amount in found if kind == "commitment"] == [
        20161 - 4900 - 1270,
        25000 - 4900,
    ]
    await house.advance(JUNE + 2 * HOUR)
    found = await running(house, view.row.id)
    assert [amount for kind, amount in found if kind == "commitment"] == [25000 - 4900]


async def test_running_charges_count_a_minimum_of_unused_time_towards_the_commitment(
    databases: Databases,
) -> None:
    house = await promised(databases, "100", fee="0.00")
    await house.execute(
        'UPDATE prices SET config = config || \'{"minimum_amount": "30"}\' WHERE meter_id IS NOT NULL'
    )
    view = await house.subscribe()
    await house.advance(START + DAY)
    assert await running(house, view.row.id) == [("commitment", 7000)]
    assert ("commitment", 7000) in await previewed(house, view.row.id)


async def running(house: Driver, subscription: UUID) -> list[tuple[str, int]]:
    """Kind and amount of what is charged so far."""
    async with house.databases.api.transaction(house.tenant_id) as tx:
        found = await get_charges(tx, house.tenant_id, subscription_id=subscription)
    shown = [(row.kind, row.amount) for row in found.rows]
    return shown + [("commitment", one.amount.minor_units) for one in found.commitments]


async def previewed(house: Driver, subscription: UUID) -> list[tuple[str, int]]:
    """The same of the invoice as it would be now."""
    async with house.databases.api.transaction(house.tenant_id) as tx:
        view = await preview_subscription(
            tx, house.tenant_id, subscription, Moment.NOW, now=house.now
        )
    return [(str(line.kind), line.amount.minor_units) for line in view.lines]
