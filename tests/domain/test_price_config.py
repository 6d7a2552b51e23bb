"""Stored prices: read back as they were written, and refused with the field that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.decimals import decimal_text
from billing.domain.errors import BillingError, InvalidDecimal, InvalidPrice
from billing.domain.pricing import Price, PriceModel, Volume, parse_price, to_config
from tests.domain.prices import price, sizes, texts, tiers


def configs() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    rows = tiers().map(
        lambda all_tiers: to_config(Price(PriceModel.VOLUME, "EUR", Volume(all_tiers)))
    )
    percent_rows = st.lists(texts, min_size=1, max_size=4).map(
        lambda rates: {
            "tiers": [
                {"up_to": str(i + 1) if i + 1 < len(rates) else "inf", "percent": r}
                for i, r in enumerate(rates)
            ]
        }
    )
    matrix = st.dictionaries(st.sampled_from("abcde"), texts, min_size=1).map(
        lambda cells: {
            "dimensions": ["region"],
            "cells": [{"values": [k], "unit_amount": v} for k, v in cells.items()],
        }
    )
    models: list[tuple[str, st.SearchStrategy[dict[str, Any]]]] = [
        ("flat", st.fixed_dictionaries({"amount": texts})),
        ("per_unit", st.fixed_dictionaries({"unit_amount": texts, "free_units": texts})),
        ("graduated", rows),
        ("volume", rows),
        (
            "package",
            st.fixed_dictionaries(
                {"package_amount": texts, "package_size": sizes.map(decimal_text)}
            ),
        ),
        (
            "percentage",
            st.fixed_dictionaries(
                {"rate_percent": texts, "fixed_amount": texts},
                optional={"free_events": st.integers(0, 9), "free_amount": texts},
            ),
        ),
        ("graduated_percentage", percent_rows),
        ("matrix", matrix),
    ]
    return st.one_of([st.tuples(st.just(name), config) for name, config in models])


@given(configs(), st.sampled_from(["none", "minimum", "both"]), st.booleans())
def test_a_price_is_the_same_after_storing_and_reading_it(
    model_config: tuple[str, dict[str, Any]], bounds: str, rounds: bool
) -> None:
    model, config = model_config
    config = dict(config)
    if bounds != "none":
        config["minimum_amount"] = "5"
    if bounds == "both":
        config["maximum_amount"] = "5.5"
    if rounds and model != "percentage":
        config["quantity_rounding"] = {"mode": "up", "divide_by": "5"}
    parsed = price(model, config)
    stored = to_config(parsed)
    assert price(model, stored) == parsed
    assert to_config(price(model, stored)) == stored


@pytest.mark.parametrize(
    ("model", "config", "path"),
    [
        ("tiered", {}, "model"),
        ("flat", {}, "amount"),
        ("flat", {"amount": "1", "amonut": "2"}, "amonut"),
        ("flat", {"amount": "-1"}, "amount"),
        ("flat", {"amount": 1.5}, "amount"),
        ("flat", {"amount": "1e3"}, "amount"),
        ("package", {"package_amount": "1", "package_size": "0"}, "package_size"),
        ("per_unit", {"unit_amount": "0.0000000000001"}, "unit_amount"),
        ("graduated", {"tiers": []}, "tiers"),
        ("graduated", {"tiers": [{"unit_amount": "1"}] * 101}, "tiers"),
        ("graduated", {"tiers": [{"up_to": "5"}]}, "tiers[0].up_to"),
        ("volume", {"tiers": [{"up_to": "inf"}, {"up_to": "inf"}]}, "tiers[0].up_to"),
        (
            "volume",
            {"tiers": [{"up_to": "5"}, {"up_to": "5"}, {"up_to": "inf"}]},
            "tiers[1].up_to",
        ),
        ("volume", {"tiers": [{"up_to": "0"}, {"up_to": "inf"}]}, "tiers[0].up_to"),
        ("volume", {"tiers": [{"up_to": "inf", "percent": "1"}]}, "tiers[0].percent"),
        ("volume", {"tiers": ["x"]}, "tiers[0]"),
        ("percentage", {"rate_percent": "1", "free_events": -1}, "free_events"),
        ("percentage", {"rate_percent": "1", "free_events": True}, "free_events"),
        (
            "percentage",
            {"rate_percent": "1", "quantity_rounding": {"mode": "up"}},
            "quantity_rounding",
        ),
        (
            "flat",
            {"amount": "1", "minimum_amount": "2", "maximum_amount": "1"},
            "minimum_amount",
        ),
        (
            "per_unit",
            {"unit_amount": "1", "quantity_rounding": {"mode": "sideways"}},
            "quantity_rounding.mode",
        ),
        ("matrix", {"dimensions": ["a", "a"], "cells": []}, "dimensions"),
        (
            "matrix",
            {"dimensions": ["a"], "cells": [{"values": ["x", "y"], "unit_amount": "1"}]},
            "cells[0].values",
        ),
    ],
)
def test_a_wrong_price_names_the_field(model: str, config: dict[str, Any], path: str) -> None:
    with pytest.raises((InvalidPrice, InvalidDecimal)) as refusal:
        price(model, config)
    assert refusal.value.violations[0].path == path


BOUNDS: list[Any] = [None, "inf", "5", 5, [], {}]
NAMES: list[Any] = [["a"], [""], [1], "a", None]
MODES: list[Any] = ["up", "UP", None, []]
PLACES: list[Any] = [None, 2, 13, "x"]
PLAIN: list[Any] = [None, True, -1, 10**400, 1.5, "1", "-1", "inf", "", [], {}, ["a"], [["a"]]]
scraps = st.sampled_from(
    PLAIN
    + [[{"up_to": bound, "unit_amount": "1"}] for bound in BOUNDS]
    + [[{"values": names, "unit_amount": "1"}] for names in NAMES]
    + [{"mode": mode, "decimals": places} for mode in MODES for places in PLACES]
)


@given(
    st.sampled_from(list(PriceModel)),
    st.dictionaries(
        st.sampled_from(
            ["amount", "unit_amount", "tiers", "cells", "dimensions", "quantity_rounding"]
        ),
        scraps,
    ),
)
def test_no_stored_nonsense_gets_past_the_errors_of_the_house(
    model: PriceModel, config: dict[str, Any]
) -> None:
    try:
        parsed = parse_price(model, config, "EUR")
    except BillingError:
        return
    assert parse_price(model, to_config(parsed), "EUR") == parsed
