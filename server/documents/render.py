"""The rim: invoices and credit notes as pages for people, on screen and on A4.

Invariant: everything that people wrote is escaped; a page is whole in itself and asks for nothing from anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from billing.domain.decimals import decimal_text
from billing.domain.money import Money
from billing.domain.period import Period
from billing.services.credit_notes import CreditNoteView
from billing.services.invoice_line import Line
from billing.services.invoices import InvoiceView

ACCENT_DEFAULT: Final = "#3b5bdb"
# A graduated price of a hundred tiers would bury the amount; the derivation is in ExplainLine.
STEP_LINES_MAX: Final = 12
_MINUS: Final = "\N{MINUS SIGN}"
_DASH: Final = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class TaxSum:
    """What a rate of tax is charged on, and what it gives; minor units."""

    percent: Fraction
    net: int
    tax: int


def invoice_page(view: InvoiceView) -> str:
    """An invoice as one HTML document."""
    taxes = _taxes(view.lines)
    named = sum(used.amount.minor_units for used in view.discounts)
    return _TEMPLATES.get_template("invoice.html.j2").render(
        invoice=view.row,
        lines=view.lines,
        discounts=view.discounts,
        other_discount=view.row.discount - named,
        taxes=taxes,
        taxed=bool(taxes),
        period=_period(view.lines),
        parties=view.parties,
        zone=view.parties.time_zone,
        accent=view.parties.brand.accent_color or ACCENT_DEFAULT,
        running=f"{view.parties.seller.name}  {view.row.number or 'Draft'}",
        step_lines_max=STEP_LINES_MAX,
    )


def credit_note_page(view: CreditNoteView) -> str:
    """A credit note as one HTML document."""
    parties = view.parties
    return _TEMPLATES.get_template("credit_note.html.j2").render(
        note=view.row,
        invoice_number=view.invoice_number,
        lines=view.lines,
        parties=parties,
        zone=parties.time_zone,
        accent=parties.brand.accent_color or ACCENT_DEFAULT,
        running=f"{parties.seller.name}  {view.row.number}",
    )


def money_text(minor_units: int, currency: str) -> str:
    """Major units in groups of three, with a true minus: 1234567 USD cents are 12,345.67."""
    return number_text(Money(minor_units, currency).to_text())


def number_text(text: str) -> str:
    """A decimal string in groups of three."""
    sign = _MINUS if text.startswith("-") else ""
    whole, point, decimals = text.lstrip("-").partition(".")
    return f"{sign}{int(whole or 0):,}{point}{decimals}" if whole.isdigit() else text


def quantity_text(value: Fraction | Decimal) -> str:
    """A quantity or a percentage in groups of three, without trailing zeros."""
    return number_text(decimal_text(Fraction(value)))


def day_text(instant: datetime, zone: str) -> str:
    """The day of an instant where the customer is, such as 1 May 2024."""
    local = instant.astimezone(ZoneInfo(zone))
    return f"{local.day} {local:%B %Y}"


def span_text(period: Period, zone: str) -> str:
    """A half-open period as people write it: its last day is named where it ends at midnight."""
    start, end = (at.astimezone(ZoneInfo(zone)) for at in (period.start, period.end))
    if any((at.hour, at.minute, at.second, at.microsecond) != (0, 0, 0, 0) for at in (start, end)):
        return f"{day_text(start, zone)}, {start:%H:%M} {_DASH} {day_text(end, zone)}, {end:%H:%M}"
    last = end.replace(tzinfo=None) - timedelta(days=1)
    ends = f"{last.day} {last:%B %Y}"
    begins = day_text(start, zone)
    return begins if begins == ends else f"{begins} {_DASH} {ends}"


def css_string(text: str) -> Markup:
    """A text as a string of CSS, whatever it holds: each character but letters and digits as its number."""
    plain = (c if c.isascii() and c.isalnum() else f"\\{ord(c):x} " for c in text)
    return Markup(f'"{"".join(plain)}"')  # noqa: S704 - nothing is left that could end the string


def _taxes(lines: Sequence[Line]) -> list[TaxSum]:
    """By rate, lowest first; nothing where no line is taxed."""
    sums: dict[Fraction, list[int]] = defaultdict(lambda: [0, 0])
    for line in lines:
        if line.tax is not None and line.discount is not None:
            pair = sums[line.tax_percent or Fraction(0)]
            pair[0] += line.amount.minor_units - line.discount.minor_units
            pair[1] += line.tax.minor_units
    if not any(percent for percent in sums):
        return []
    return [TaxSum(percent, net, tax) for percent, (net, tax) in sorted(sums.items())]


def _period(lines: Sequence[Line]) -> Period | None:
    """From the first start to the last end."""
    periods = [line.period for line in lines if line.period is not None]
    if not periods:
        return None
    return Period(min(one.start for one in periods), max(one.end for one in periods))


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("server.documents"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        money=money_text,
        number=number_text,
        quantity=quantity_text,
        day=day_text,
        span=span_text,
        css_string=css_string,
    )
    return templates


_TEMPLATES: Final = _templates()
