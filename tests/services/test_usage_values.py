"""What a meter needs of a record: a value out of a property, a property to tell apart, a change of a level."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import queries.rating

from billing.domain.errors import BillingError
from billing.services import quantities
from billing.services.period_rating import rate_periods
from billing.services.usage_batch import Outcome
from tests.conftest import Databases
from tests.services.usage_world import World, make_world


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


async def stored(world: World) -> dict[str, Decimal]:
    rows = await world.rows("SELECT idempotency_key, quantity FROM usage_records")
    return {row["idempotency_key"]: row["quantity"] for row in rows}


async def test_a_meter_finds_its_quantity_in_a_property(world: World) -> None:
    await world.execute("UPDATE meters SET value_property = 'bytes' WHERE true")
    answer = await world.record(
        {"key": "a", "properties": {"bytes": "12.5"}, "quantity": "99"},
        {"key": "b", "properties": {"octets": "1"}},
        {"key": "c", "properties": {"bytes": "many"}},
        {"key": "d"},
    )
    assert await stored(world) == {"a": Decimal("12.5")}
    assert {place: verdict.reason for place, verdict in answer.verdicts.items()} == {
        1: "PROPERTIES_INVALID",
        2: "QUANTITY_INVALID",
        3: "PROPERTIES_INVALID",
    }
    again = await world.record({"key": "a", "properties": {"bytes": "12.5"}, "quantity": "7"})
    assert again.count(Outcome.DUPLICATE) == 1


async def test_a_meter_that_tells_users_apart_needs_the_user_and_no_quantity(world: World) -> None:
    await world.meter("users", "unique")
    await world.execute("UPDATE meters SET unique_property = 'user' WHERE key = 'users'")
    answer = await world.record(
        {"key": "a", "meter": "users", "quantity": "", "properties": {"user": "u1"}},
        {"key": "b", "meter": "users", "quantity": "", "properties": {"name": "u1"}},
    )
    assert await stored(world) == {"a": Decimal(1)}
    assert "'user'" in answer.verdicts[1].message


@pytest.mark.parametrize("aggregation", ["sum", "max", "latest", "weighted_sum"])
async def test_only_the_change_of_a_level_may_be_negative(world: World, aggregation: str) -> None:
    await world.meter("m", aggregation)
    answer = await world.record({"key": "a", "meter": "m", "quantity": "-2"})
    assert answer.count(Outcome.ACCEPTED) == (1 if aggregation == "weighted_sum" else 0)


async def test_more_groups_than_an_invoice_has_lines_for_are_refused_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantities, "GROUPS_MAX", 3)
    await world.execute("UPDATE meters SET group_by = '{region}' WHERE true")
    await world.customer("DL")
    for customer, regions in (("UA", 3), ("DL", 4)):
        await world.served(customer)
        records: list[dict[str, Any]] = [
            {"key": f"{customer}{n}", "customer": customer, "properties": {"region": f"r{n}"}}
            for n in range(regions)
        ]
        await world.record(*records)
    await world.fold()
    async with world.worker.transaction() as tx:
        rows = await queries.rating.list_periods_to_rate(
            tx,
            **await _keys(world),
        )
        rated = await rate_periods(tx, rows)
    found = {
        key.item_id: outcome.message if isinstance(outcome, BillingError) else len(outcome.groups)
        for key, outcome in rated.items()
    }
    (refused,) = [message for message in found.values() if isinstance(message, str)]
    assert "more than 3 values of region" in refused
    assert 3 in found.values()


async def _keys(world: World) -> dict[str, Any]:
    rows = await world.rows(
        "SELECT tenant_id, item_id, period_start FROM usage_periods WHERE period_end > now()"
    )
    return {
        "tenant_ids": [row["tenant_id"] for row in rows],
        "item_ids": [row["item_id"] for row in rows],
        "period_starts": [row["period_start"] for row in rows],
    }
