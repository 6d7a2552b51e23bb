"""`tollway pricing check`: the models that price units, packages and percentages."""

from __future__ import annotations

from fractions import Fraction

from billing.domain.cases.case import Case, NotSupported, Section, number
from billing.domain.cases.compare import Approximate
from billing.domain.cases.prices import ZERO, Got, case_package, make_price, rounding_mode
from billing.domain.currency import exponent_of
from billing.domain.decimals import round_exact
from billing.domain.money import Money
from billing.domain.pricing import Percentage, PerUnit, Price, QuantityRounding, Usage, rate
from billing.domain.totals import commitment_true_up, tax_of


def package(case: Case) -> Got:
    """Whole packages."""
    case.config.only("package_amount", "package_size", "free_units", "minimum_amount")
    return _lines(case, make_price(case, case_package(case.config)))


def per_unit(case: Case) -> Got:
    """A unit amount; the quantity, or the amount in an unusual way, may be rounded."""
    config = case.config.only("unit_amount", "quantity_rounding", "rounding")
    rounding = None
    if config.has("quantity_rounding"):
        how = config.child("quantity_rounding").only("mode", "decimals")
        mode = rounding_mode(how.text("mode"), "config.quantity_rounding.mode")
        rounding = QuantityRounding(mode, how.whole("decimals", 0))
    price = make_price(case, PerUnit(config.number("unit_amount")), quantity_rounding=rounding)
    if not config.has("rounding"):
        return _lines(case, price)
    rated = rate(price, Usage(case.usage.only("quantity").number("quantity")))
    mode = rounding_mode(config.text("rounding"), "config.rounding")
    rounded = round_exact(rated.exact, exponent_of(case.currency), mode)
    return {"total": Money.of_exact(rounded, case.currency)}


def per_unit_transformed(case: Case) -> Got:
    """The quantity divided and rounded to whole units first."""
    config = case.config.only("unit_amount", "transform_quantity")
    how = config.child("transform_quantity").only("divide_by", "round")
    mode = rounding_mode(how.text("round"), "config.transform_quantity.round")
    rounding = QuantityRounding(mode, 0, how.number("divide_by"))
    return _lines(
        case, make_price(case, PerUnit(config.number("unit_amount")), quantity_rounding=rounding)
    )


def per_unit_with_minimum(case: Case) -> Got:
    """The true-up is a line of its own."""
    case.config.only("unit_amount", "minimum_amount")
    return _lines(case, make_price(case, PerUnit(case.config.number("unit_amount"))))


def _lines(case: Case, price: Price) -> Got:
    rated = rate(price, Usage(case.usage.only("quantity").number("quantity")))
    return {"usage_line": rated.amount, "true_up_line": rated.true_up, "total": rated.total}


def minimum_prorated(case: Case) -> Got:
    """A minimum for so many days of the period, with tax per line."""
    config = case.config.only("unit_amount", "minimum_amount", "tax_percent")
    usage = case.usage.only("quantity", "days", "period_days")
    scale = usage.number("days") / usage.number("period_days")
    price = make_price(case, PerUnit(config.number("unit_amount")))
    rated = rate(price, Usage(usage.number("quantity")), scale=scale)
    percent = config.number("tax_percent", ZERO)
    tax = tax_of(rated.amount, percent) + tax_of(rated.true_up, percent)
    return {
        "usage_line": rated.amount,
        "true_up_line": rated.true_up,
        "tax": tax,
        "total": rated.total + tax,
    }


def minimum_commitment(case: Case) -> Got:
    """The plan's promise for a period."""
    promised = case.config.only("minimum_commitment").number("minimum_commitment")
    amount = case.usage.only("amount").number("amount")
    line = Money.of_exact(amount, case.currency)
    extra = commitment_true_up(promised, line)
    return {"usage_line": line, "true_up_line": extra, "total": line + extra}


def percentage(case: Case) -> Got:
    """A rate and a fee per event, with a number of events or an amount free."""
    config = case.config.only(
        "rate_percent",
        "fixed_amount_per_event",
        "free_units_per_events",
        "free_units_per_total_aggregation",
    )
    charge = Percentage(
        config.number("rate_percent"),
        config.number("fixed_amount_per_event", ZERO),
        config.whole("free_units_per_events", 0) or None,
        config.number("free_units_per_total_aggregation", ZERO) or None,
    )
    rated = rate(make_price(case, charge), _events(case.usage))
    return {"unrounded": Approximate(rated.exact), "rounded": rated.amount, "total": rated.amount}


def _events(usage: Section) -> Usage:
    if usage.has("events"):
        usage.only("events", "amount", "events_count")
        return Usage.of_values([_event_amount(raw) for raw in usage.items("events")])
    usage.only("amount", "events_count")
    count = usage.whole("events_count") if usage.has("events_count") else None
    return Usage(usage.number("amount"), None, count)


def _event_amount(raw: object) -> Fraction:
    if not isinstance(raw, dict):
        return number(raw, "usage.events")
    event = Section.of(raw, "usage.events").only("amount", "t")
    return event.number("amount")


def rounding(case: Case) -> Got:
    """One way to round, for each value."""
    config = case.config.only("rounding", "exponent")
    mode = rounding_mode(config.text("rounding", "half_up"), "config.rounding")
    decimals = config.whole("exponent") if config.has("exponent") else exponent_of(case.currency)
    if decimals < 0:
        raise NotSupported("config.exponent below zero")
    values = case.usage.only("values").items("values")
    return {
        "total": [round_exact(number(value, "usage.values"), decimals, mode) for value in values]
    }
