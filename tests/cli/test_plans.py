"""`tollway plans` against a real server: a file becomes a plan, once, and what is wrong with it is told by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cli.plans.places import line_of, path_of, steps_of
from tests.cli.test_ops import rim, run
from tests.house.tree import ROOT
from tests.server.rim import Rim
from tests.server.test_catalog_calls import MODELS

__all__ = ["rim"]

METERS: list[dict[str, Any]] = [
    {"key": "minutes", "aggregation": "AGGREGATION_SUM"},
    {
        "key": "traffic",
        "aggregation": "AGGREGATION_SUM",
        "group_by": ["region", "size"],
        "filters": [
            {"property": "kind", "operator": "FILTER_OPERATOR_IN", "values": ["b", "a"]},
            {"property": "user", "operator": "FILTER_OPERATOR_EXISTS"},
        ],
    },
]
PLAN: dict[str, Any] = {
    "key": "basic",
    "currency_code": "EUR",
    "interval": "INTERVAL_MONTH",
    "granularity": "GRANULARITY_DAY",
    "commitment_amount": "100.00",
}
MINUTES: dict[str, Any] = {
    "display_name": "Minutes",
    "meter_key": "minutes",
    "per_unit": {"unit_amount": "0.10"},
    "bill_trial_usage": True,
    "minimum_amount": "5",
    "maximum_amount": "500.00",
    "quantity_rounding": {"mode": "ROUNDING_MODE_UP", "decimals": 0, "divide_by": "60"},
    "tax_percent": "20",
}
FEE: dict[str, Any] = {
    "display_name": "Fee",
    "flat": {"unit_amount": "49.00"},
    "billing_timing": "BILLING_TIMING_IN_ARREARS",
}


async def plans(rim: Rim, *words: str) -> Result:
    address = f"127.0.0.1:{rim.server.port}"
    key = rim.acme.keys["admin"]  # type: ignore[index] # StrEnum
    return await run("plans", *words, TOLLWAY_ADDRESS=address, TOLLWAY_API_KEY=key)


def a_file(folder: Path, prices: list[Any], **parts: Any) -> Path:
    path = folder / "plan.json"
    whole = {"meters": METERS, "plan": PLAN, "prices": prices, **parts}
    path.write_text(json.dumps(whole, indent=2))
    return path


def lines_of(result: Result) -> list[str]:
    return result.output.splitlines()


async def test_a_file_makes_a_plan_once_with_every_field_of_the_api(
    rim: Rim, tmp_path: Path
) -> None:
    path = a_file(tmp_path, [FEE, MINUTES])
    first = await plans(rim, "create", str(path))
    assert first.exit_code == 0, first.output
    assert [line.split()[:3] for line in lines_of(first)] == [
        ["made", "meter", "minutes"],
        ["made", "meter", "traffic"],
        ["made", "plan", "basic"],
        ["made", "price", "Fee"],
        ["made", "price", "Minutes"],
    ]
    again = await plans(rim, "create", str(path))
    assert again.output == first.output.replace("made     ", "was there")
    shown = await plans(rim, "show", "basic", "--json")
    assert shown.exit_code == 0, (shown.output, shown.exception)
    told = json.loads(shown.output)
    assert (told["granularity"], told["commitment_amount"]) == ("GRANULARITY_DAY", "100")
    fee, minutes = told["prices"]
    assert fee["billing_timing"] == "BILLING_TIMING_IN_ARREARS"
    assert minutes["bill_trial_usage"] is True
    assert minutes["quantity_rounding"] == {"mode": "ROUNDING_MODE_UP", "divide_by": "60"}
    assert (minutes["minimum_amount"], minutes["maximum_amount"]) == ("5", "500")
    assert minutes["tax_percent"] == "20"
    assert "basic" in (await plans(rim, "list")).output
    assert "bill_trial_usage" in (await plans(rim, "show", "basic")).output


async def test_the_file_in_the_docs_makes_a_plan(rim: Rim, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    page = (ROOT / "docs" / "prices.md").read_text()
    path.write_text(page.partition("```json\n")[2].partition("```")[0])
    result = await plans(rim, "create", str(path))
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in lines_of(result)] == ["meter", "plan", "price", "price"]


async def test_what_is_shown_as_a_file_is_a_file_that_makes_nothing_new(
    rim: Rim, tmp_path: Path
) -> None:
    """Every model with all that it may have, each with a meter of its own."""
    meters = [{**METERS[1], "key": f"of_{model}"} for model in MODELS if model != "flat"]
    prices = [
        {"display_name": model, model: numbers}
        | ({} if model == "flat" else {"meter_key": f"of_{model}"})
        for model, numbers in MODELS.items()
    ]
    path = a_file(tmp_path, prices, meters=meters)
    assert (await plans(rim, "create", str(path))).exit_code == 0
    written = tmp_path / "written.json"
    written.write_text((await plans(rim, "show", "basic", "--file")).output)
    again = await plans(rim, "create", str(written))
    assert again.exit_code == 0, again.output
    assert {line.split()[0] for line in lines_of(again)} == {"was"}
    assert len(lines_of(again)) == len(meters) + 1 + len(prices)


TIERS: list[dict[str, Any]] = [{"up_to": "10", "unit_amount": 0.5}, {"up_to": 5}, {}]
NO_MODEL = {name: value for name, value in MINUTES.items() if name != "per_unit"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelled field": (
        {"prices": [{**FEE, "flat": {"unit_amuont": "1"}}]},
        "prices[0].flat.unit_amuont: is no field here; did you mean unit_amount?",
    ),
    "a word that is none": (
        {"plan": {**PLAN, "interval": "monthly"}},
        "plan.interval: write one of INTERVAL_DAY, INTERVAL_WEEK, INTERVAL_MONTH",
    ),
    "two models": (
        {"prices": [{**FEE, "per_unit": {"unit_amount": "1"}}]},
        "prices[0].per_unit: flat is given as well; give one of them.",
    ),
    "another kind of value": (
        {"prices": [{**MINUTES, "bill_trial_usage": "yes"}]},
        "prices[0].bill_trial_usage: must be true or false.",
    ),
    "no list": ({"prices": {"flat": {}}}, "prices: must be a list of at most 100."),
    "no object": ({"plan": []}, "plan: must be an object: {…}."),
    "a field of the command's": (
        {"prices": [{**FEE, "plan_key": "other"}]},
        "prices[0].plan_key: is no field here;",
    ),
    "a broken limit": ({"meters": [{**METERS[0], "key": "Minutes"}]}, "meters[0].key: "),
    "an unknown currency": (
        {"plan": {**PLAN, "currency_code": "XXX"}},
        "plan.currency_code: 'XXX' is not an ISO 4217 currency",
    ),
    "a negative commitment": (
        {"plan": {**PLAN, "commitment_amount": "-1"}},
        "plan.commitment_amount: give a number from 0",
    ),
    "a meter that counts nothing": (
        {"meters": [{"key": "users", "aggregation": "AGGREGATION_UNIQUE"}]},
        "meters[0].unique_property: name it for the aggregation unique",
    ),
    "too much tax": (
        {"prices": [{**FEE, "tax_percent": "101"}]},
        "prices[0].tax_percent: give a number from 0 to 100.",
    ),
    "usage in advance": (
        {"prices": [{**MINUTES, "billing_timing": "BILLING_TIMING_IN_ADVANCE"}]},
        "prices[0].billing_timing: a metered price is billed in arrears.",
    ),
    "a fee of a meter": (
        {"prices": [{**FEE, "meter_key": "minutes"}]},
        "prices[0].meter_key: a flat price goes by the licensed quantity",
    ),
    "a trial of a fee": (
        {"prices": [{**FEE, "bill_trial_usage": True}]},
        "prices[0].bill_trial_usage: a flat price has no usage",
    ),
    "another currency": (
        {"prices": [{**FEE, "currency_code": "USD"}]},
        "prices[0]: The plan is in EUR; a price of it cannot be in USD.",
    ),
    "tiers out of order": (
        {"prices": [{**NO_MODEL, "graduated": {"tiers": TIERS}}]},
        "prices[0].graduated.tiers[1].up_to: must be above the tier before it",
    ),
    "too many decimals": (
        {"prices": [{**FEE, "flat": {"unit_amount": "0.0000000000001"}}]},
        "prices[0].flat.unit_amount: ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_field_is_told_with_its_line_before_anything_is_asked(
    case: str, tmp_path: Path
) -> None:
    parts, told = WRONG[case]
    path = a_file(tmp_path, **{"prices": [], **parts})
    result = await run("plans", "create", str(path), "--key", "k", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    (line,) = [line for line in lines_of(result) if told in line]
    number = line_of(path.read_text(), steps_of(told.partition(": ")[0]))
    assert f"{path}:{number}: " in line


async def test_what_is_no_json_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for text, told in (
        ('{"plan": {},\n "prices": [,]}', "line 2"),
        ('{"plan": {"key": "a",\n "key": "b"}}', f"{path}:2: plan.key: stands here twice"),
        ("[]", "must be"),
        ('{"prices": []}', "has no plan"),
    ):
        path.write_text(text)
        result = await run("plans", "create", str(path), "--key", "k")
        assert (result.exit_code, told in result.output) == (1, True), result.output


def test_a_line_is_found_however_the_file_is_laid_out() -> None:
    text = '{"a": "}\\"", "b":\n [1,\n {"c" :\n"x"}, 2]\n}'
    steps = steps_of("b[1].c")
    assert (path_of(steps), line_of(text, steps)) == ("b[1].c", 4)
    assert line_of(text, ["b", 0]) == 2
    assert line_of(text, ["b", 1, "missing"]) == 3
    assert line_of(text, ["a", "deeper"]) == 1
    assert line_of(json.dumps(json.loads(text)), steps) == 1


async def test_what_the_catalog_refuses_is_told_by_line_and_the_mended_file_goes_on(
    rim: Rim, tmp_path: Path
) -> None:
    numbers = {"dimensions": ["colour"], "cells": [{"values": ["red"], "unit_amount": "1"}]}
    matrix = {"display_name": "Traffic", "meter_key": "traffic", "matrix": numbers}
    path = a_file(tmp_path, [FEE, matrix])
    result = await plans(rim, "create", str(path))
    assert result.exit_code == 1
    number = line_of(path.read_text(), ["prices", 1, "matrix", "dimensions", 0])
    assert (
        f"{path}:{number}: prices[1].matrix.dimensions[0]: the meter 'traffic' does not group"
        in (result.output)
    )
    assert "Mend the file and run this again" in result.output
    numbers["dimensions"] = ["region"]
    mended = await plans(rim, "create", str(a_file(tmp_path, [FEE, matrix])))
    assert [line.split()[0] for line in lines_of(mended)] == ["was"] * 4 + ["made"]


async def test_what_is_there_with_other_terms_is_told_and_nothing_is_made(
    rim: Rim, tmp_path: Path
) -> None:
    assert (await plans(rim, "create", str(a_file(tmp_path, [FEE, MINUTES])))).exit_code == 0
    dearer = {**FEE, "flat": {"unit_amount": "59.00"}}
    other = {
        "meters": [{**METERS[0], "aggregation": "AGGREGATION_MAX"}, METERS[1]],
        "plan": {**PLAN, "commitment_amount": "200"},
    }
    path = a_file(tmp_path, [dearer, MINUTES], **other)
    result = await plans(rim, "create", str(path))
    assert result.exit_code == 1
    assert "meters[0].aggregation: the meter 'minutes' is there with another one" in result.output
    assert "plan.commitment_amount: the plan 'basic' is there with another one" in result.output
    assert "the plan has 'Fee' (prc_" in result.output
    shown = await plans(rim, "show", "basic", "--json")
    assert shown.exit_code == 0, (shown.output, shown.exception)
    told = json.loads(shown.output)
    assert [price["display_name"] for price in told["prices"]] == ["Fee", "Minutes"]
