"""How a subscription starts and ends by itself: anchors, trials, ends that were agreed, imports; lists and steps."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from billing.domain.errors import AlreadyExists, BillingError, Invalid, InvalidTransition
from billing.domain.subscription import SubscriptionAction, SubscriptionStatus
from billing.services.scheduled_changes import ScheduledChangeFinished
from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import (
    Ends,
    Later,
    Migration,
    NothingToMigrate,
    cancel_scheduled_change,
    list_scheduled_changes,
    rename_subscription,
)
from billing.services.subscription_steps import move_subscription
from billing.services.subscription_terms import Alignment
from billing.services.subscriptions import StartTooOld, SubscriptionFilter, list_subscriptions
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, house_of, subscription_text, utc

VIENNA = ZoneInfo("Europe/Vienna")
START = utc(2024, 2, 10)


def local(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=VIENNA)  # type: ignore[misc, arg-type] # numbers as datetime takes them


async def desk_of(
    databases: Databases, start: datetime = START, zone: str = "UTC", **plan: str
) -> Desk:
    house = await house_of(databases, start)
    await house.customer(zone=zone)
    await house.plan(**(plan or {"fee": "29.00"}))
    return Desk(house)


async def test_a_given_day_of_the_month_is_clamped_to_short_months_and_the_first_part_prorated(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, local(2024, 2, 10, 12), "Europe/Vienna", fee="30.00")
    await desk.subscribe(anchor_day=31)
    await desk.house.advance(local(2024, 5, 1))
    boundaries = [
        local(2024, 2, 10, 12),
        local(2024, 2, 29),
        local(2024, 3, 31),
        local(2024, 4, 30),
    ]
    assert [at for _, at in await desk.keys()] == boundaries
    # 18.5 of the 29 days from January 31 to February 29.
    assert await desk.lines("activation") == [("Fee", 19_14)]


async def test_a_given_anchor_counts_periods_from_its_time_of_day(databases: Databases) -> None:
    desk = await desk_of(databases, START, fee="29.00")
    await desk.subscribe(anchor_at=utc(2024, 1, 15, 6))
    await desk.house.advance(utc(2024, 3, 16))
    assert [at for _, at in await desk.keys()] == [
        START,
        utc(2024, 2, 15, 6),
        utc(2024, 3, 15, 6),
    ]


async def test_a_trial_that_ends_the_subscription_bills_nothing(databases: Databases) -> None:
    desk = await desk_of(databases, fee="29.00", per_minute="1.00")
    made = await desk.subscribe(trial_days=14, ends=Ends(with_trial=True))
    await desk.house.use(START + HOUR / 60, "5")
    await desk.house.advance(START + DAY * 60)
    assert not await desk.house.invoices()
    told = await desk.house.subjects(subscription_text(made))
    assert told.count("subscription.status.changed") == 2
    assert await desk.house.value("SELECT status FROM subscriptions") == "canceled"


async def test_a_trial_s_end_that_was_taken_back_activates(databases: Databases) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(trial_days=14, ends=Ends(with_trial=True))
    await desk.house.advance(START + DAY)
    await desk.uncancel(made.row.id)
    await desk.house.advance(START + DAY * 15)
    assert await desk.keys() == [("activation", START + DAY * 14)]


async def test_an_agreed_end_comes_by_itself_and_gives_the_unused_fee_back(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    end = START + DAY * 29 / 2
    await desk.subscribe(ends=Ends(at=end))
    await desk.house.advance(START + DAY * 40)
    assert await desk.keys() == [("activation", START), ("final", end)]
    assert await desk.lines("final") == [("Fee: unused time", -14_50)]


async def test_an_imported_subscription_makes_no_invoice_for_what_was_billed_elsewhere(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="1.00")
    made = await desk.subscribe(start_at=utc(2019, 1, 31), billed_until=utc(2024, 2, 29))
    await desk.house.advance(START + DAY)
    await desk.house.use(START + DAY - HOUR, "5")
    await desk.house.advance(utc(2024, 3, 30))
    assert (await desk.house.rows("SELECT * FROM subscriptions"))[0]["anchor_at"] == utc(
        2019, 1, 31
    )
    await desk.house.use(utc(2024, 3, 29), "7")
    await desk.house.advance(utc(2024, 4, 1))
    assert await desk.keys() == [("period", utc(2024, 2, 29)), ("period", utc(2024, 3, 31))]
    assert await desk.lines("period", utc(2024, 2, 29)) == [("Fee", 30_00)]
    assert await desk.lines("period", utc(2024, 3, 31)) == [("Minutes", 7_00), ("Fee", 30_00)]
    assert made.row.billed_until == utc(2024, 2, 29)


async def test_a_change_of_an_imported_period_charges_the_difference(databases: Databases) -> None:
    desk = await desk_of(databases, utc(2024, 4, 16), fee="30.00")
    made = await desk.subscribe(start_at=utc(2019, 4, 1), billed_until=utc(2024, 5, 1))
    await desk.house.advance(utc(2024, 4, 16, 0, 0, 1))
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="2"))
    await desk.house.advance(utc(2024, 4, 17))
    (_, credit), (_, debit) = await desk.lines("change")
    assert (credit, debit) == (-15_00, 30_00)


async def test_a_start_that_cannot_be_is_refused(databases: Databases) -> None:
    desk = await desk_of(databases)
    wrong: list[tuple[dict[str, object], type[BillingError]]] = [
        ({"start_at": START - DAY * 36}, StartTooOld),
        ({"start_at": START - DAY * 400, "billed_until": START - DAY * 36}, StartTooOld),
        ({"start_at": START, "billed_until": START - DAY}, Invalid),
        ({"anchor_day": 5, "alignment": Alignment.CALENDAR}, Invalid),
        ({"anchor_day": 5, "anchor_at": START}, Invalid),
        ({"anchor_day": 32}, Invalid),
        ({"ends": Ends(with_trial=True)}, Invalid),
        ({"ends": Ends(at=START)}, Invalid),
    ]
    for draft, error in wrong:
        with pytest.raises(error):
            await desk.subscribe(**draft)  # type: ignore[arg-type] # each draft is one of them
    await desk.house.plan("weekly", fee="1.00", interval="week")
    with pytest.raises(Invalid):
        await desk.subscribe(plan="weekly", anchor_day=5)


async def test_scheduled_changes_are_listed_taken_back_and_keep_what_became_of_them(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    house = desk.house
    made = await desk.subscribe()
    await house.advance(START + DAY)
    item = made.items[0].id
    first = await desk.change(made.row.id, ItemChange(item, quantity="2"), later=Later())
    second = await desk.change(
        made.row.id, ItemChange(item, quantity="5"), later=Later(START + DAY * 40)
    )
    await desk.change(
        made.row.id,
        ItemChange(item, remove=True),
        ItemChange(price_id=(await desk.price("Other", amount="1.00"))),
        later=Later(START + DAY * 50),
    )
    await desk.change(made.row.id, ItemChange(item, quantity="7"), later=Later(START + DAY * 51))
    assert first.scheduled is not None
    assert second.scheduled is not None
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await cancel_scheduled_change(
            tx, house.tenant_id, second.scheduled.id, house.cause(), now=house.now
        )
    await house.advance(START + DAY * 60)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        listed = await list_scheduled_changes(
            tx, house.tenant_id, made.row.id, pending_only=False, before=None, limit=10
        )
        with pytest.raises(ScheduledChangeFinished):
            await cancel_scheduled_change(
                tx, house.tenant_id, first.scheduled.id, house.cause(), now=house.now
            )
    assert [change.status for change in listed] == ["failed", "executed", "canceled", "executed"]
    assert listed[0].error.startswith("SUBSCRIPTION_ITEM_NOT_FOUND")
    assert await desk.lines("period", utc(2024, 3, 10)) == [("Fee", 58_00)]


async def test_a_subscription_keeps_its_prices_until_it_is_migrated(databases: Databases) -> None:
    desk = await desk_of(databases, per_minute="1.00")
    made = await desk.subscribe()
    await desk.house.advance(START + DAY)
    with pytest.raises(NothingToMigrate):
        await desk.migrate(made.row.id, Migration())
    await desk.supersede("Minutes", unit_amount="3.00")
    await desk.house.use(START + DAY - HOUR, "1")
    asked = await desk.migrate(made.row.id, Migration())
    assert asked.view.items[0].price_id != made.items[0].price_id
    await desk.house.use(START + DAY, "1")
    await desk.house.advance(utc(2024, 3, 11))
    assert [amount for _, amount in await desk.lines("period")] == [1_00, 3_00]


async def test_a_migration_to_another_plan_finds_the_prices_that_fit(databases: Databases) -> None:
    desk = await desk_of(databases, fee="29.00", per_minute="1.00")
    await desk.house.plan("plan-2", fee="58.00", per_minute="2.00")
    await desk.house.plan("plan-3", fee="58.00")
    made = await desk.subscribe()
    await desk.house.advance(START + DAY)
    with pytest.raises(Invalid, match="plan-3"):
        await desk.migrate(made.row.id, Migration(plan_key="plan-3"))
    asked = await desk.migrate(made.row.id, Migration(plan_key="plan-2"), Later())
    assert asked.scheduled is not None
    await desk.house.advance(utc(2024, 3, 11))
    assert await desk.lines("period") == [("Minutes", 0), ("Fee", 58_00)]


async def test_each_step_of_the_lifecycle_can_be_asked_for_and_wrong_ones_are_refused(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    house = desk.house

    async def move(subscription: UUID, action: SubscriptionAction) -> str:
        async with house.databases.api.transaction(house.tenant_id) as tx:
            moved = await move_subscription(tx, desk.asking(subscription), action)
        return moved.row.status

    later = await desk.subscribe(start_at=START + DAY * 5)
    with pytest.raises(InvalidTransition, match="before its start"):
        await move(later.row.id, SubscriptionAction.ACTIVATE)
    assert await move(later.row.id, SubscriptionAction.CANCEL) == "canceled"
    trial = await desk.subscribe(trial_days=30)
    assert await move(trial.row.id, SubscriptionAction.START_TRIAL) == "trialing"
    await house.advance(START + DAY)
    assert await move(trial.row.id, SubscriptionAction.ACTIVATE) == "active"
    with pytest.raises(InvalidTransition):
        await move(trial.row.id, SubscriptionAction.START_TRIAL)
    await house.advance(START + DAY * 2)
    assert await desk.keys() == [("activation", START + DAY)]


async def test_subscriptions_are_listed_by_customer_plan_and_state_and_get_other_external_ids(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    house = desk.house
    other = await house.customer("DL")
    one = await desk.subscribe(external_id="one")
    two = await desk.subscribe("DL", external_id="two")
    await house.advance(START + DAY)
    await desk.cancel(one.row.id)
    async with house.databases.api.transaction(house.tenant_id) as tx:

        async def listed(wanted: SubscriptionFilter) -> list[object]:
            views = await list_subscriptions(tx, house.tenant_id, wanted, before=None, limit=10)
            return [view.row.id for view in views]

        assert await listed(SubscriptionFilter()) == [two.row.id, one.row.id]
        assert await listed(SubscriptionFilter(customer_id=other)) == [two.row.id]
        assert await listed(SubscriptionFilter(status=SubscriptionStatus.CANCELED)) == [one.row.id]
        assert await listed(SubscriptionFilter(plan_id=one.row.plan_id)) == [two.row.id, one.row.id]
        with pytest.raises(AlreadyExists):
            await rename_subscription(tx, house.tenant_id, one.row.id, "two")
        renamed = await rename_subscription(tx, house.tenant_id, one.row.id, "first")
        assert renamed.row.external_id == "first"
