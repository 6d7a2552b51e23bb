"""`tollway pricing check`: totals, balances and credit notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from billing.domain.cases.case import Case, NotSupported, Section, number
from billing.domain.cases.compare import Value
from billing.domain.cases.prices import ZERO, Got
from billing.domain.credit_note import unused_time_credit
from billing.domain.money import Money, total_of
from billing.domain.totals import AmountDiscount, Line, Totals, apply_credit, invoice_totals

# The one order that the rules know, each step by the names that cases use.
_ORDER: Final = (
    {"lines", "subtotal", "subscriptions", "subscription", "usage", "charges", "fees"},
    {"coupon", "coupons", "discount", "discounts"},
    {"tax", "taxes"},
    {"credit_notes", "credit_note", "credit", "credits", "credit_balance"},
    {"prepaid_credits", "prepaid", "wallet"},
    {"total", "amount_due"},
)
_USAGE: Final = (
    "subscriptions",
    "usage",
    "coupons",
    "credit_notes",
    "prepaid_credits",
    "charge",
    "credit",
    "paid",
    "refund",
)


def credit_note_unused_period(case: Case) -> Got:
    """What a credit note gives back for the unused part of a period."""
    config = case.config.only("amount", "tax_percent")
    net, tax = unused_time_credit(
        config.number("amount"),
        config.number("tax_percent", ZERO),
        case.usage.only("unused_fraction").fraction("unused_fraction"),
        case.currency,
    )
    return {"net": net, "tax": tax, "total": net + tax}


def invoice(case: Case) -> Got:
    """invoice_totals and invoice_balance: one invoice from its lines to what is due."""
    config = case.config.only("lines", "coupon", "tax_percent", "order")
    usage = case.usage.only(*_USAGE)
    if any(_amounts(usage, "refund")):
        raise NotSupported("usage.refund")
    _check_order(config)
    currency = case.currency
    coupons = _amounts(config, "coupon") + _amounts(usage, "coupons")
    balances = {
        name: total_of((Money.of_exact(a, currency) for a in _amounts(usage, name)), currency)
        for name in ("credit_notes", "credit", "prepaid_credits")
    }
    totals = invoice_totals(
        _lines(config, usage, currency),
        [AmountDiscount(Money.of_exact(amount, currency)) for amount in coupons],
        total_of(balances.values(), currency),
    )
    paid = total_of((Money.of_exact(a, currency) for a in _amounts(usage, "paid")), currency)
    return _sums(case, totals, balances, paid)


def _lines(config: Section, usage: Section, currency: str) -> list[Line]:
    percent = config.number("tax_percent", ZERO)
    lines = []
    for row in config.children("lines"):
        row.only("amount", "tax_percent")
        amount = Money.of_exact(row.number("amount"), currency)
        lines.append(Line(amount, row.number("tax_percent", percent)))
    for name in ("subscriptions", "usage", "charge"):
        amounts = [Money.of_exact(raw, currency) for raw in _amounts(usage, name)]
        lines.extend(Line(amount, percent) for amount in amounts)
    return lines


def _amounts(section: Section, name: str) -> list[Fraction]:
    return [number(raw, f"{section.path}.{name}") for raw in section.items(name)]


def _check_order(config: Section) -> None:
    """A case may write its order of steps down; only ours can be calculated."""
    words = [word for raw in config.items("order") for word in _words(str(raw))]
    at = 0
    for word in words:
        places = [place for place, names in enumerate(_ORDER) if word in names]
        if not places or places[0] < at:
            raise NotSupported(f"config.order={', '.join(words)}")
        at = places[0]


def _words(text: str) -> list[str]:
    """The steps that an order names: "coupons_before_tax", "credit notes, prepaid credits"."""
    steps = re.sub(r"[ _-](?:before|then)[ _-]", ",", text.lower())
    return re.findall(r"[a-z_]+", re.sub(r"\b[ -]\b", "_", steps))


def _sums(case: Case, totals: Totals, balances: Mapping[str, Money], paid: Money) -> Got:
    """The sums under the names that vendors give them."""
    net = totals.subtotal - totals.discount
    # What was paid too much goes to the credit balance; nothing is due below zero.
    due = totals.amount_due - apply_credit(totals.amount_due, paid)
    used, left = {}, totals.total
    for name, available in balances.items():
        used[name] = apply_credit(left, available)
        left -= used[name]
    got: dict[str, Value] = {
        "subtotal": totals.subtotal,
        "charged": totals.total,
        "coupon": totals.discount,
        "coupons": totals.discount,
        "discount": totals.discount,
        "coupon_per_line": [line.discount for line in totals.lines],
        "net_per_line": [line.net for line in totals.lines],
        "tax_per_line": [line.tax for line in totals.lines],
        "net": net,
        "total_before_tax": net,
        "total_excluding_tax": net,
        "tax": totals.tax,
        "taxes": totals.tax,
        "total_including_tax": totals.total,
        "credit_notes": used["credit_notes"],
        "prepaid_credits": used["prepaid_credits"],
        "credit_applied": totals.credit_applied,
        "to_credit_balance": totals.to_credit_balance,
        "paid": paid,
        "amount_due": due,
        "balance": due,
    }
    # Some vendors call "total" what is left to pay. It can only mean that where a case has
    # credits and does not name the amount due as well.
    expected = case.expected if isinstance(case.expected, Mapping) else {}
    expects_due = bool(expected.keys() & {"amount_due", "balance"})
    got["total"] = totals.total if expects_due else totals.amount_due
    return got
