"""From recorded usage to the lines of invoices: every model and aggregation gives what a calculator gives."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from billing.services import catalog
from billing.services.charges import get_charges
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_fold import fold
from billing.services.usage_ingest import record_usage
from tests.conftest import LONG, Databases
from tests.driver import DAY, HOUR, Driver, house_of, incoming_of, utc
from tests.services import plain_rating as plain

START = utc(2024, 5, 1)
JUNE, JULY = utc(2024, 6, 1), utc(2024, 7, 1)
CASES = 300 if LONG else 30
REGIONS, KINDS = ("eu", "us", 'é"\\'), ("in", "out", "test")


def decimal(rng: random.Random, most: int, decimals: int) -> str:
    return f"{rng.randint(0, most)}.{rng.randint(0, 10**decimals - 1):0{decimals}d}"


def a_meter(rng: random.Random) -> dict[str, Any]:
    aggregation = rng.choice(["count", "sum", "sum", "max", "unique", "latest", "weighted_sum"])
    meter: dict[str, Any] = {"aggregation": aggregation}
    if aggregation == "unique":
        meter["unique_property"] = "user"
    if rng.random() < 0.4:
        meter["group_by"] = rng.choice([["region"], ["region", "kind"]])
    if rng.random() < 0.3:
        values = {"values": ["in", "out"]}
        meter["filters"] = rng.choice(
            [
                [{"property": "kind", "operator": "in", **values}],
                [{"property": "kind", "operator": "not_in", "values": ["test"]}],
                [{"property": "kind", "operator": "exists"}],
            ]
        )
    return meter


def a_price(rng: random.Random, meter: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    models = ["per_unit", "package", "graduated", "volume", "graduated_percentage"]
    models += ["percentage"] * 3 if meter["aggregation"] == "sum" else []
    models += ["matrix"] * 2 if "group_by" in meter else []
    model = rng.choice(models)
    config = the_numbers(rng, model, meter)
    if rng.random() < 0.3:
        config["minimum_amount"] = decimal(rng, 60, 3)
    if rng.random() < 0.3:
        config["maximum_amount"] = str(61 + rng.randint(0, 60))
    if model != "percentage" and rng.random() < 0.3:
        config["quantity_rounding"] = {
            "mode": rng.choice(list(plain.WHOLE)),
            "decimals": rng.choice([0, 2]),
            "divide_by": rng.choice(["1", "3"]),
        }
    return model, config


def the_numbers(rng: random.Random, model: str, meter: Mapping[str, Any]) -> dict[str, Any]:
    def amount() -> str:
        return decimal(rng, 3, rng.choice([1, 4, 12]))

    match model:
        case "per_unit":
            return {"unit_amount": amount(), "free_units": rng.choice(["0", "3"])}
        case "package":
            size = {"package_size": rng.choice(["2.5", "7"]), "free_units": rng.choice(["0", "4"])}
            return {"package_amount": amount(), **size}
        case "percentage":
            free: list[dict[str, Any]] = [{}, {"free_events": rng.randint(1, 6)}]
            config = {"rate_percent": amount(), "fixed_amount": amount(), **rng.choice(free)}
            return config | rng.choice([{}, {"free_amount": decimal(rng, 30, 2)}])
        case "matrix":
            names = meter["group_by"]
            cells = [{"values": ["eu", "in"][: len(names)], "unit_amount": amount()}]
            return {"dimensions": names, "cells": cells, "default_unit_amount": amount()}
        case _:
            unit = "percent" if model == "graduated_percentage" else "unit_amount"
            bounds = ("5", "12.5", "inf")
            sizes: list[dict[str, str]] = [{}, {"package_size": "2.5"}]
            size = rng.choice(sizes if unit == "unit_amount" else [{}])
            tiers = [{"up_to": b, unit: amount(), "flat_amount": amount(), **size} for b in bounds]
            return {"tiers": tiers}


def some_usage(rng: random.Random, meter: Mapping[str, Any], name: str) -> list[plain.Entry]:
    entries = []
    for n in range(rng.choice([0, 1, 5, 30])):
        properties = {"user": f"u{rng.randint(0, 5)}"}
        if rng.random() < 0.9:
            properties |= {"region": rng.choice(REGIONS), "kind": rng.choice(KINDS)}
        value = Fraction(decimal(rng, 9, rng.choice([1, 6])))
        if meter["aggregation"] == "weighted_sum" and rng.random() < 0.4:
            value = -value
        # Whole hours now and then, so that instants meet each other and the boundary.
        at = START + timedelta(hours=rng.randint(0, 61 * 24 - 1))
        if rng.random() < 0.7:
            at += timedelta(microseconds=rng.randint(0, 3_599_999_999))
        entries.append(plain.Entry(f"{name}-{n}", at, value, properties))
    return entries


class Shop:
    """One tenant; each case has a customer, a meter, a plan and a subscription of its own."""

    def __init__(self, house: Driver, rng: random.Random) -> None:
        self.house, self.rng = house, rng
        self.meters: dict[str, dict[str, Any]] = {}
        self.prices: dict[str, tuple[str, dict[str, Any]]] = {}
        self.entries: dict[str, list[plain.Entry]] = {}
        self.ids: dict[str, Any] = {}

    async def open(self, cases: int) -> None:
        house = self.house
        for n in range(cases):
            name = f"c{n}"
            self.meters[name] = a_meter(self.rng)
            self.prices[name] = a_price(self.rng, self.meters[name])
            await house.customer(name)
            async with house.databases.api.transaction(house.tenant_id) as tx:
                new = catalog.NewMeter(name, name, **self.meters[name])
                await catalog.create_meter(tx, house.tenant_id, new, house.cause(), now=house.now)
                plan = await catalog.create_plan(
                    tx,
                    house.tenant_id,
                    catalog.NewPlan(name, name, "EUR", "month"),
                    house.cause(),
                    now=house.now,
                )
                model, config = self.prices[name]
                price = catalog.NewPrice("Usage", name, "", model, config, None)
                await catalog.create_price(
                    tx, house.tenant_id, plan, price, house.cause(), now=house.now
                )
            self.ids[name] = (await house.subscribe(name, name)).row.id

    def use(self) -> None:
        for name, meter in self.meters.items():
            self.entries[name] = some_usage(self.rng, meter, name)

    async def record(self, until: datetime, since: datetime) -> None:
        """All usage of [since, until), in batches of all customers mixed."""
        found = [
            (name, entry)
            for name, entries in self.entries.items()
            for entry in entries
            if since <= entry.at < until
        ]
        self.rng.shuffle(found)
        for place in range(0, len(found), 50):
            await self._batch(found[place : place + 50])

    async def _batch(self, found: list[tuple[str, plain.Entry]]) -> None:
        house = self.house
        batch = UsageBatch(
            [entry.key for _, entry in found],
            [name for name, _ in found],
            [""] * len(found),
            [name for name, _ in found],
            [instant_us(entry.at) for _, entry in found],
            [f"{float(entry.value):.6f}" for _, entry in found],
            properties=[entry.properties for _, entry in found],
            allow_backfill=True,
        )
        async with house.databases.api.transaction(house.tenant_id) as tx:
            answer = await record_usage(tx, house.tenant_id, batch, house.cause(), now=house.now)
        assert not answer.verdicts, answer.verdicts

    def expected(self, name: str, start: datetime, end: datetime) -> tuple[dict[Any, int], int]:
        """The line of each group, in cents, and the true-up."""
        return plain.lines(self.meters[name], self.prices[name], self.entries[name], (start, end))


async def test_every_price_of_every_meter_bills_what_a_calculator_says(
    databases: Databases,
) -> None:
    seed = random.SystemRandom().randrange(2**32) if LONG else 20_240_501
    print(f"seed {os.environ.get('TOLLWAY_TEST_SEED', seed)}")
    rng = random.Random(int(os.environ.get("TOLLWAY_TEST_SEED", seed)))
    house = await house_of(databases, START)
    shop = Shop(house, rng)
    await shop.open(CASES)
    shop.use()
    await house.advance(START + 30 * DAY)
    await shop.record(START + 30 * DAY, START)
    await house.deliver()
    await house.rate()
    for name in shop.meters:
        await _charges_agree(shop, name)
    await house.advance(JUNE + HOUR / 2)
    await shop.record(JUNE, START + 30 * DAY)
    await house.advance(JUNE + 30 * DAY)
    await shop.record(JUNE + 30 * DAY, JUNE)
    await house.advance(JULY + 2 * HOUR)
    for name in shop.meters:
        for start, end in ((START, JUNE), (JUNE, JULY)):
            assert await _billed(shop, name, end) == shop.expected(name, start, end), (
                name,
                shop.meters[name],
                shop.prices[name],
            )


async def _billed(shop: Shop, name: str, boundary: datetime) -> tuple[dict[Any, int], int]:
    house = shop.house
    (invoice,) = await house.rows(
        "SELECT * FROM invoices WHERE subscription_id = $1 AND boundary = $2 AND kind = 'period'",
        shop.ids[name],
        boundary,
    )
    assert invoice["status"] in ("open", "paid")
    lines, true_up = {}, 0
    for line in (await house.view(invoice["id"])).lines:
        if line.kind == "true_up":
            true_up += line.amount.minor_units
        else:
            assert line.kind == "usage"
            group = tuple(line.dimensions.get(g, "") for g in shop.meters[name].get("group_by", ()))
            lines[group if line.dimensions else ()] = line.amount.minor_units
    return lines, true_up


async def _charges_agree(shop: Shop, name: str) -> None:
    """Running charges, from the buckets where these are enough: as if the period ended with what is recorded."""
    house = shop.house
    entries = [entry for entry in shop.entries[name] if entry.at < START + 30 * DAY]
    async with house.databases.api.transaction(house.tenant_id) as tx:
        charges = await get_charges(tx, house.tenant_id, subscription_id=shop.ids[name])
    # The deltas of a level are in every later period too, so the one ahead has charges as well.
    rows = [row for row in charges.rows if row.period_start == START]
    if not entries:
        assert rows == []
        return
    whole = shop.entries[name]
    shop.entries[name] = entries
    lines, true_up = shop.expected(name, START, JUNE)
    shop.entries[name] = whole
    told = [row.amount for row in rows if row.kind == "usage"]
    assert sorted(told) == sorted(lines.values()), (name, shop.meters[name], shop.prices[name])
    assert sum(row.amount for row in rows if row.kind == "true_up") == true_up


async def test_buckets_are_the_same_folded_twice_shuffled_and_from_three_sides_at_once(
    databases: Databases,
) -> None:
    rng = random.Random(7)
    house = await house_of(databases, START)
    shop = Shop(house, rng)
    await shop.open(12)
    shop.use()
    await house.advance(START + 30 * DAY)
    await shop.record(START + 30 * DAY, START)
    rows = await house.rows(
        "SELECT * FROM billing_events WHERE subject = 'usage.reported' ORDER BY id"
    )
    arrived = [incoming_of(row) for row in rows]

    async def side() -> None:
        mine = list(arrived)
        for _ in range(2):
            rng.shuffle(mine)
            for event in mine:
                async with databases.worker.transaction() as tx:
                    await fold(tx, [event], house.now)

    await asyncio.gather(side(), side(), side())
    found = {
        tuple(row)
        for row in await house.rows(
            "SELECT i.subscription_id, b.period_start, b.hour, b.group_key, b.records, b.quantity_sum, b.quantity_max"
            " FROM usage_buckets b JOIN subscription_items i ON i.id = b.item_id WHERE b.records > 0"
        )
    }
    assert len(found) > 40
    assert found == {
        tuple(row)
        for row in await house.rows(
            "SELECT i.subscription_id, c.period_start, date_trunc('hour', c.used_at, 'UTC'), c.group_key, count(*),"
            " sum(c.quantity), max(c.quantity) FROM counted_usage c JOIN subscription_items i ON i.id = c.item_id"
            " GROUP BY 1, 2, 3, 4"
        )
    }
    # What counts is what was sent, nothing more and nothing less.
    sent = sum(
        len(group)
        for name, meter in shop.meters.items()
        for group in plain.counted(
            meter, [e for e in shop.entries[name] if e.at < START + 30 * DAY]
        ).values()
    )
    assert sum(row[4] for row in found) == sent
