"""What the subscriptions of a simulated year are sold: every aggregation, every model of usage, bounds and roundings.

The numbers are the configuration that the house gets and all that the plain model reads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any, Final, NamedTuple

from tests.services.plain_rating import Entry

REGIONS: Final = ("eu", "us", "mars", "")
KINDS: Final = ("in", "out", "test")

METERS: Final[Mapping[str, dict[str, Any]]] = {
    "minutes": {"aggregation": "sum"},
    "traffic": {"aggregation": "sum", "group_by": ["region"]},
    "billable": {
        "aggregation": "sum",
        "filters": [{"property": "kind", "operator": "not_in", "values": ["test"]}],
    },
    "calls": {
        "aggregation": "count",
        "filters": [{"property": "kind", "operator": "in", "values": ["in", "out"]}],
    },
    "peak": {"aggregation": "max", "group_by": ["region"]},
    "visitors": {"aggregation": "unique", "unique_property": "user"},
    "regional_visitors": {
        "aggregation": "unique",
        "unique_property": "user",
        "group_by": ["region"],
    },
    "seats": {"aggregation": "latest"},
    "storage": {"aggregation": "weighted_sum"},
    "disks": {"aggregation": "weighted_sum", "group_by": ["region"]},
}


class Tariff(NamedTuple):
    """A metered price: the key of its meter, its model and its numbers."""

    meter: str
    model: str
    config: dict[str, Any]


def tiers(*steps: dict[str, str], **every: str) -> dict[str, Any]:
    return {"tiers": [{"up_to": "inf", **step, **every} for step in steps]}


_CELLS: Final = {
    "dimensions": ["region"],
    "cells": [
        {"values": ["eu"], "unit_amount": "0.125"},
        {"values": ["us"], "unit_amount": "0.0333"},
    ],
    "default_unit_amount": "0.4",
}

# As many as a prime number, so that each of them meets every zone, interval, anchor and trial.
TARIFFS: Final[Sequence[Tariff]] = (
    Tariff("minutes", "per_unit", {"unit_amount": "0.015", "free_units": "40.5"}),
    Tariff("minutes", "per_unit", {"unit_amount": "0.31", "maximum_amount": "12.34"}),
    Tariff(
        "minutes",
        "per_unit",
        {
            "unit_amount": "1.9",
            "quantity_rounding": {"mode": "up", "decimals": 0, "divide_by": "60"},
        },
    ),
    Tariff(
        "minutes",
        "graduated",
        tiers({"up_to": "20.5", "unit_amount": "0.33"}, {"unit_amount": "0.11"}),
    ),
    Tariff(
        "minutes",
        "graduated",
        tiers(
            {"up_to": "20", "flat_amount": "2.5", "unit_amount": "0.01"},
            {"up_to": "100", "flat_amount": "1.115"},
            {"unit_amount": "0.007"},
        ),
    ),
    Tariff(
        "minutes",
        "graduated",
        tiers({"up_to": "50", "unit_amount": "0.9"}, {"unit_amount": "0.6"}, package_size="12"),
    ),
    Tariff(
        "minutes",
        "volume",
        tiers(
            {"up_to": "90", "unit_amount": "0.21", "flat_amount": "0.4"},
            {"unit_amount": "0.17", "flat_amount": "3"},
        ),
    ),
    Tariff(
        "minutes",
        "volume",
        tiers({"up_to": "60", "unit_amount": "0.8"}, {"unit_amount": "0.7"}, package_size="7.5"),
    ),
    Tariff(
        "minutes",
        "package",
        {"package_amount": "1.99", "package_size": "7", "free_units": "10"},
    ),
    Tariff("minutes", "percentage", {"rate_percent": "2.9"}),
    Tariff("minutes", "percentage", {"rate_percent": "2.9", "fixed_amount": "0.30"}),
    Tariff(
        "minutes",
        "percentage",
        {"rate_percent": "1.5", "fixed_amount": "0.25", "free_events": 2},
    ),
    Tariff(
        "minutes",
        "percentage",
        {"rate_percent": "4", "fixed_amount": "0.1", "free_amount": "33.3"},
    ),
    Tariff(
        "minutes",
        "percentage",
        {
            "rate_percent": "4",
            "fixed_amount": "0.1",
            "free_events": 3,
            "free_amount": "45",
            "maximum_amount": "3",
        },
    ),
    Tariff(
        "minutes",
        "graduated_percentage",
        tiers({"up_to": "60", "percent": "3", "flat_amount": "0.2"}, {"percent": "2.25"}),
    ),
    Tariff("traffic", "matrix", _CELLS),
    Tariff("traffic", "per_unit", {"unit_amount": "0.77", "free_units": "8"}),
    Tariff(
        "traffic",
        "percentage",
        {"rate_percent": "3.3", "fixed_amount": "0.05", "free_amount": "12"},
    ),
    Tariff("billable", "per_unit", {"unit_amount": "0.0625"}),
    Tariff(
        "billable", "volume", tiers({"up_to": "40", "unit_amount": "0.5"}, {"unit_amount": "0.45"})
    ),
    Tariff("calls", "per_unit", {"unit_amount": "0.55", "free_units": "1"}),
    Tariff("calls", "package", {"package_amount": "0.85", "package_size": "2"}),
    Tariff("peak", "per_unit", {"unit_amount": "0.123"}),
    Tariff(
        "peak",
        "graduated",
        tiers({"up_to": "12.5", "unit_amount": "0.1"}, {"unit_amount": "0.3"}),
    ),
    Tariff("visitors", "per_unit", {"unit_amount": "1.25", "free_units": "2"}),
    Tariff("visitors", "volume", tiers({"up_to": "3", "flat_amount": "4"}, {"flat_amount": "6"})),
    Tariff("regional_visitors", "matrix", _CELLS),
    Tariff("seats", "per_unit", {"unit_amount": "3.1"}),
    Tariff(
        "seats",
        "graduated",
        tiers({"up_to": "10", "unit_amount": "1"}, {"unit_amount": "0.5"}),
    ),
    Tariff("storage", "per_unit", {"unit_amount": "0.0415"}),
    Tariff(
        "storage",
        "graduated",
        tiers({"up_to": "15.25", "unit_amount": "0.2"}, {"unit_amount": "0.09"})
        | {"quantity_rounding": {"mode": "half_up", "decimals": 2, "divide_by": "3"}},
    ),
    Tariff("disks", "per_unit", {"unit_amount": "0.09", "free_units": "2"}),
    Tariff("disks", "matrix", _CELLS),
    Tariff("regional_visitors", "per_unit", {"unit_amount": "0.4"}),
    Tariff(
        "calls",
        "per_unit",
        {
            "unit_amount": "2",
            "quantity_rounding": {"mode": "floor", "decimals": 0, "divide_by": "5"},
        },
    ),
    Tariff("seats", "package", {"package_amount": "5", "package_size": "10"}),
    Tariff(
        "peak",
        "volume",
        tiers(
            {"up_to": "20", "unit_amount": "0.07"}, {"unit_amount": "0.06", "flat_amount": "0.3"}
        ),
    ),
)


def an_entry(chance: random.Random, key: str, meter: str, at: datetime) -> Entry:
    """A record that says whatever its meter may look at; levels go down now and then."""
    value = Fraction(chance.randint(1, 30_000), chance.choice([1000, 500, 1000]))
    if METERS[meter]["aggregation"] == "weighted_sum" and chance.random() < 0.45:
        value = -value
    properties = {"user": f"user-{chance.randint(1, 9)}", "kind": chance.choice(KINDS)}
    if region := chance.choice(REGIONS):
        properties["region"] = region
    return Entry(key, at, value, properties)
