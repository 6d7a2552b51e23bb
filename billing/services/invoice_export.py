"""Invoice path, for looking: final invoices and their lines as rows for spreadsheets, page by page.

Invariant: rows come in the order in which the invoices were made, each invoice once; what one export gave, a later one
gives again, with more behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final
from uuid import UUID

import queries.invoice_export
from queries.invoice_export import ListInvoicesToExportRow
from queries.models import InvoiceLine

from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.domain.spreadsheet import Cell
from billing.runtime.db import Connection

INVOICE_COLUMNS: Final = (
    "invoice_id", "number", "status", "kind", "customer_id", "customer_external_id", "customer_name",
    "subscription_id", "currency", "boundary_time", "finalized_time", "due_time", "subtotal", "discount", "tax",
    "total", "to_credit_balance", "credit_applied", "amount_paid", "amount_credited", "amount_due", "memo",
)  # fmt: skip
LINE_COLUMNS: Final = (
    "invoice_id", "number", "status", "customer_id", "customer_external_id", "currency", "line_number", "kind",
    "description", "period_start", "period_end", "quantity", "amount", "discount", "net", "tax_percent", "tax",
    "subscription_item_id", "price_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportFilter:
    """Which final invoices; the time range, half open, is that of becoming final. None for all."""

    customer_id: UUID | None = None
    finalized_from: datetime | None = None
    finalized_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExportPage:
    """Rows, and the last invoice that was looked at: where the next page goes on; None at the end."""

    rows: Sequence[Sequence[Cell]]
    last: UUID | None


async def invoice_rows(
    tx: Connection, tenant_id: UUID, wanted: ExportFilter, *, after: UUID | None, limit: int
) -> ExportPage:
    """A row per invoice, of at most `limit` invoices after the one named."""
    found = await _page(tx, tenant_id, wanted, after, limit)
    return ExportPage([_invoice_row(row) for row in found], _last(found, limit))


async def line_rows(
    tx: Connection, tenant_id: UUID, wanted: ExportFilter, *, after: UUID | None, limit: int
) -> ExportPage:
    """A row per line, of at most `limit` invoices after the one named."""
    found = await _page(tx, tenant_id, wanted, after, limit)
    lines = await queries.invoice_export.list_lines_to_export(
        tx, tenant_id=tenant_id, invoice_ids=[row.id for row in found]
    )
    by_id = {row.id: row for row in found}
    return ExportPage(
        [_line_row(by_id[line.invoice_id], line) for line in lines], _last(found, limit)
    )


async def _page(
    tx: Connection, tenant_id: UUID, wanted: ExportFilter, after: UUID | None, limit: int
) -> list[ListInvoicesToExportRow]:
    return await queries.invoice_export.list_invoices_to_export(
        tx,
        tenant_id=tenant_id,
        after=after,
        customer_id=wanted.customer_id,
        finalized_from=wanted.finalized_from,
        finalized_until=wanted.finalized_until,
        page_max=limit,
    )


def _last(found: Sequence[ListInvoicesToExportRow], limit: int) -> UUID | None:
    return found[-1].id if len(found) == limit else None


def _invoice_row(row: ListInvoicesToExportRow) -> list[Cell]:
    amounts = (
        row.subtotal, row.discount, row.tax, row.total, row.to_credit_balance, row.credit_applied, row.amount_paid,
        row.amount_credited, row.amount_due,
    )  # fmt: skip
    return [
        encode(Prefix.INVOICE, row.id),
        row.number,
        row.status,
        row.kind,
        encode(Prefix.CUSTOMER, row.customer_id),
        row.customer_external_id,
        row.customer_name,
        encode(Prefix.SUBSCRIPTION, row.subscription_id) if row.subscription_id else None,
        row.currency,
        row.boundary,
        row.finalized_at,
        row.due_at,
        *(Money(amount, row.currency) for amount in amounts),
        row.memo,
    ]


def _line_row(invoice: ListInvoicesToExportRow, line: InvoiceLine) -> list[Cell]:
    currency = invoice.currency
    return [
        encode(Prefix.INVOICE, invoice.id),
        invoice.number,
        invoice.status,
        encode(Prefix.CUSTOMER, invoice.customer_id),
        invoice.customer_external_id,
        currency,
        line.line_number,
        line.kind,
        line.description,
        line.period_start,
        line.period_end,
        Fraction(line.quantity),
        Money(line.amount, currency),
        Money(line.discount, currency),
        Money(line.amount - line.discount, currency),
        Fraction(line.tax_percent),
        Money(line.tax, currency),
        encode(Prefix.SUBSCRIPTION_ITEM, line.item_id) if line.item_id else None,
        encode(Prefix.PRICE, line.price_id) if line.price_id else None,
    ]
