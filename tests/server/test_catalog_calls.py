"""The catalog as a client meets it: what is put in comes out, what could not be rated is refused by name."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from tollway.catalog.v1 import catalog_service_pb2 as pb

from tests.server.rim import Rim

SERVICE = "/tollway.catalog.v1.CatalogService/"
TIERS = [{"up_to": "100", "unit_amount": "0.5"}, {"flat_amount": "3"}]
# Every model as a client writes it, with all that it may have.
MODELS: dict[str, dict[str, Any]] = {
    "flat": {"unit_amount": "49"},
    "per_unit": {"unit_amount": "0.000000000001", "free_units": "10"},
    "graduated": {"tiers": TIERS},
    "volume": {"tiers": [{"up_to": "10", "unit_amount": "1", "package_size": "5"}, {}]},
    "package": {"package_amount": "7.5", "package_size": "100", "free_units": "50"},
    "percentage": {
        "rate_percent": "2.9",
        "fixed_amount": "0.3",
        "free_events": "5",
        "free_amount": "100",
    },
    "graduated_percentage": {"tiers": [{"up_to": "1000", "percent": "3"}, {"percent": "2"}]},
    "matrix": {
        "dimensions": ["region", "size"],
        "cells": [{"values": ["eu", "large"], "unit_amount": "2"}],
        "default_unit_amount": "1",
    },
}


async def call(rim: Rim, method: str, **fields: Any) -> Any:
    request = getattr(pb, f"{method}Request")()
    return await rim.call(SERVICE + method, json_format.ParseDict(fields, request))


async def refused(rim: Rim, method: str, **fields: Any) -> Any:
    request = getattr(pb, f"{method}Request")()
    return await rim.refused(SERVICE + method, json_format.ParseDict(fields, request))


def plain(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@pytest.fixture
async def catalog(rim: Rim) -> Rim:
    """A meter that groups, and a plan."""
    await call(
        rim,
        "CreateMeter",
        key="traffic",
        aggregation="AGGREGATION_SUM",
        value_property="bytes",
        filters=[{"property": "kind", "operator": "FILTER_OPERATOR_IN", "values": ["in", "out"]}],
        group_by=["region", "size"],
    )
    await call(
        rim,
        "CreatePlan",
        key="basic",
        currency_code="EUR",
        interval="INTERVAL_MONTH",
        granularity="GRANULARITY_DAY",
        commitment_amount="100.50",
    )
    return rim


async def price(rim: Rim, model: str = "per_unit", **more: Any) -> Any:
    fields = {
        "plan_key": "basic",
        "display_name": "Traffic",
        "meter_key": "" if model == "flat" else "traffic",
        model: MODELS[model],
        **more,
    }
    return (await call(rim, "CreatePrice", **fields)).price


async def test_what_a_meter_and_a_plan_are_made_of_is_read_again(catalog: Rim) -> None:
    meter = plain((await call(catalog, "GetMeter", key="traffic")).meter)
    assert (meter["value_property"], meter["group_by"]) == ("bytes", ["region", "size"])
    assert meter["filters"] == [
        {"property": "kind", "operator": "FILTER_OPERATOR_IN", "values": ["in", "out"]}
    ]
    plan = plain((await call(catalog, "GetPlan", key="basic")).plan)
    assert (plan["granularity"], plan["commitment_amount"]) == ("GRANULARITY_DAY", "100.5")


@pytest.mark.parametrize("model", MODELS)
async def test_every_model_comes_back_as_it_was_written(catalog: Rim, model: str) -> None:
    bounds: dict[str, Any] = {
        "minimum_amount": "5",
        "maximum_amount": "500",
        "tax_percent": "20",
    }
    if model != "flat":
        bounds["bill_trial_usage"] = True
    if model != "percentage":
        bounds["quantity_rounding"] = {
            "mode": "ROUNDING_MODE_UP",
            "decimals": 2,
            "divide_by": "1000",
        }
    made = await price(catalog, model, **bounds)
    read = plain((await call(catalog, "GetPrice", price_id=made.id)).price)
    assert read[model] == MODELS[model]
    assert {name: read[name] for name in bounds} == bounds


TOO_EXACT = "0.1234567890123"


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (
            {"graduated": {"tiers": [{"up_to": "5"}, {"up_to": "5"}, {}]}},
            "graduated.tiers[1].up_to",
        ),
        (
            {"graduated": {"tiers": [{"up_to": "5"}, {"up_to": "4"}, {}]}},
            "graduated.tiers[1].up_to",
        ),
        ({"volume": {"tiers": [{"up_to": "5"}]}}, "volume.tiers[0].up_to"),
        ({"graduated": {"tiers": [{"up_to": "-1"}, {}]}}, "graduated.tiers[0].up_to"),
        ({"per_unit": {"unit_amount": TOO_EXACT}}, "per_unit.unit_amount"),
        ({"per_unit": {"unit_amount": "-1"}}, "per_unit.unit_amount"),
        ({"package": {"package_amount": "1", "package_size": "0"}}, "package.package_size"),
        (
            {"matrix": MODELS["matrix"] | {"dimensions": ["region", "planet"]}},
            "matrix.dimensions[1]",
        ),
        (
            {"matrix": MODELS["matrix"] | {"cells": [{"values": ["eu"], "unit_amount": "1"}]}},
            "matrix.cells[0].values",
        ),
        ({"per_unit": {"unit_amount": "1"}, "minimum_amount": "x"}, "minimum_amount"),
        (
            {"per_unit": {"unit_amount": "1"}, "minimum_amount": "2", "maximum_amount": "1"},
            "minimum_amount",
        ),
        ({"per_unit": {"unit_amount": "1"}, "tax_percent": "100.1"}, "tax_percent"),
        (
            {
                "percentage": {"rate_percent": "1"},
                "quantity_rounding": {"mode": "ROUNDING_MODE_UP"},
            },
            "quantity_rounding",
        ),
    ],
)
async def test_a_wrong_number_is_named_by_its_path_in_the_request(
    catalog: Rim, wrong: dict[str, Any], path: str
) -> None:
    given = {"plan_key": "basic", "display_name": "Traffic", "meter_key": "traffic", **wrong}
    refusal = await refused(catalog, "CreatePrice", **given)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == [path]


async def test_every_wrong_bound_is_named_at_once(catalog: Rim) -> None:
    tiers = [{"up_to": "5"}, {"up_to": "4"}, {}, {"up_to": "9"}]
    refusal = await refused(
        catalog,
        "CreatePrice",
        plan_key="basic",
        display_name="Traffic",
        meter_key="traffic",
        graduated={"tiers": tiers},
    )
    assert set(refusal.fields) == {f"graduated.tiers[{n}].up_to" for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"aggregation": "AGGREGATION_UNIQUE"}, "unique_property"),
        ({"aggregation": "AGGREGATION_SUM", "unique_property": "user"}, "unique_property"),
        ({"aggregation": "AGGREGATION_COUNT", "value_property": "bytes"}, "value_property"),
        ({"aggregation": "AGGREGATION_SUM", "group_by": ["a", "a"]}, "group_by"),
        (
            {
                "aggregation": "AGGREGATION_SUM",
                "filters": [{"property": "a", "operator": "FILTER_OPERATOR_IN"}],
            },
            "filters[0].values",
        ),
    ],
)
async def test_a_meter_that_could_not_count_is_refused(
    rim: Rim, wrong: dict[str, Any], path: str
) -> None:
    refusal = await refused(rim, "CreateMeter", key="m", **wrong)
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_METER", [path])


async def test_a_percentage_needs_a_meter_that_sums_amounts(catalog: Rim) -> None:
    await call(catalog, "CreateMeter", key="calls", aggregation="AGGREGATION_COUNT")
    refusal = await refused(
        catalog,
        "CreatePrice",
        plan_key="basic",
        display_name="Calls",
        meter_key="calls",
        percentage={"rate_percent": "1"},
    )
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_PRICE", ["percentage.rate_percent"])


async def test_a_price_is_superseded_once_and_keeps_its_numbers(catalog: Rim) -> None:
    old = await price(catalog)
    answer = await call(
        catalog, "SupersedePrice", price_id=old.id, volume={"tiers": [{"unit_amount": "0.2"}]}
    )
    assert (answer.price.display_name, answer.price.meter_id) == ("Traffic", old.meter_id)
    kept = answer.superseded_price
    assert kept.superseded_by_price_id == answer.price.id
    assert (kept.per_unit, kept.HasField("archive_time")) == (old.per_unit, True)

    again = await refused(catalog, "SupersedePrice", price_id=old.id, per_unit={"unit_amount": "9"})
    assert again.reason == "PRICE_ARCHIVED"
    assert again.metadata == {"price": old.id, "superseded_by": answer.price.id}
    assert await told(catalog) == ["price.created", "price.created", "price.superseded"]


async def test_a_superseding_price_prices_the_same_meter(catalog: Rim) -> None:
    old = await price(catalog)
    refusal = await refused(catalog, "SupersedePrice", price_id=old.id, flat={"unit_amount": "9"})
    assert list(refusal.fields) == ["meter_key"]
    assert not (await call(catalog, "GetPrice", price_id=old.id)).price.HasField("archive_time")


async def test_what_is_archived_takes_nothing_new_and_says_so_once(catalog: Rim) -> None:
    made = await price(catalog)
    meter = (await call(catalog, "GetMeter", key="traffic")).meter
    plan = (await call(catalog, "GetPlan", key="basic")).plan
    for _ in range(2):
        assert (await call(catalog, "ArchivePrice", price_id=made.id)).price.archive_time.seconds
        assert (await call(catalog, "ArchiveMeter", meter_id=meter.id)).meter.archive_time.seconds
    given = {"plan_key": "basic", "display_name": "Traffic", "meter_key": "traffic"}
    refusal = await refused(catalog, "CreatePrice", **given, per_unit={"unit_amount": "1"})
    assert refusal.reason == "METER_ARCHIVED"
    for _ in range(2):
        assert (await call(catalog, "ArchivePlan", plan_id=plan.id)).plan.archive_time.seconds
    given = {"plan_key": "basic", "display_name": "Fee"}
    refusal = await refused(catalog, "CreatePrice", **given, flat={"unit_amount": "1"})
    assert (refusal.reason, refusal.metadata) == ("PLAN_ARCHIVED", {"plan": "basic"})
    assert await told(catalog) == ["price.created", "price.archived"]


async def test_only_names_change_and_an_old_etag_is_refused(catalog: Rim) -> None:
    meter = (await call(catalog, "GetMeter", key="traffic")).meter
    renamed = await call(
        catalog,
        "UpdateMeter",
        meter_id=meter.id,
        update_mask="displayName",
        display_name="Bytes",
        etag=meter.etag,
    )
    assert (renamed.meter.display_name, renamed.meter.etag != meter.etag) == ("Bytes", True)
    stale = await refused(
        catalog,
        "UpdateMeter",
        meter_id=meter.id,
        update_mask="displayName",
        display_name="Octets",
        etag=meter.etag,
    )
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    plan = (await call(catalog, "GetPlan", key="basic")).plan
    wrong = await refused(catalog, "UpdatePlan", plan_id=plan.id, update_mask="currencyCode")
    assert list(wrong.fields) == ["update_mask"]
    named = await call(
        catalog, "UpdatePlan", plan_id=plan.id, update_mask="displayName", display_name="Basic"
    )
    assert named.plan.display_name == "Basic"


async def test_lists_are_filtered_and_paged(catalog: Rim) -> None:
    for n in range(4):
        await call(catalog, "CreateMeter", key=f"m{n}", aggregation="AGGREGATION_COUNT")
    first = await call(catalog, "ListMeters", aggregation="AGGREGATION_COUNT", page_size=3)
    assert [meter.key for meter in first.meters] == ["m3", "m2", "m1"]
    rest = await call(
        catalog,
        "ListMeters",
        aggregation="AGGREGATION_COUNT",
        page_size=3,
        page_token=first.next_page_token,
    )
    assert ([meter.key for meter in rest.meters], rest.next_page_token) == (["m0"], "")

    old = await price(catalog)
    await call(catalog, "SupersedePrice", price_id=old.id, per_unit={"unit_amount": "2"})
    await price(catalog, "flat")
    current = await call(catalog, "ListPrices", meter_id=old.meter_id)
    assert [one.per_unit.unit_amount for one in current.prices] == ["2"]
    everything = await call(catalog, "ListPrices", plan_id=old.plan_id, include_archived=True)
    assert len(everything.prices) == 3
    plans = await call(catalog, "ListPlans", currency_code="EUR")
    assert [len(plan.prices) for plan in plans.plans] == [3]
    assert not (await call(catalog, "ListPlans", currency_code="USD")).plans


async def told(rim: Rim) -> list[str]:
    """The subjects of the events about prices, in order."""
    async with rim.databases.worker.connection() as connection:
        rows = await connection.fetch(
            "SELECT subject FROM billing_events WHERE subject LIKE 'price.%' ORDER BY id"
        )
    return [row["subject"] for row in rows]
