"""Money: exact against fractions, and parts that add up to the whole."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.currency import EXPONENTS
from billing.domain.decimals import (
    DECIMALS_MAX,
    DIGITS_MAX,
    Rounding,
    decimal_text,
    parse_decimal,
    parse_exact,
    round_exact,
    round_half_away,
)
from billing.domain.errors import (
    AmountOutOfRange,
    CurrencyMismatch,
    Invalid,
    InvalidDecimal,
    UnknownCurrency,
)
from billing.domain.money import MINOR_UNITS_MAX, Money, largest_remainder, total_of

units = st.integers(-(10**15), 10**15)
fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**12)
decimals = st.decimals(
    min_value=-(10**12), max_value=10**12, places=12, allow_nan=False, allow_infinity=False
)


@pytest.mark.parametrize(
    ("currency", "text", "minor_units"),
    [
        ("JPY", "1234", 1234),
        ("EUR", "12.34", 1234),
        ("KWD", "1.234", 1234),
        ("CLF", "0.1234", 1234),
    ],
)
def test_each_currency_has_its_own_minor_unit(currency: str, text: str, minor_units: int) -> None:
    assert Money.parse(text, currency) == Money(minor_units, currency)
    assert Money(minor_units, currency).to_text() == text


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "XAU", "ZZZ"])
def test_an_unknown_currency_is_refused_and_never_defaulted(currency: str) -> None:
    with pytest.raises(UnknownCurrency):
        Money(1, currency)


def test_the_table_has_the_exponents_of_iso_4217() -> None:
    by_exponent = {e: {c for c, x in EXPONENTS.items() if x == e} for e in (0, 2, 3, 4)}
    assert {"JPY", "KRW", "CLP", "VND", "ISK", "XOF"} <= by_exponent[0]
    assert by_exponent[3] == {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}
    assert by_exponent[4] == {"CLF", "UYW"}
    assert set(EXPONENTS.values()) == {0, 2, 3, 4}
    assert all(len(code) == 3 and code.isupper() for code in EXPONENTS)


def test_more_decimals_than_the_currency_has_are_refused_not_rounded() -> None:
    with pytest.raises(InvalidDecimal, match="at most 2 decimals"):
        Money.parse("1.005", "EUR")


def test_currencies_never_mix() -> None:
    with pytest.raises(CurrencyMismatch):
        Money(1, "EUR") + Money(1, "USD")
    with pytest.raises(CurrencyMismatch):
        _ = Money(1, "EUR") < Money(2, "USD")
    with pytest.raises(CurrencyMismatch):
        total_of([Money(1, "EUR"), Money(1, "USD")], "EUR")


def test_an_amount_beyond_64_bits_is_refused() -> None:
    Money(MINOR_UNITS_MAX, "EUR")
    with pytest.raises(AmountOutOfRange):
        Money(MINOR_UNITS_MAX, "EUR") + Money(1, "EUR")


@given(decimals)
def test_rounding_is_decimals_half_up(value: Decimal) -> None:
    with localcontext(prec=60):
        expected = value.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
        assert Money.of_exact(Fraction(value), "EUR").minor_units == int(expected * 100)


@given(decimals, st.sampled_from(list(Rounding)), st.integers(0, 12))
def test_every_way_to_round_is_decimals(value: Decimal, mode: Rounding, places: int) -> None:
    with localcontext(prec=60):
        expected = value.quantize(Decimal(1).scaleb(-places), rounding=f"ROUND_{mode.name}")
    assert round_exact(Fraction(value), places, mode) == Fraction(expected)


@given(fractions)
def test_rounding_is_symmetric_and_off_by_half_at_most(value: Fraction) -> None:
    assert round_half_away(-value) == -round_half_away(value)
    assert abs(round_half_away(value) - value) <= Fraction(1, 2)


@given(units, st.lists(st.fractions(0, 1000, max_denominator=1000), min_size=1, max_size=30))
def test_a_split_conserves_and_each_part_is_its_share_rounded(
    amount: int, weights: list[Fraction]
) -> None:
    if not sum(weights):
        with pytest.raises(Invalid):
            Money(amount, "EUR").split(weights)
        return
    parts = Money(amount, "EUR").split(weights)
    assert sum(part.minor_units for part in parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part.minor_units - amount * weight / sum(weights)) < 1
    opposite = Money(-amount, "EUR").split(weights)
    assert opposite == [-part for part in parts]


def test_left_over_cents_go_to_the_largest_remainders_earlier_ones_first() -> None:
    assert [m.minor_units for m in Money(100, "EUR").split([1, 1, 1])] == [34, 33, 33]
    assert [m.minor_units for m in Money(100, "EUR").split([1, 2, 4])] == [14, 29, 57]
    assert [m.minor_units for m in Money(-100, "EUR").split([1, 1, 1])] == [-34, -33, -33]


@given(st.lists(fractions, max_size=20))
def test_largest_remainder_adds_up_to_the_rounded_sum(shares: list[Fraction]) -> None:
    total = round_half_away(sum(shares, Fraction(0)))
    whole = largest_remainder(shares, total)
    assert sum(whole) == total
    assert all(abs(unit - share) < 1 for unit, share in zip(whole, shares, strict=True))


@given(units, units)
def test_adding_and_subtracting_undo_each_other(a: int, b: int) -> None:
    one, two = Money(a, "EUR"), Money(b, "EUR")
    assert one + two - two == one
    assert Money.parse(one.to_text(), "EUR") == one
    assert Money.of_exact(one.exact, "EUR") == one


@given(decimals)
def test_a_decimal_is_the_same_after_text_and_back(value: Decimal) -> None:
    text = decimal_text(Fraction(value))
    assert parse_exact(text) == Fraction(value)
    assert decimal_text(parse_exact(text)) == text
    assert "E" not in text.upper()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        ".5",
        "5.",
        "1e3",
        "NaN",
        "Infinity",
        "-",
        "1,5",
        "0x1",
        "1_000",
        "١٢",
        "1\n",
        "--1",
    ],
)
def test_what_is_not_plainly_a_decimal_is_refused(text: str) -> None:
    with pytest.raises(InvalidDecimal) as refusal:
        parse_decimal(text, path="tiers[2].unit_amount")
    assert refusal.value.violations[0].path == "tiers[2].unit_amount"


@pytest.mark.parametrize("raw", [1, 1.5, None, True, b"1", ["1"]])
def test_a_decimal_is_a_string(raw: object) -> None:
    with pytest.raises(InvalidDecimal, match="as a string"):
        parse_decimal(raw)


def test_a_decimal_has_its_limits_by_name() -> None:
    assert parse_decimal("0." + "1" * DECIMALS_MAX)
    with pytest.raises(InvalidDecimal, match="at most 12 decimals"):
        parse_decimal("0." + "1" * (DECIMALS_MAX + 1))
    assert parse_decimal("-" + "9" * DIGITS_MAX)
    for text in ("9" * (DIGITS_MAX + 1), "9" * 10**6):
        with pytest.raises(InvalidDecimal, match="at most 30 digits"):
            parse_decimal(text)
