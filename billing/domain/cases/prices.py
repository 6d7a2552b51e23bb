"""`tollway pricing check`: prices of the domain from what a case writes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Final

from billing.domain.cases.case import Case, NotSupported, Section
from billing.domain.cases.compare import Value
from billing.domain.decimals import Rounding
from billing.domain.pricing import (
    Charge,
    Package,
    Price,
    PriceModel,
    QuantityRounding,
    Tier,
    check_tiers,
)

ZERO: Final = Fraction(0)
# What vendors call the ways to round, where it is not what decimal calls them.
_ROUNDING_NAMES: Final = {
    "nearest": Rounding.HALF_UP,
    "half_away_from_zero": Rounding.HALF_UP,
    "half_to_even": Rounding.HALF_EVEN,
    "bankers": Rounding.HALF_EVEN,
    "ceil": Rounding.CEILING,
    "truncate": Rounding.DOWN,
}
_MODELS: Final = {"package": PriceModel.PACKAGE, "volume": PriceModel.VOLUME}
Got = Mapping[str, Value]


def rounding_mode(raw: object, path: str) -> Rounding:
    """A way to round by decimal's name or a vendor's."""
    name = str(raw).lower().replace("-", "_").removeprefix("round_")
    if name in list(Rounding):
        return Rounding(name)
    if name not in _ROUNDING_NAMES:
        raise NotSupported(f"{path}={raw}")
    return _ROUNDING_NAMES[name]


def case_tiers(section: Section) -> tuple[Tier, ...]:
    """The tiers of a case; a bounded last one is taken as open."""
    tiers = [_tier(one) for one in section.children("tiers")]
    if tiers:
        tiers[-1] = replace(tiers[-1], up_to=None)
    check_tiers(tiers, f"{section.path}.tiers")
    return tuple(tiers)


def _tier(one: Section) -> Tier:
    one.only("up_to", "unit_amount", "flat_amount", "percent", "package_size")
    is_open = one.raw.get("up_to") in (None, "inf")
    return Tier(
        None if is_open else one.number("up_to"),
        one.number("unit_amount", ZERO),
        one.number("flat_amount", ZERO),
        one.number("percent", ZERO),
        one.maybe_number("package_size"),
    )


def case_package(config: Section) -> Package:
    """The package of a case."""
    return Package(
        config.number("package_amount"),
        config.number("package_size"),
        config.number("free_units", ZERO),
    )


def make_price(case: Case, charge: Charge, **more: QuantityRounding | None) -> Price:
    """A price of the domain around a charge, with the case's minimum and maximum."""
    model = _MODELS.get(case.model, PriceModel.GRADUATED)
    return Price(
        model,
        case.currency,
        charge,
        case.config.maybe_number("minimum_amount"),
        case.config.maybe_number("maximum_amount"),
        more.get("quantity_rounding"),
    )
