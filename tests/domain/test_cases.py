"""`tollway pricing check`: published cases give their published amounts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from billing.domain.cases import Failed, Passed, Unsupported, run_case

CASES = Path(__file__).parent / "cases"


def _cases(*names: str) -> list[Any]:
    rows = [row for name in names for row in json.loads((CASES / name).read_text())["cases"]]
    return [pytest.param(row, id=row["id"]) for row in rows]


@pytest.mark.parametrize("case", _cases("pricing.json", "more_pricing.json"))
def test_a_case_gives_the_expected_amount(case: dict[str, object]) -> None:
    assert run_case(case) == Passed(str(case["id"]))


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"model": "capacity_tier"}, "model=capacity_tier"),
        ({"config": {"unit_amount": "1", "surcharge": "2"}}, "config.surcharge"),
        ({"usage": {"quantity": "1", "region": "eu"}}, "usage.region"),
        ({"expected_amount": {"total": "1.00", "vat": "0.20"}}, "expected_amount.vat"),
        ({"config": {"unit_amount": "1", "rounding": "sideways"}}, "config.rounding=sideways"),
        ({"currency": None}, "no currency"),
    ],
)
def test_what_the_rules_lack_is_counted_under_its_name(
    change: dict[str, object], missing: str
) -> None:
    case = {
        "id": "one",
        "model": "per_unit",
        "currency": "EUR",
        "config": {"unit_amount": "1"},
        "usage": {"quantity": "1"},
        "expected_amount": "1.00",
    }
    assert run_case(case | change) == Unsupported("one", missing)


def test_a_refund_in_a_balance_is_not_guessed() -> None:
    case = {
        "id": "refund",
        "model": "invoice_balance",
        "currency": "USD",
        "config": {},
        "usage": {"charge": "100", "paid": "100", "refund": "20"},
        "expected_amount": {"balance": "20.00"},
    }
    assert run_case(case) == Unsupported("refund", "usage.refund")


def test_an_allowance_that_needs_the_events_is_not_guessed_from_their_sum() -> None:
    case = {
        "id": "sum",
        "model": "percentage",
        "currency": "USD",
        "config": {"rate_percent": "1", "free_units_per_events": "2"},
        "usage": {"amount": "100", "events_count": "3"},
        "expected_amount": "1.00",
    }
    assert isinstance(run_case(case), Unsupported)


def test_a_wrong_amount_shows_both_sides() -> None:
    case = {
        "id": "wrong",
        "model": "per_unit",
        "currency": "EUR",
        "config": {"unit_amount": "1.005"},
        "usage": {"quantity": "1"},
        "expected_amount": "1.00",
    }
    assert run_case(case) == Failed("wrong", {"total": "1.00"}, {"total": "1.01"})


@pytest.mark.parametrize(
    ("model", "config", "usage"),
    [
        ("per_unit", {"unit_amount": 1.5}, {"quantity": "1"}),
        ("per_unit", {"unit_amount": "NaN"}, {"quantity": "1"}),
        (
            "graduated",
            {"tiers": [{"up_to": "5"}, {"up_to": "5"}, {"up_to": "inf"}]},
            {"quantity": "1"},
        ),
        (
            "minimum_prorated",
            {"unit_amount": "1"},
            {"quantity": "1", "days": "1", "period_days": "0"},
        ),
        ("billing_anchor", {"anchor": "2024-02-30"}, {"next_n": 1}),
    ],
)
def test_a_case_that_the_rules_refuse_has_failed_with_their_message(
    model: str, config: dict[str, object], usage: dict[str, object]
) -> None:
    case = {"id": "x", "model": model, "currency": "EUR", "config": config, "usage": usage}
    outcome = run_case(case | {"expected_amount": "1.00"})
    assert isinstance(outcome, Failed)
    assert outcome.got["error"]
