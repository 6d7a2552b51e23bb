"""Invoice path, step 5: lines as they are stored, and as they are read again.

Invariant: a line is written once, by the finalization of its invoice, and never changes; what is read back equals
what was computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeVar
from uuid import UUID

import queries.finalization
import queries.invoices
from queries.models import Invoice, InvoiceLine

from billing.domain.decimals import decimal_text
from billing.domain.money import Money
from billing.domain.period import Period
from billing.runtime.db import Connection
from billing.services.invoice_line import Derivation, EarlierAmount, Line, LineKind

Value = TypeVar("Value")


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
        period_starts=[line.period.start for _, _, line in rows],
        period_ends=[line.period.end for _, _, line in rows],
        quantities=[decimal_text(line.quantity) for _, _, line in rows],
        amounts=[line.amount.minor_units for _, _, line in rows],
        steps=[json.dumps(list(line.steps)) for _, _, line in rows],
        derivations=[_stored(line.derivation) for _, _, line in rows],
    )


async def read_lines(tx: Connection, invoice: Invoice) -> list[Line]:
    """The lines of a final invoice, in order."""
    rows = await queries.invoices.list_invoice_lines(
        tx, tenant_id=invoice.tenant_id, invoice_id=invoice.id
    )
    return [_line(row, invoice.currency) for row in rows]


def _line(row: InvoiceLine, currency: str) -> Line:
    return Line(
        LineKind(row.kind),
        row.description,
        _given(row.item_id),
        _given(row.price_id),
        Period(_given(row.period_start), _given(row.period_end)),
        Fraction(row.quantity),
        Money(row.amount, currency),
        json.loads(row.steps),
        _read(json.loads(row.derivation), currency),
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


def _given(value: Value | None) -> Value:
    assert value is not None, "every line of a cycle's invoice names its item, price and period"
    return value
