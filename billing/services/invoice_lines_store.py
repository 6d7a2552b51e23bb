"""Invoice path, step 5: lines as they are stored, and as they are read again.

Invariant: a line is written once, by the finalization of its invoice, and never changes; what is read back equals
what was computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

import queries.finalization
import queries.invoices
from queries.models import Invoice, InvoiceLine

from billing.domain.decimals import decimal_text
from billing.domain.money import Money
from billing.domain.period import Period
from billing.runtime.db import Connection
from billing.services.invoice_line import Derivation, EarlierAmount, Line, LineKind

_ZERO: Final = Fraction(0)


async def insert_lines(tx: Connection, invoices: Sequence[tuple[Invoice, Sequence[Line]]]) -> None:
    """The lines of drafts that become final, numbered 1, 2, 3 within each."""
    rows = [
        (invoice, number, line)
        for invoice, lines in invoices
        for number, line in enumerate(lines, start=1)
    ]
    await queries.finalization.insert_lines(
        tx,
        tenant_ids=[invoice.tenant_id for invoice, _, _ in rows],
        invoice_ids=[invoice.id for invoice, _, _ in rows],
        line_numbers=[number for _, number, _ in rows],
        kinds=[line.kind for _, _, line in rows],
        descriptions=[line.description for _, _, line in rows],
        item_ids=[line.item_id for _, _, line in rows],
        price_ids=[line.price_id for _, _, line in rows],
        period_starts=[line.period.start if line.period else None for _, _, line in rows],
        period_ends=[line.period.end if line.period else None for _, _, line in rows],
        quantities=[decimal_text(line.quantity) for _, _, line in rows],
        amounts=[line.amount.minor_units for _, _, line in rows],
        discounts=[_units(line.discount) for _, _, line in rows],
        tax_percents=[decimal_text(line.tax_percent or _ZERO) for _, _, line in rows],
        taxes=[_units(line.tax) for _, _, line in rows],
        invoice_item_ids=[line.invoice_item_id for _, _, line in rows],
        steps=[json.dumps(list(line.steps)) for _, _, line in rows],
        derivations=[_stored(line.derivation) for _, _, line in rows],
        dimensions=[json.dumps(dict(line.dimensions)) for _, _, line in rows],
    )


async def read_lines(tx: Connection, invoice: Invoice) -> list[Line]:
    """The lines of a final invoice, in order."""
    rows = await queries.invoices.list_invoice_lines(
        tx, tenant_id=invoice.tenant_id, invoice_id=invoice.id
    )
    return [_line(row, invoice.currency) for row in rows]


def _line(row: InvoiceLine, currency: str) -> Line:
    period = None
    if row.period_start is not None and row.period_end is not None:
        period = Period(row.period_start, row.period_end)
    return Line(
        LineKind(row.kind),
        row.description,
        row.item_id,
        row.price_id,
        period,
        Fraction(row.quantity),
        Money(row.amount, currency),
        json.loads(row.steps),
        _read(json.loads(row.derivation), currency),
        dimensions=json.loads(row.dimensions),
        invoice_item_id=row.invoice_item_id,
        tax_percent=Fraction(row.tax_percent),
        discount=Money(row.discount, currency),
        tax=Money(row.tax, currency),
    )


def _stored(derivation: Derivation) -> str:
    stored: dict[str, Any] = {"exact": str(derivation.exact), "share": str(derivation.share)}
    if derivation.earlier:
        stored["earlier"] = [
            [str(one.invoice_id), one.number, one.line_number, one.amount.minor_units, one.waived]
            for one in derivation.earlier
        ]
    return json.dumps(stored)


def _read(stored: Mapping[str, Any], currency: str) -> Derivation:
    return Derivation(
        Fraction(stored["exact"]),
        Fraction(stored["share"]),
        tuple(
            EarlierAmount(UUID(invoice), number, line, Money(amount, currency), waived)
            for invoice, number, line, amount, waived in stored.get("earlier", ())
        ),
    )


def _units(amount: Money | None) -> int:
    assert amount is not None, "a line is stored with its totals"
    return amount.minor_units
