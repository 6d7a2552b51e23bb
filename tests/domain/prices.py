"""Prices for the tests: random ones, and one from its stored form."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from billing.domain.decimals import DECIMALS_MAX, decimal_text
from billing.domain.pricing import Price, Tier, parse_price

amounts = st.integers(0, 10**14).map(lambda n: Fraction(n, 10**DECIMALS_MAX))
sizes = st.integers(1, 10**6).map(lambda n: Fraction(n, 100))
quantities = st.fractions(min_value=0, max_value=10**7, max_denominator=10**6)
texts = amounts.map(decimal_text)


@st.composite
def tiers(draw: st.DrawFn, *, packages: bool = True) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(sizes, max_size=6)))
    size = st.none() | sizes if packages else st.none()
    rows = [Tier(up_to, draw(amounts), draw(amounts), package_size=draw(size)) for up_to in bounds]
    return (*rows, Tier(None, draw(amounts), draw(amounts), package_size=draw(size)))


def price(model: str, config: dict[str, Any], currency: str = "EUR") -> Price:
    return parse_price(model, config, currency)
