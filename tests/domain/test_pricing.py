"""Rating: every model against exact fractions, tiers without gap or overlap, path independence."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.decimals import Rounding, decimal_text
from billing.domain.errors import InvalidPrice, UsageNotRatable
from billing.domain.money import Money
from billing.domain.pricing import (
    BillingTiming,
    Graduated,
    Price,
    PriceModel,
    Tier,
    Usage,
    Volume,
    adjustment,
    billing_timing,
    rate,
    rate_groups,
    rate_progressive,
    true_up,
)
from tests.domain.prices import amounts, price, quantities, sizes, tiers


@given(tiers(), quantities)
def test_every_quantity_falls_in_exactly_one_tier(
    rows: tuple[Tier, ...], quantity: Fraction
) -> None:
    steps = Volume(rows).steps(Usage(quantity))
    reached = {step.tier for step in steps}
    assert len(reached) == 1
    number = reached.pop()
    assert number is not None
    upper = rows[number - 1].up_to
    lower = rows[number - 2].up_to if number > 1 else None
    assert upper is None or quantity <= upper
    assert lower is None or quantity > lower


def model_of_graduated(rows: tuple[Tier, ...], quantity: Fraction) -> Fraction:
    """The same rule written the other way round: from the top tier down."""
    exact = rows[0].flat_amount
    lower = Fraction(0)
    for index, tier in enumerate(rows):
        upper = tier.up_to
        inside = max(Fraction(0), (quantity if upper is None else min(quantity, upper)) - lower)
        exact += inside * tier.unit_amount
        exact += tier.flat_amount if index and quantity > lower else 0
        lower = upper or lower
    return exact


@given(tiers(packages=False), quantities)
def test_graduated_tiers_are_exhaustive(rows: tuple[Tier, ...], quantity: Fraction) -> None:
    rated = rate(Price(PriceModel.GRADUATED, "EUR", Graduated(rows)), Usage(quantity))
    assert rated.exact == model_of_graduated(rows, quantity)
    assert rated.exact == sum(step.amount for step in rated.steps)
    assert sum(s.quantity for s in rated.steps if s.label == "units") == quantity


@given(tiers(packages=False))
def test_graduated_amounts_are_continuous_but_for_the_flat_amounts(rows: tuple[Tier, ...]) -> None:
    plain = tuple(Tier(row.up_to, row.unit_amount) for row in rows)
    charge = Graduated(plain)
    tiny = Fraction(1, 10**20)
    for row in plain[:-1]:
        assert row.up_to is not None
        at = sum(s.amount for s in charge.steps(Usage(row.up_to)))
        above = sum(s.amount for s in charge.steps(Usage(row.up_to + tiny)))
        assert 0 <= above - at <= tiny * 10**3


@given(tiers(), st.lists(quantities, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_progressive_billing_does_not_depend_on_the_path(
    rows: tuple[Tier, ...], parts: list[Fraction], with_minimum: bool, volume: bool
) -> None:
    charge = Volume(rows) if volume else Graduated(rows)
    minimum, maximum = (Fraction(50), Fraction(5000)) if with_minimum else (None, None)
    one = Price(PriceModel.GRADUATED, "EUR", charge, minimum, maximum)
    billed, already, so_far = Money.zero("EUR"), None, Fraction(0)
    for part in parts:
        so_far += part
        step = rate_progressive(one, already, Usage(so_far))
        assert step.already == billed
        billed += step.this
        already = Usage(so_far)
    assert billed == rate(one, Usage(so_far)).total


@given(st.integers(0, 10**9), amounts, st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_unit_price_is_exact_against_fractions(
    millionths: int, unit: Fraction, whole: int, scale: int
) -> None:
    quantity = whole + Fraction(millionths, 10**9)
    rated = rate(
        price("per_unit", {"unit_amount": decimal_text(unit)}),
        Usage(quantity),
        scale=Fraction(1, scale),
    )
    assert rated.exact == quantity * unit
    assert abs(rated.amount.exact - quantity * unit) <= Fraction(1, 200)


@given(quantities, sizes, amounts)
def test_packages_cover_what_is_paid_and_none_is_too_many(
    quantity: Fraction, size: Fraction, free: Fraction
) -> None:
    config = {
        "package_amount": "1",
        "package_size": decimal_text(size),
        "free_units": decimal_text(free),
    }
    count = rate(price("package", config), Usage(quantity)).exact
    paid = max(quantity - free, Fraction(0))
    assert count.denominator == 1
    assert count * size >= paid
    assert count == 0 or (count - 1) * size < paid


@given(
    st.lists(st.fractions(0, 1000, max_denominator=100), max_size=12),
    st.none() | st.integers(1, 5),
    st.none() | st.fractions(1, 2000, max_denominator=100),
)
def test_a_percentage_allowance_ends_when_events_or_amount_are_used_up(
    values: list[Fraction], free_events: int | None, free_amount: Fraction | None
) -> None:
    config: dict[str, Any] = {"rate_percent": "10", "fixed_amount": "1"}
    if free_events is not None:
        config["free_events"] = free_events
    if free_amount is not None:
        config["free_amount"] = decimal_text(free_amount)
        free_amount = Fraction(config["free_amount"])
    paid, fees, running, ended = Fraction(0), 0, Fraction(0), False
    for index, value in enumerate(values):
        ended = ended or index == free_events or running == free_amount
        ended = ended or (free_events is None and free_amount is None)
        crosses = not ended and free_amount is not None and running + value > free_amount
        if ended:
            paid, fees = paid + value, fees + 1
        elif crosses and free_amount is not None:
            paid, fees, ended = paid + running + value - free_amount, fees + 1, True
        running += value
    rated = rate(price("percentage", config), Usage.of_values(values))
    assert rated.exact == paid / 10 + fees


def test_a_percentage_that_depends_on_single_events_refuses_their_sum() -> None:
    fee = price("percentage", {"rate_percent": "1", "fixed_amount": "0.3"})
    with pytest.raises(UsageNotRatable):
        rate(fee, Usage(Fraction(10)))
    assert rate(fee, Usage(Fraction(10), events_count=2)).amount == Money(70, "EUR")
    one = price("percentage", {"rate_percent": "1", "free_events": 2})
    with pytest.raises(UsageNotRatable):
        rate(one, Usage(Fraction(100), None, 3))
    assert rate(one, Usage(Fraction(100), None, 2)).total == Money.zero("EUR")


@given(quantities, st.fractions(0, 1, max_denominator=1000).filter(bool))
def test_a_line_and_its_true_up_sum_to_the_scaled_bound(
    quantity: Fraction, scale: Fraction
) -> None:
    one = price(
        "per_unit", {"unit_amount": "0.0123", "minimum_amount": "100", "maximum_amount": "1000"}
    )
    rated = rate(one, Usage(quantity), scale=scale)
    low, high = Money.of_exact(100 * scale, "EUR"), Money.of_exact(1000 * scale, "EUR")
    assert low <= rated.total <= high
    assert rated.amount == Money.of_exact(quantity * Fraction("0.0123"), "EUR")
    if low <= rated.amount <= high:
        assert not rated.true_up


def test_tiers_and_free_units_never_scale_but_fees_and_bounds_do() -> None:
    half = Fraction(1, 2)
    config = {
        "tiers": [
            {"up_to": "10", "flat_amount": "7"},
            {"up_to": "inf", "unit_amount": "1"},
        ],
        "minimum_amount": "40",
    }
    rated = rate(price("graduated", config), Usage(Fraction(12)), scale=half)
    assert (rated.amount, rated.true_up) == (Money(900, "EUR"), Money(1100, "EUR"))
    fee = rate(price("flat", {"amount": "9.99"}), Usage(Fraction(3)), scale=half)
    assert fee.total == Money(1499, "EUR")
    licensed = rate(
        price("per_unit", {"unit_amount": "9.99"}), Usage(Fraction(3)), scale=half, licensed=True
    )
    assert licensed.total == fee.total
    assert sum(step.amount for step in fee.steps) == fee.exact


def test_a_line_is_one_group_value_and_the_minimum_is_of_their_sum() -> None:
    one = price(
        "matrix",
        {
            "dimensions": ["region"],
            "cells": [
                {"values": ["eu"], "unit_amount": "0.333"},
                {"values": ["us"], "unit_amount": "0.5"},
            ],
            "minimum_amount": "5",
        },
    )
    usage: dict[tuple[str, ...], Usage] = {
        (r,): Usage(Fraction(5), dimensions={"region": r}) for r in ("us", "eu")
    }
    rated = rate_groups(one, usage)
    assert [line.amount.minor_units for line in rated.lines.values()] == [167, 250]
    assert (rated.true_up, rated.total) == (Money(83, "EUR"), Money(500, "EUR"))
    with pytest.raises(UsageNotRatable, match="no cell"):
        rate(one, Usage(Fraction(1), dimensions={"region": "asia"}))


def euros(*minor_units: int) -> tuple[Money, ...]:
    return tuple(Money(units, "EUR") for units in minor_units)


def test_an_adjustment_is_the_difference_and_zero_makes_no_line() -> None:
    assert adjustment(*euros(15, 10, 0)) == Money(5, "EUR")
    assert adjustment(*euros(10, 15, 0)) == Money(-5, "EUR")
    assert adjustment(*euros(10, 10, 0)) is None


@given(st.integers(0, 100), st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_of_a_waived_amount_nothing_is_given_back_and_only_what_exceeds_it_is_billed(
    waived: int, amounts: list[int]
) -> None:
    """However usage goes up and down, what is billed beside the waived amount depends on where it ends."""
    billed = 0
    for amount in amounts:
        more = adjustment(*euros(amount, billed, waived))
        billed += more.minor_units if more else 0
        assert billed == max(amount - waived, 0)


def test_a_metered_price_is_always_billed_in_arrears() -> None:
    assert billing_timing(PriceModel.VOLUME, metered=True) == "in_arrears"
    with pytest.raises(InvalidPrice, match="billed in arrears"):
        billing_timing(PriceModel.VOLUME, metered=True, chosen=BillingTiming.IN_ADVANCE)
    assert billing_timing(PriceModel.FLAT, metered=False) == "in_advance"
    assert billing_timing(PriceModel.FLAT, metered=False, chosen=BillingTiming.IN_ARREARS) == (
        BillingTiming.IN_ARREARS
    )


def test_the_derivation_can_be_followed_by_a_person() -> None:
    config = {
        "tiers": [
            {"up_to": "5", "unit_amount": "7", "flat_amount": "2"},
            {"up_to": "inf", "unit_amount": "6.5"},
        ]
    }
    rated = rate(price("graduated", config), Usage(Fraction("6.5")))
    assert [str(step) for step in rated.steps] == [
        "tier 1, flat amount: 1 x 2 = 2",
        "tier 1, units: 5 x 7 = 35",
        "tier 2, units: 1.5 x 6.5 = 9.75",
    ]
    assert rated.steps[0].as_strings()["tier"] == "1"


def test_a_quantity_is_divided_then_rounded_before_it_is_priced() -> None:
    config = {
        "unit_amount": "10",
        "quantity_rounding": {"mode": Rounding.UP, "decimals": 0, "divide_by": "5"},
    }
    assert rate(price("per_unit", config), Usage(Fraction(7))).total == Money(2000, "EUR")


@given(st.fractions(-1000, 0, max_denominator=100), tiers())
def test_a_negative_quantity_stays_in_the_first_tier(
    quantity: Fraction, rows: tuple[Tier, ...]
) -> None:
    assert {s.tier for s in Graduated(rows).steps(Usage(quantity))} == {1}
    assert {s.tier for s in Volume(rows).steps(Usage(quantity))} == {1}
    assert true_up(price("flat", {"amount": "1"}), Money(-5, "EUR")) == Money.zero("EUR")


def test_a_rounded_quantity_is_a_step_that_a_calculator_can_follow() -> None:
    config = {
        "unit_amount": "2",
        "quantity_rounding": {"mode": "up", "decimals": 0, "divide_by": "5"},
    }
    rated = rate(price("per_unit", config), Usage(Fraction(7)))
    assert [str(step) for step in rated.steps] == [
        "7 / 5, rounded away from zero to 0 decimals: 2 x 0 = 0",
        "units: 2 x 2 = 4",
    ]
