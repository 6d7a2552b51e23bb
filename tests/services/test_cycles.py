"""Cycles: every period is closed once, at its own instant, whoever comes late or twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import asyncpg

from billing.runtime.db import DatabaseSettings, Role, connect
from billing.services.subscription_terms import Alignment
from tests.conftest import Databases
from tests.driver import DAY, HOUR, house_of, subscription_text, utc

NEW_YORK = ZoneInfo("America/New_York")


def local(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=NEW_YORK)  # type: ignore[misc, arg-type] # numbers as datetime takes them


async def test_a_subscription_of_january_31_in_new_york_keeps_its_day_and_hour_all_year(
    databases: Databases,
) -> None:
    start = local(2024, 1, 31, 9)
    house = await house_of(databases, start)
    await house.customer("UA", "America/New_York")
    await house.plan(fee="49.00", per_minute="0.10")
    await house.subscribe()
    await house.advance(local(2024, 3, 31, 8, 58))
    await house.use(local(2024, 3, 31, 8, 59, 59), "5")
    await house.use(local(2024, 3, 31, 9), "70")

    await house.advance(local(2024, 7, 1))

    boundaries = [row["boundary"].astimezone(NEW_YORK) for row in await house.invoices()]
    assert boundaries == [
        local(2024, 1, 31, 9),
        local(2024, 2, 29, 9),
        local(2024, 3, 31, 9),
        local(2024, 4, 30, 9),
        local(2024, 5, 31, 9),
        local(2024, 6, 30, 9),
    ]
    assert [row["total"] for row in await house.invoices()] == [4900, 4900, 4950, 5600, 4900, 4900]
    assert [row["kind"] for row in await house.invoices()] == ["activation"] + ["period"] * 5


async def test_a_trial_is_shown_and_not_billed_and_the_first_invoice_comes_at_its_end(
    databases: Databases,
) -> None:
    start = utc(2024, 3, 1, 12)
    house = await house_of(databases, start)
    await house.customer("UA")
    await house.plan(fee="10.00", per_minute="1.00")
    made = await house.subscribe(trial_days=14)
    await house.deliver()
    await house.use(start, "3")
    await house.deliver()
    assert await house.value("SELECT status FROM subscriptions") == "trialing"
    await house.advance(start + 13 * DAY)
    assert await house.invoices() == []

    await house.advance(start + 14 * DAY + HOUR)
    await house.use(start + 14 * DAY + HOUR, "7")
    await house.advance(utc(2024, 4, 15, 12) + 2 * HOUR)

    invoices = await house.invoices()
    assert [(row["kind"], row["boundary"], row["total"]) for row in invoices] == [
        ("activation", utc(2024, 3, 15, 12), 1000),
        ("period", utc(2024, 4, 15, 12), 1700),
    ]
    trial = await house.rows("SELECT * FROM usage_periods ORDER BY period_start LIMIT 1")
    assert trial[0]["bill_kind"] is None
    assert trial[0]["status"] != "billed"
    assert (
        await house.value("SELECT quantity FROM usage_records WHERE period_start = $1", start) == 3
    )
    subjects = await house.subjects(subscription_text(made))
    assert subjects.count("subscription.status.changed") == 2


async def test_calendar_alignment_prorates_the_first_period_to_the_second(
    databases: Databases,
) -> None:
    start = utc(2024, 4, 21, 6)
    house = await house_of(databases, start)
    await house.customer("UA")
    await house.plan(fee="100.00")
    await house.subscribe(alignment=Alignment.CALENDAR)

    await house.advance(utc(2024, 6, 2))

    first, second, third = await house.invoices()
    # 9 days and 18 hours of the 30 days of April.
    assert (first["kind"], first["boundary"], first["total"]) == ("activation", start, 3250)
    assert (second["boundary"], second["total"]) == (utc(2024, 5, 1), 10000)
    assert (third["boundary"], third["total"]) == (utc(2024, 6, 1), 10000)
    lines = await house.rows("SELECT * FROM invoice_lines WHERE invoice_id = $1", first["id"])
    assert [(row["period_start"], row["period_end"]) for row in lines] == [(start, utc(2024, 5, 1))]


async def test_a_fee_in_arrears_comes_with_the_end_of_its_period(databases: Databases) -> None:
    house = await house_of(databases, utc(2024, 1, 1))
    await house.customer("UA")
    await house.plan(arrears_fee="20.00")
    await house.subscribe()

    await house.advance(utc(2024, 2, 2))

    (invoice,) = await house.invoices()
    assert (invoice["kind"], invoice["total"]) == ("period", 2000)


async def test_events_of_a_subscription_have_versions_without_a_gap_or_a_double(
    databases: Databases,
) -> None:
    house = await house_of(databases, utc(2024, 1, 1))
    await house.customer("UA")
    await house.plan(fee="1.00", per_minute="0.01")
    made = await house.subscribe()

    await house.advance(utc(2024, 4, 2))

    versions = await house.versions(subscription_text(made))
    assert versions == list(range(1, len(versions) + 1))
    assert await house.subjects(subscription_text(made)) == [
        "subscription.created",
        "subscription.status.changed",
        "billing.cycle.closed",
        *["billing.cycle.closed", "usage.billed"] * 3,
    ]


async def test_a_backdated_subscription_catches_up_period_by_period(databases: Databases) -> None:
    house = await house_of(databases, utc(2024, 3, 10))
    await house.customer("UA")
    await house.plan(fee="1.00", per_minute="0.10", interval="day")
    await house.subscribe(start_at=utc(2024, 3, 1))
    await house.use(utc(2024, 3, 5, 12), "10")

    await house.settle()
    await house.advance(utc(2024, 3, 10, 2))

    invoices = await house.invoices()
    assert [row["boundary"] for row in invoices] == [utc(2024, 3, day) for day in range(1, 11)]
    by_day = {row["boundary"]: row["total"] for row in invoices}
    assert by_day[utc(2024, 3, 6)] == 200
    assert sum(by_day.values()) == 1000 + 100


async def test_a_repeated_event_and_a_repeated_step_change_nothing(databases: Databases) -> None:
    house = await house_of(databases, utc(2024, 1, 1))
    await house.customer("UA")
    await house.plan(fee="5.00")
    await house.subscribe()
    await house.advance(utc(2024, 2, 1, 0, 30))
    before = await house.book()
    counts = "SELECT (SELECT count(*) FROM billing_events), (SELECT count(*) FROM billing_cycles)"
    counted = tuple((await house.rows(counts))[0])

    await house.execute("DELETE FROM inbox")
    await house.execute(
        "INSERT INTO outbox (event_id, purpose, tenant_id, shard, position, subject, resource)"
        " SELECT id, 'heal_1', tenant_id, 0, nextval('outbox_position'), subject, resource FROM billing_events"
    )
    await house.settle()

    assert await house.book() == before
    assert tuple((await house.rows(counts))[0]) == counted


async def test_invoices_of_one_instant_are_numbered_in_the_order_of_their_subscriptions(
    databases: Databases,
) -> None:
    """However the statement that closes their cycles is planned, and wherever these lie in the table."""
    owner = await asyncpg.connect(databases.url)
    name = await owner.fetchval("SELECT current_database()")
    for choice in ("enable_nestloop", "enable_mergejoin"):
        await owner.execute(f"ALTER DATABASE {name} SET {choice} = off")
    await owner.close()
    worker = await connect(databases.url, Role.WORKER, DatabaseSettings())
    house = await house_of(replace(databases, worker=worker), utc(2024, 4, 1))
    await house.plan(fee="1.00")
    made = []
    for n in range(9):
        await house.customer(f"C{n}")
        made.append((await house.subscribe(f"C{n}")).row.id)
    await house.deliver()
    for identity in reversed(made):
        await house.execute(
            "UPDATE billing_cycles SET plan_id = plan_id WHERE subscription_id = $1", identity
        )
    await house.advance(utc(2024, 5, 1) + 2 * HOUR)
    numbered = await house.rows(
        "SELECT subscription_id FROM invoices WHERE kind = 'period' ORDER BY number"
    )
    await worker.close()
    assert [row["subscription_id"] for row in numbered] == made
