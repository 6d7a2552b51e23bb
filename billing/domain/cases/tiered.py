"""`tollway pricing check`: the models with tiers, and those billed bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from billing.domain.cases.case import Case, NotSupported, Section
from billing.domain.cases.compare import Value
from billing.domain.cases.prices import ZERO, Got, case_package, case_tiers, make_price
from billing.domain.money import Money, total_of
from billing.domain.pricing import (
    Charge,
    Flat,
    Graduated,
    Price,
    PriceModel,
    Tier,
    Usage,
    Volume,
    check_tiers,
    rate,
    rate_progressive,
)

_POLICIES: Final = {
    "graduated_blocks": {"all_tiers", "graduated"},
    "volume_blocks": {"top_tier", "volume"},
}


def tiered(case: Case) -> Got:
    """graduated, volume, volume_package: one quantity, or one per unit name, a line for each."""
    config = case.config.only("tiers", "units", "recurring")
    if config.need("units", "tiers") == "units":
        units = {
            name: case_tiers(Section({"tiers": raw}, f"{config.path}.units.{name}"))
            for name, raw in config.child("units").raw.items()
        }
    else:
        units = {"quantity": case_tiers(config)}
    return _tiered(case, units)


def blocks(case: Case) -> Got:
    """graduated_blocks, volume_blocks: tiers that are so many blocks of a size long."""
    config = case.config.only("policy", "units")
    policy = config.text("policy", "")
    if policy and policy not in _POLICIES[case.model]:
        raise NotSupported(f"config.policy={policy}")
    units = {}
    for name, raw in config.child("units").raw.items():
        section = Section({"blocks": raw}, f"{config.path}.units.{name}")
        units[name] = _block_tiers(section)
    return _tiered(case, units)


def _block_tiers(section: Section) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    top = ZERO
    rows = section.children("blocks")
    for index, row in enumerate(rows):
        row.only("blocks", "block_size", "price")
        size = row.number("block_size")
        # The last tier is open, however many blocks it names.
        if index < len(rows) - 1:
            top += row.number("blocks") * size
        bound = top if index < len(rows) - 1 else None
        tiers.append(Tier(bound, row.number("price"), package_size=size))
    check_tiers(tiers, section.path)
    return tuple(tiers)


def _tiered(case: Case, units: Mapping[str, tuple[Tier, ...]]) -> Got:
    case.usage.only(*units)
    quantities = {name: Usage(case.usage.number(name)) for name in units}
    money = {
        kind: total_of(
            (
                rate(make_price(case, make(tiers)), quantities[name]).total
                for name, tiers in units.items()
            ),
            case.currency,
        )
        for kind, make in (("graduated", Graduated), ("volume", Volume))
    }
    line = money["graduated" if case.model.startswith("graduated") else "volume"]
    got: dict[str, Value] = {**money, "usage_line": line, "total": line}
    if case.config.has("recurring"):
        fee = Price(PriceModel.FLAT, case.currency, Flat(case.config.number("recurring")))
        recurring = rate(fee, Usage(Fraction(1))).total
        # One string or a map: both totals include the fee, the two by model do not.
        got |= {"recurring_line": recurring, "total": line + recurring}
    return got


def graduated_percentage(case: Case) -> Got:
    """The fee on the part of a running amount that came last."""
    price = make_price(case, Graduated(case_tiers(case.config.only("tiers"))))
    usage = case.usage.only("cumulative_amount", "previous_cumulative_amount")
    billed = _progressive(
        price,
        usage.number("previous_cumulative_amount", ZERO),
        usage.number("cumulative_amount"),
    )
    return {"incremental": billed[1], "cumulative": billed[2], "total": billed[1]}


def progressive(case: Case) -> Got:
    """graduated_progressive, package_progressive: a quantity on top of one already billed."""
    config = case.config.only(
        "tiers", "package_amount", "package_size", "free_units", "minimum_amount", "maximum_amount"
    )
    tiers = config.need("tiers", "package_size") == "tiers"
    charge: Charge = Graduated(case_tiers(config)) if tiers else case_package(config)
    usage = case.usage.only("already_billed_quantity", "quantity")
    already = usage.number("already_billed_quantity", ZERO)
    billed = _progressive(make_price(case, charge), already, already + usage.number("quantity"))
    return {
        "already_billed": billed[0],
        "this_invoice": billed[1],
        "period_total": billed[2],
        "total": billed[1],
    }


def _progressive(price: Price, already: Fraction, now: Fraction) -> tuple[Money, Money, Money]:
    """Nothing used before means that nothing was billed before, not even a flat amount."""
    before = Usage(already) if already else None
    result = rate_progressive(price, before, Usage(now))
    return result.already, result.this, result.total
