"""Invoice path, rating: prices from their stored form, a model and a jsonb of decimal strings.

Invariant: `parse_price(model, to_config(price), currency) == price`; a wrong field is named by
its path, an unknown one is refused. A cell of a matrix and a tier count against their limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

from billing.domain.currency import exponent_of
from billing.domain.decimals import DECIMALS_MAX, Rounding, decimal_text
from billing.domain.errors import InvalidPrice
from billing.domain.fields import Fields
from billing.domain.pricing.charges import ZERO, Charge, Flat, Matrix, Package, Percentage, PerUnit
from billing.domain.pricing.price import Price, PriceModel, QuantityRounding
from billing.domain.pricing.tiers import TIERS_MAX, Graduated, Tier, Volume, check_tiers

DIMENSIONS_MAX: Final = 5
CELLS_MAX: Final = 1000
FREE_EVENTS_MAX: Final = 10**9
_UNIT_TIER: Final = frozenset({"unit_amount", "package_size"})
_PERCENT_TIER: Final = frozenset({"percent"})


def parse_price(model: str, config: Mapping[str, object], currency: str) -> Price:
    """The price that `config` writes down. Amounts are decimal strings in major units.

    Raises InvalidPrice, InvalidDecimal or UnknownCurrency, naming the field.
    """
    exponent_of(currency)
    kind = _price_model(model)
    read = _PARSERS[kind]
    fields = Fields(config, "", InvalidPrice)
    charge = read(fields)
    minimum = fields.optional("minimum_amount")
    maximum = fields.optional("maximum_amount")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise InvalidPrice.field("minimum_amount", "must not exceed maximum_amount.")
    rounding = _parse_rounding(fields.child("quantity_rounding"))
    fields.finish()
    if rounding is not None and kind is PriceModel.PERCENTAGE:
        raise InvalidPrice.field("quantity_rounding", "a percentage price rounds no quantity.")
    return Price(kind, currency, charge, minimum, maximum, rounding)


def to_config(price: Price) -> dict[str, object]:
    """The stored form of `price`, canonical: `parse_price` gives an equal price back."""
    config = _write(price.charge)
    for name, bound in (("minimum_amount", price.minimum), ("maximum_amount", price.maximum)):
        if bound is not None:
            config[name] = decimal_text(bound)
    if price.quantity_rounding is not None:
        rounding = price.quantity_rounding
        config["quantity_rounding"] = {
            "mode": rounding.mode.value,
            "decimals": rounding.decimals,
            "divide_by": decimal_text(rounding.divide_by),
        }
    return config


def _price_model(model: str) -> PriceModel:
    try:
        return PriceModel(model)
    except ValueError as error:
        known = ", ".join(PriceModel)
        raise InvalidPrice.field("model", f"{model[:40]!r} is not one of {known}.") from error


def _parse_rounding(fields: Fields | None) -> QuantityRounding | None:
    if fields is None:
        return None
    raw = fields.get("mode")
    if raw not in list(Rounding):
        raise InvalidPrice.field(fields.where("mode"), f"write one of {', '.join(Rounding)}.")
    decimals = fields.whole("decimals", DECIMALS_MAX) or 0
    rounding = QuantityRounding(
        Rounding(str(raw)), decimals, fields.positive("divide_by", Fraction(1))
    )
    fields.finish()
    return rounding


def _parse_flat(fields: Fields) -> Charge:
    return Flat(fields.decimal("amount"))


def _parse_per_unit(fields: Fields) -> Charge:
    return PerUnit(fields.decimal("unit_amount"), fields.decimal("free_units", ZERO))


def _parse_package(fields: Fields) -> Charge:
    return Package(
        fields.decimal("package_amount"),
        fields.positive("package_size"),
        fields.decimal("free_units", ZERO),
    )


def _parse_percentage(fields: Fields) -> Charge:
    # Zero free events or a zero free amount is no allowance of that kind, not one used up.
    return Percentage(
        fields.decimal("rate_percent"),
        fields.decimal("fixed_amount", ZERO),
        fields.whole("free_events", FREE_EVENTS_MAX) or None,
        fields.optional("free_amount") or None,
    )


def _parse_tiers(fields: Fields, allowed: frozenset[str]) -> tuple[Tier, ...]:
    """The tiers of a price; each may have the `allowed` fields, bounds are checked together."""
    tiers = tuple(
        _parse_tier(Fields(raw, fields.where(f"tiers[{index}]"), InvalidPrice), allowed)
        for index, raw in enumerate(fields.items("tiers", TIERS_MAX))
    )
    check_tiers(tiers)
    return tiers


def _parse_tier(fields: Fields, allowed: frozenset[str]) -> Tier:
    sized = "package_size" in allowed and fields.get("package_size") is not None
    tier = Tier(
        None if fields.get("up_to") in (None, "", "inf") else fields.positive("up_to"),
        fields.decimal("unit_amount", ZERO) if "unit_amount" in allowed else ZERO,
        fields.decimal("flat_amount", ZERO),
        fields.decimal("percent", ZERO) if "percent" in allowed else ZERO,
        fields.positive("package_size") if sized else None,
    )
    fields.finish()
    return tier


def _parse_graduated(fields: Fields) -> Charge:
    return Graduated(_parse_tiers(fields, _UNIT_TIER))


def _parse_volume(fields: Fields) -> Charge:
    return Volume(_parse_tiers(fields, _UNIT_TIER))


def _parse_graduated_percentage(fields: Fields) -> Charge:
    return Graduated(_parse_tiers(fields, _PERCENT_TIER))


def _parse_matrix(fields: Fields) -> Charge:
    names = tuple(
        fields.text(raw, fields.where(f"dimensions[{index}]"))
        for index, raw in enumerate(fields.items("dimensions", DIMENSIONS_MAX))
    )
    if len(set(names)) != len(names):
        raise InvalidPrice.field("dimensions", "name each dimension once.")
    cells: dict[tuple[str, ...], Fraction] = {}
    for index, raw in enumerate(fields.items("cells", CELLS_MAX)):
        cell = Fields(raw, fields.where(f"cells[{index}]"), InvalidPrice)
        values = tuple(
            cell.text(value, cell.where("values")) for value in cell.items("values", DIMENSIONS_MAX)
        )
        if len(values) != len(names) or values in cells:
            raise InvalidPrice.field(
                cell.where("values"), "give one value for each dimension, each combination once."
            )
        cells[values] = cell.decimal("unit_amount")
        cell.finish()
    return Matrix(names, cells, fields.optional("default_unit_amount"))


_PARSERS: Final[Mapping[PriceModel, Callable[[Fields], Charge]]] = {
    PriceModel.FLAT: _parse_flat,
    PriceModel.PER_UNIT: _parse_per_unit,
    PriceModel.GRADUATED: _parse_graduated,
    PriceModel.VOLUME: _parse_volume,
    PriceModel.PACKAGE: _parse_package,
    PriceModel.PERCENTAGE: _parse_percentage,
    PriceModel.GRADUATED_PERCENTAGE: _parse_graduated_percentage,
    PriceModel.MATRIX: _parse_matrix,
}


def _amounts(**amounts: Fraction | None) -> dict[str, object]:
    """The fields that say something; zero and None are what is read when they are absent."""
    return {name: decimal_text(amount) for name, amount in amounts.items() if amount}


def _write(charge: Charge) -> dict[str, object]:
    match charge:
        case Flat():
            return {"amount": decimal_text(charge.amount)}
        case PerUnit():
            return {"unit_amount": decimal_text(charge.unit_amount)} | _amounts(
                free_units=charge.free_units
            )
        case Package():
            return {
                "package_amount": decimal_text(charge.package_amount),
                "package_size": decimal_text(charge.package_size),
            } | _amounts(free_units=charge.free_units)
        case Percentage():
            return _write_percentage(charge)
        case Graduated() | Volume():
            return {"tiers": [_write_tier(tier) for tier in charge.tiers]}
        case Matrix():
            return _write_matrix(charge)
        case _:
            raise TypeError(f"{type(charge).__name__} has no stored form.")


def _write_percentage(charge: Percentage) -> dict[str, object]:
    config = {"rate_percent": decimal_text(charge.rate_percent)} | _amounts(
        fixed_amount=charge.fixed_amount, free_amount=charge.free_amount
    )
    if charge.free_events is not None:
        config["free_events"] = charge.free_events
    return config


def _write_tier(tier: Tier) -> dict[str, object]:
    bound: dict[str, object] = {"up_to": "inf" if tier.up_to is None else decimal_text(tier.up_to)}
    return bound | _amounts(
        unit_amount=tier.unit_amount,
        flat_amount=tier.flat_amount,
        percent=tier.percent,
        package_size=tier.package_size,
    )


def _write_matrix(charge: Matrix) -> dict[str, object]:
    config: dict[str, object] = {
        "dimensions": list(charge.dimensions),
        "cells": [
            {"values": list(values), "unit_amount": decimal_text(amount)}
            for values, amount in charge.cells.items()
        ],
    }
    if charge.default_unit_amount is not None:
        config["default_unit_amount"] = decimal_text(charge.default_unit_amount)
    return config
