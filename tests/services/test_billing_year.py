"""A year of many subscriptions, against a plain model: every line, every period, every record.

Every aggregation and every model of usage, with and without groups, free units, bounds and roundings; every kind of
anchor; trials whose usage is billed and trials whose usage is not; subscriptions that another system has billed until
some day; fees in advance and in arrears, and commitments; cuts by second and by day; time zones on both halves of the
earth with their clock changes; changes of quantity and price, and ends, in the midst of periods and at their end. The
clock goes in jumps of days, so most of it is catching up.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from billing.domain.pricing import BillingTiming
from billing.services import catalog
from billing.services.prices import Successor, supersede_price
from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import Later, Migration
from billing.services.subscription_terms import Alignment
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_ingest import record_usage
from tests.conftest import LONG, Databases
from tests.desk import Desk
from tests.driver import house_of, utc
from tests.plain_billing import Fees, Metered, Plain, Terms, calendar_start, last_31st
from tests.services.plain_rating import Entry
from tests.services.year_catalog import METERS, TARIFFS, Tariff, an_entry

SUBSCRIPTIONS = 200 if LONG else len(TARIFFS)
# The first one ends within the trials.
FIRST_JUMP = timedelta(days=5, hours=7, minutes=11)
JUMP = FIRST_JUMP if LONG else FIRST_JUMP + timedelta(days=39)
START = utc(2023, 12, 30, 11)
END = utc(2025, 1, 15)
GRACE = timedelta(hours=1)
ZONES = ("UTC", "America/New_York", "Europe/Vienna", "Australia/Lord_Howe", "Asia/Kathmandu")
MOST = ("month", "week", "month", "quarter", "year", "month", "week")
# Days are few, for they have the most periods by far.
INTERVALS = (*MOST, "day", *MOST, "year", *MOST, "quarter", *MOST, "year")
ALTERED = 0.25 if LONG else 0.7
# Two units are below the minimum, five above the maximum.
FEES = (
    {"amount": "17.77"},
    {"amount": "17.77", "minimum_amount": "40.01"},
    {"amount": "17.77", "minimum_amount": "5", "maximum_amount": "77.7"},
)
COMMITMENTS = (None, "60", None)


@dataclass(slots=True)
class Sold:
    """A subscription of the house and of the model. Until `quiet_until` something that was put off is to come."""

    id: UUID
    customer: str
    plan: str
    tariff: Tariff
    price_id: UUID
    items: dict[str, UUID]
    plain: Plain
    quiet_until: datetime = START


async def open_shop(desk: Desk) -> None:
    house = desk.house
    for key, counts in METERS.items():
        async with house.databases.api.transaction(house.tenant_id) as tx:
            meter = catalog.NewMeter(key, "", **counts)
            await catalog.create_meter(tx, house.tenant_id, meter, house.cause(), now=house.now)


async def price(desk: Desk, plan: str, new: catalog.NewPrice) -> UUID:
    house = desk.house
    async with house.databases.api.transaction(house.tenant_id) as tx:
        found, _ = await catalog.get_plan(tx, house.tenant_id, key=plan)
        made = await catalog.create_price(
            tx, house.tenant_id, found, new, house.cause(), now=house.now
        )
    return made.id


def bounded(tariff: Tariff, number: int) -> Metered:
    """Every third has a minimum."""
    least = {"minimum_amount": "3"} if number // 2 % 3 == 0 else {}
    return tariff.model, {**tariff.config, **least}


async def sell(desk: Desk, chance: random.Random, number: int) -> Sold:
    """One subscription, in its own way."""
    house, tariff = desk.house, TARIFFS[number % len(TARIFFS)]
    customer, plan = f"C{number}", f"plan-{number}"
    zone, interval = ZONES[number % len(ZONES)], INTERVALS[number % len(INTERVALS)]
    await house.customer(customer, zone)
    await house.plan(plan, interval=interval)
    by_day, in_arrears = number // 3 % 2 == 1, number % 4 == 1
    if by_day:
        await house.execute("UPDATE plans SET granularity = 'day' WHERE key = $1", plan)
    fee = FEES[number // 5 % len(FEES)]
    promised = COMMITMENTS[number // 4 % len(COMMITMENTS)]
    if promised:
        await house.execute(
            "UPDATE plans SET commitment = $2::text::numeric WHERE key = $1", plan, promised
        )
    timing = BillingTiming.IN_ARREARS if in_arrears else None
    metered, bills_trial = bounded(tariff, number), number % 2 == 0
    names = {
        "Fee": await price(desk, plan, catalog.NewPrice("Fee", "", "", "flat", fee, timing)),
        "Usage": await price(
            desk,
            plan,
            catalog.NewPrice(
                "Usage", tariff.meter, "", *metered, None, bill_trial_usage=bills_trial
            ),
        ),
    }
    anchors = anchor_of((number + number // 8 + number // 32) % 4, interval)
    starts = imported(number, zone, interval, anchors)
    starts = starts or {"trial_days": 9 if number % 3 == 0 else 0}
    quantity = chance.randint(1, 5)
    view = await desk.subscribe(
        customer, plan, items={"Fee": str(quantity), "Usage": ""}, **starts, **anchors
    )
    row = view.row
    activation = row.trial_end_at or row.start_at
    plain = Plain(
        row.start_at,
        row.trial_end_at,
        terms_of(activation, zone, interval, anchors),
        Fees(fee, [(row.start_at, quantity)], in_arrears, by_day),
        METERS[tariff.meter],
        [(row.start_at, metered)],
        bills_trial,
        row.billed_until,
        commitment=Fraction(promised) if promised else None,
    )
    by_price = {item.price_id: item.id for item in view.items}
    items = {name: by_price[id_] for name, id_ in names.items()}
    return Sold(
        row.id, customer, plan, tariff, names["Usage"], items, plain, row.billed_until or START
    )


def anchor_of(kind: int, interval: str) -> dict[str, Any]:
    """Where periods begin: at the activation, at an instant, by the calendar, or on the 31st."""
    if kind == 1:
        return {"anchor_at": utc(2023, 12, 31, 5, 30)}
    if kind == 2:
        return {"alignment": Alignment.CALENDAR}
    if kind == 3 and interval in ("month", "quarter", "year"):
        return {"anchor_day": 31}
    return {}


def terms_of(activation: datetime, zone: str, interval: str, anchors: dict[str, Any]) -> Terms:
    anchor = anchors.get("anchor_at", activation)
    if "alignment" in anchors:
        anchor = calendar_start(activation, zone, interval)
    if "anchor_day" in anchors:
        anchor = last_31st(activation, zone)
    return Terms(anchor, zone, interval)


def imported(number: int, zone: str, interval: str, anchors: dict[str, Any]) -> dict[str, Any]:
    """Some have run for long, and another system has billed them until a boundary, or in the midst of a period."""
    if number % 6 != 5:
        return {}
    start = START - timedelta(days=100, hours=number)
    boundary = terms_of(start, zone, interval, anchors).around(START)[1]
    midst = START + timedelta(days=6, hours=5)
    at_boundary = number % 4 == 1 and boundary - START < timedelta(days=30)
    return {"start_at": start, "billed_until": boundary if at_boundary else midst}


async def stand_at(desk: Desk, now: datetime) -> None:
    """The clock stands at `now`, as if nobody had worked in between."""
    await desk.house.execute("UPDATE test_clocks SET business_time = $1, target_time = $1", now)


async def use(
    desk: Desk, sold: Sequence[Sold], chance: random.Random, a: datetime, b: datetime
) -> None:
    """Usage between two instants, some of it at the very boundaries, and two records at once before each of them."""
    rows: list[tuple[Sold, Entry]] = []
    for one in sold:
        edges = [end for _, end in one.plain.usage_periods(b) if a < end <= b][:2]
        instants = [a + (b - a) * chance.random() for _ in range(3)] + edges
        instants += [edge - timedelta(microseconds=1) for edge in edges for _ in range(2)]
        for at in instants:
            if one.plain.canceled and at >= one.plain.canceled:
                continue
            entry = an_entry(chance, f"{b.isoformat()}-{len(rows):06d}", one.tariff.meter, at)
            rows.append((one, entry))
            one.plain.used.append(entry)
    house = desk.house
    for place in range(0, len(rows), 1000):
        part = rows[place : place + 1000]
        batch = UsageBatch(
            [entry.key for _, entry in part],
            [one.tariff.meter for one, _ in part],
            [""] * len(part),
            [one.customer for one, _ in part],
            [instant_us(entry.at) for _, entry in part],
            [f"{float(entry.value):.3f}" for _, entry in part],
            properties=[entry.properties for _, entry in part],
            allow_backfill=True,
        )
        async with house.databases.api.transaction(house.tenant_id) as tx:
            answer = await record_usage(tx, house.tenant_id, batch, house.cause(), now=house.now)
        assert not answer.verdicts


async def alter(desk: Desk, one: Sold, chance: random.Random, now: datetime) -> None:
    """Another quantity, another price, or the end; at once, or when the period or trial ends."""
    plain = one.plain
    if now < one.quiet_until:
        if plain.canceled is not None and chance.random() < 0.5:
            await desk.uncancel(one.id)
            plain.canceled, one.quiet_until = None, now
        return
    if plain.canceled is not None or chance.random() > ALTERED:
        return
    at, later = now, None
    if chance.random() < 0.4:
        at, later = plain.next_boundary(now), Later()
        one.quiet_until = at
    what = chance.random()
    if what < 0.5:
        quantity = chance.choice([n for n in range(1, 10) if n != plain.fees.quantity_at(at)])
        await desk.change(one.id, ItemChange(one.items["Fee"], quantity=str(quantity)), later=later)
        plain.fees.quantities.append((at, quantity))
    elif what < 0.92:
        await reprice(desk, one, chance, at, later)
    else:
        await desk.cancel(one.id, later)
        plain.canceled = at


async def reprice(
    desk: Desk, one: Sold, chance: random.Random, at: datetime, later: Later | None
) -> None:
    """Another price takes the place of the present one, and the subscription is moved to it."""
    house = desk.house
    others = [t for t in TARIFFS if t.meter == one.tariff.meter and t != one.tariff]
    one.tariff = chance.choice(others)
    metered = bounded(one.tariff, chance.randint(0, 5))
    async with house.databases.api.transaction(house.tenant_id) as tx:
        new, _ = await supersede_price(
            tx, house.tenant_id, one.price_id, Successor("", *metered), house.cause(), now=house.now
        )
    one.price_id = new.id
    if chance.random() < 0.5:
        await desk.change(one.id, ItemChange(one.items["Usage"], new.id), later=later)
    else:
        await desk.migrate(one.id, Migration(), later)
    one.plain.prices.append((at, metered))


async def booked(desk: Desk) -> dict[UUID, dict[tuple[str, datetime], list[int]]]:
    """The lines of every invoice, as sorted amounts without zeros, by subscription and key."""
    rows = await desk.house.rows(
        "SELECT i.subscription_id, i.kind, i.boundary, l.amount FROM invoices i"
        " LEFT JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id"
        " WHERE i.status <> 'draft'"
    )
    book: dict[UUID, dict[tuple[str, datetime], list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        lines = book[row["subscription_id"]][row["kind"], row["boundary"]]
        lines += [row["amount"]] if row["amount"] else []
    return {id_: {key: sorted(amounts) for key, amounts in of.items()} for id_, of in book.items()}


@pytest.mark.timeout(3600 if LONG else 120)
async def test_a_year_of_many_subscriptions_costs_what_a_plain_model_says(
    databases: Databases,
) -> None:
    seed = random.SystemRandom().randrange(2**32) if LONG else 20_240_229
    seed = int(os.environ.get("TOLLWAY_TEST_SEED", seed))
    print(f"seed {seed}")
    chance = random.Random(seed)
    house = await house_of(databases, START)
    desk = Desk(house)
    await open_shop(desk)
    sold = [await sell(desk, chance, number) for number in range(SUBSCRIPTIONS)]
    await house.deliver()
    now, jump = START, FIRST_JUMP
    while now < END:
        before, now, jump = now, min(now + jump, END), JUMP
        await stand_at(desk, now)
        await use(desk, sold, chance, before, now)
        await house.settle()
        for one in sold:
            await alter(desk, one, chance, now)
        await house.settle()
    last = END + timedelta(days=2)
    for at in (last, last + GRACE):
        await stand_at(desk, at)
        await house.settle()

    book = await booked(desk)
    for one in sold:
        want = one.plain.expected(last)
        assert book.get(one.id, {}) == want, (one.customer, one.plain.prices)
    await each_record_is_in_the_period_of_its_instant(desk, sold, last)
    await periods_tile(desk, sold, last)


async def each_record_is_in_the_period_of_its_instant(
    desk: Desk, sold: Sequence[Sold], until: datetime
) -> None:
    rows = await desk.house.rows(
        "SELECT root_key, used_at, period_start, quantity FROM effective_usage_records"
    )
    found = {row["root_key"]: tuple(row)[1:] for row in rows}
    assert len(found) == sum(len(one.plain.used) for one in sold)
    for one in sold:
        spans = list(one.plain.usage_periods(until))
        for entry in one.plain.used:
            owners = [start for start, end in spans if start <= entry.at < end]
            assert len(owners) == 1
            assert found[entry.key] == (entry.at, owners[0], entry.value), one.customer


async def periods_tile(desk: Desk, sold: Sequence[Sold], until: datetime) -> None:
    for one in sold:
        rows = await desk.house.rows(
            "SELECT period_start, period_end FROM usage_periods WHERE subscription_id = $1"
            " ORDER BY period_start",
            one.id,
        )
        ends = [row["period_end"] for row in rows]
        assert rows[0]["period_start"] == one.plain.start
        assert [row["period_start"] for row in rows[1:]] == ends[:-1], "no gap and no overlap"
        if one.plain.canceled is not None and one.plain.canceled <= until:
            assert ends[-1] == one.plain.canceled
        else:
            assert ends[-1] > until
