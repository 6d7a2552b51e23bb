"""A year of many subscriptions, against a plain model: every line, every period, every record.

Every model of usage, with and without groups, every kind of anchor, trials, cuts by second and by day, time zones on
both halves of the earth with their clock changes, changes of quantity and price in the midst of periods, ends. The
clock goes in jumps of days, so most of it is catching up.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from operator import itemgetter
from typing import Any
from uuid import UUID

import pytest

from billing.services import catalog
from billing.services.subscription_edits import ItemChange
from billing.services.subscription_terms import Alignment
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_ingest import record_usage
from tests.conftest import LONG, Databases
from tests.desk import Desk
from tests.driver import house_of, utc
from tests.plain_billing import (
    Plain,
    Rate,
    Terms,
    calendar_start,
    graduated,
    last_31st,
    matrix,
    packages,
    per_unit,
    percentage,
    volume,
)

SUBSCRIPTIONS = 200 if LONG else 8
JUMP = timedelta(days=5 if LONG else 23, hours=7, minutes=11)
START = utc(2023, 12, 30, 11)
END = utc(2025, 1, 15)
GRACE = timedelta(hours=1)
ZONES = ("UTC", "America/New_York", "Europe/Vienna", "Australia/Lord_Howe", "Asia/Kathmandu")
INTERVALS = ("month", "week", "month", "quarter", "year", "month", "week", "day")

# Model, configuration and what it costs.
MODELS: Sequence[tuple[str, dict[str, Any], Rate]] = (
    ("per_unit", {"unit_amount": "0.015"}, per_unit("0.015")),
    (
        "graduated",
        {"tiers": [{"up_to": "20", "unit_amount": "0.33"}, {"unit_amount": "0.11"}]},
        graduated(20, "0.33", "0.11"),
    ),
    (
        "package",
        {"package_amount": "1.99", "package_size": "7"},
        packages(7, "1.99"),
    ),
    (
        "volume",
        {"tiers": [{"up_to": "90", "unit_amount": "0.21"}, {"unit_amount": "0.17"}]},
        volume(90, "0.21", "0.17"),
    ),
    ("percentage", {"rate_percent": "2.9"}, percentage("2.9")),
    (
        "matrix",
        {
            "dimensions": ["region"],
            "cells": [
                {"values": ["eu"], "unit_amount": "0.125"},
                {"values": ["us"], "unit_amount": "0.0333"},
            ],
            "default_unit_amount": "0.4",
        },
        matrix({"eu": "0.125", "us": "0.0333"}, "0.4"),
    ),
)
REGIONS = ("eu", "us", "mars", "")


@dataclass(slots=True)
class Sold:
    """A subscription of the house and of the model."""

    id: UUID
    customer: str
    meter: str
    items: dict[str, UUID]
    plain: Plain


async def price(desk: Desk, plan: str, name: str, meter: str, model: str, config: Any) -> UUID:
    house = desk.house
    async with house.databases.api.transaction(house.tenant_id) as tx:
        found, _ = await catalog.get_plan(tx, house.tenant_id, key=plan)
        new = catalog.NewPrice(name, meter, "", model, config, None)
        made = await catalog.create_price(
            tx, house.tenant_id, found, new, house.cause(), now=house.now
        )
    return made.id


async def sell(desk: Desk, chance: random.Random, number: int) -> Sold:
    """One subscription, in its own way."""
    house = desk.house
    customer, plan = f"C{number}", f"plan-{number}"
    zone, interval = ZONES[number % len(ZONES)], INTERVALS[number % len(INTERVALS)]
    # Another model for the same zone each time round.
    model, config, rate = MODELS[(number + number // len(MODELS)) % len(MODELS)]
    meter = "traffic" if model == "matrix" else "minutes"
    minimum = Fraction(3) if number // 2 % 3 == 0 else Fraction(0)
    by_day = number // 3 % 2 == 1
    if minimum:
        config = {**config, "minimum_amount": "3"}
    await house.customer(customer, zone)
    await house.plan(plan, interval=interval)
    if by_day:
        await house.execute("UPDATE plans SET granularity = 'day' WHERE key = $1", plan)
    names = {"Fee": await price(desk, plan, "Fee", "", "flat", {"amount": "17.77"})}
    names["Minutes"] = await price(desk, plan, "Minutes", meter, model, config)
    trial = 9 if number % 3 == 0 else 0
    anchors = anchor_of((number + number // len(INTERVALS)) % 4, interval)
    quantity = chance.randint(1, 5)
    view = await desk.subscribe(
        customer,
        plan,
        items={"Fee": str(quantity), "Minutes": ""},
        trial_days=trial,
        **anchors,
    )
    row = view.row
    activation = row.trial_end_at or row.start_at
    anchor = anchors.get("anchor_at", activation)
    if "alignment" in anchors:
        anchor = calendar_start(activation, zone, interval)
    if "anchor_day" in anchors:
        anchor = last_31st(activation, zone)
    terms = Terms(anchor, zone, interval)
    plain = Plain(
        row.start_at,
        row.trial_end_at,
        terms,
        Fraction("17.77"),
        [(row.start_at, rate)],
        [(row.start_at, minimum)],
        by_day=by_day,
    )
    plain.quantities.append((row.start_at, quantity))
    by_price = {item.price_id: item.id for item in view.items}
    return Sold(
        row.id, customer, meter, {name: by_price[id_] for name, id_ in names.items()}, plain
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


async def stand_at(desk: Desk, now: datetime) -> None:
    """The clock stands at `now`, as if nobody had worked in between."""
    await desk.house.execute("UPDATE test_clocks SET business_time = $1, target_time = $1", now)


async def use(
    desk: Desk, sold: Sequence[Sold], chance: random.Random, a: datetime, b: datetime
) -> None:
    """Usage of each subscription between two instants, some of it at the very boundaries."""
    rows: list[tuple[Sold, datetime, int, str]] = []
    for one in sold:
        edges = [end for _, end in one.plain.periods(b) if a < end <= b][:2]
        instants = [a + (b - a) * chance.random() for _ in range(3)] + edges
        instants += [edge - timedelta(microseconds=1) for edge in edges]
        for at in instants:
            if at < one.plain.start or (one.plain.canceled and at >= one.plain.canceled):
                continue
            quantity = chance.randint(1, 30)
            region = chance.choice(REGIONS) if one.meter == "traffic" else ""
            rows.append((one, at, quantity, region))
            one.plain.used.append((at, Fraction(quantity), region))
    house = desk.house
    for place in range(0, len(rows), 1000):
        part = rows[place : place + 1000]
        batch = UsageBatch(
            [f"{b.isoformat()}-{place + n}" for n in range(len(part))],
            [one.meter for one, _, _, _ in part],
            [""] * len(part),
            [one.customer for one, _, _, _ in part],
            [instant_us(at) for _, at, _, _ in part],
            [str(quantity) for _, _, quantity, _ in part],
            properties=[{"region": region} if region else None for _, _, _, region in part],
            allow_backfill=True,
        )
        async with house.databases.api.transaction(house.tenant_id) as tx:
            answer = await record_usage(tx, house.tenant_id, batch, house.cause(), now=house.now)
        assert not answer.verdicts


async def alter(desk: Desk, one: Sold, chance: random.Random, now: datetime) -> None:
    """Another quantity, another rate, or the end."""
    plain = one.plain
    if plain.canceled is not None or now <= plain.activation:
        return
    what = chance.random()
    if what < 0.25:
        quantity = chance.randint(1, 9)
        await desk.change(one.id, ItemChange(one.items["Fee"], quantity=str(quantity)))
        if quantity != plain.quantity_at(now):
            plain.quantities.append((now, quantity))
    elif what < 0.4:
        plan = f"plan-{one.customer[1:]}"
        await desk.house.execute(
            "UPDATE prices p SET archived_at = $2 FROM plans l"
            " WHERE l.id = p.plan_id AND l.key = $1 AND p.meter_id IS NOT NULL AND p.archived_at IS NULL",
            plan,
            now,
        )
        new = await price(
            desk, plan, f"Minutes {now}", one.meter, "per_unit", {"unit_amount": "0.07"}
        )
        await desk.change(one.id, ItemChange(one.items["Minutes"], new))
        plain.rates.append((now, per_unit("0.07")))
        plain.minimums.append((now, Fraction(0)))
    elif what < 0.45:
        await desk.cancel(one.id)
        plain.canceled = now


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
    chance = random.Random(20_240_229)
    house = await house_of(databases, START)
    desk = Desk(house)
    await house.meter("minutes")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        traffic = catalog.NewMeter("traffic", "", "sum", group_by=["region"])
        await catalog.create_meter(tx, house.tenant_id, traffic, house.cause(), now=house.now)
    sold = [await sell(desk, chance, number) for number in range(SUBSCRIPTIONS)]
    await house.deliver()
    now = START
    while now < END:
        before, now = now, min(now + JUMP, END)
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
        assert book.get(one.id, {}) == want, one.customer
    await each_record_is_in_the_period_of_its_instant(desk, sold, last)
    await periods_tile(desk, sold, last)


async def each_record_is_in_the_period_of_its_instant(
    desk: Desk, sold: Sequence[Sold], until: datetime
) -> None:
    rows = await desk.house.rows(
        "SELECT c.external_id, r.used_at, r.period_start, r.quantity FROM effective_usage_records r"
        " JOIN customers c ON c.tenant_id = r.tenant_id AND c.id = r.customer_id"
    )
    found: dict[str, list[tuple[datetime, datetime | None, int]]] = defaultdict(list)
    for row in rows:
        found[row["external_id"]].append(
            (row["used_at"], row["period_start"], int(row["quantity"]))
        )
    for one in sold:
        spans = list(one.plain.usage_periods(until))
        want = []
        for at, quantity, _ in one.plain.used:
            owners = [start for start, end in spans if start <= at < end]
            assert len(owners) <= 1
            want.append((at, owners[0] if owners else None, int(quantity)))
        order = itemgetter(0, 2)
        assert sorted(found[one.customer], key=order) == sorted(want, key=order)


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
        if one.plain.canceled is not None:
            assert ends[-1] == one.plain.canceled
        else:
            assert ends[-1] > until
