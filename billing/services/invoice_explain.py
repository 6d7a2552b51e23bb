"""Invoice path, for looking: why a line says what it says.

Invariant: everything that a final line was computed from was stored with it and is shown as it was; what the records
say now stands beside it, by the function that bills, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.invoice_explain
from queries.models import UsagePeriod

from billing.domain.errors import BillingError, NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money, total_of
from billing.domain.period import Period
from billing.runtime.db import Connection
from billing.services.invoice_line import USAGE_KINDS, Line, LineKind
from billing.services.invoices import InvoiceView, get_invoice
from billing.services.period_rating import rate_periods
from billing.services.price_book import BookedPrice, load_prices
from billing.services.quantity_reads import group_key_of, key_of
from billing.services.usage_periods import nominal_of


class InvoiceLineNotFound(NotFound):
    """The invoice has no line with this number; its lines are numbered from 1."""

    reason = "INVOICE_LINE_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class UsageOfLine:
    """The usage period behind a line, as it is now.

    `records` are those that count, of the line's group where it has one. `now` is what the whole period costs by all of
    its records, None when it cannot be rated; `billed` is what final invoices carry for it, waived ones too.
    """

    row: UsagePeriod
    meter_key: str
    aggregation: str
    records: int
    first_used_at: datetime | None
    last_used_at: datetime | None
    now: Money | None
    billed: Money

    @property
    def nominal(self) -> Period:
        """The full period that it is cut from."""
        return nominal_of(self.row)


@dataclass(frozen=True, slots=True)
class LineExplanation:
    """A line, its price, and the usage behind it where it bills usage."""

    invoice: InvoiceView
    number: int
    line: Line
    booked: BookedPrice | None
    usage: UsageOfLine | None


async def explain_line(
    tx: Connection, tenant_id: UUID, invoice_id: UUID, number: int
) -> LineExplanation:
    """How the line with that number came about. `tx` reads one snapshot.

    Raises InvoiceNotFound and InvoiceLineNotFound.
    """
    view = await get_invoice(tx, tenant_id, invoice_id)
    if not 1 <= number <= len(view.lines):
        raise InvoiceLineNotFound(
            metadata={
                "invoice": encode(Prefix.INVOICE, invoice_id),
                "line_number": str(number),
            }
        )
    line = view.lines[number - 1]
    booked = None
    if line.price_id is not None:
        booked = (await load_prices(tx, [(tenant_id, line.price_id)])).get(
            (tenant_id, line.price_id)
        )
    return LineExplanation(view, number, line, booked, await _usage(tx, tenant_id, line))


def _group_key(line: Line, group_by: Sequence[str]) -> str | None:
    """The line's group, in the meter's own order: the stored dimensions have none."""
    if not line.dimensions:
        return None
    return group_key_of(tuple(line.dimensions.get(name, "") for name in group_by))


async def _usage(tx: Connection, tenant_id: UUID, line: Line) -> UsageOfLine | None:
    if line.kind not in (*USAGE_KINDS, LineKind.TRUE_UP):
        return None
    item_id, period = line.usage_key
    found = await queries.invoice_explain.get_usage_period(
        tx, tenant_id=tenant_id, item_id=item_id, period_start=period.start
    )
    if found is None:
        return None
    row = found.usage_period
    counted = await queries.invoice_explain.count_usage_of_line(
        tx,
        tenant_id=tenant_id,
        item_id=item_id,
        period_start=period.start,
        group_key=_group_key(line, found.group_by),
    )
    assert counted is not None, "a count is always a row"
    rated = (await rate_periods(tx, [row]))[key_of(row)]
    billed = await queries.invoice_explain.list_billed_amounts(
        tx, tenant_id=tenant_id, item_id=item_id, period_start=period.start
    )
    return UsageOfLine(
        row,
        found.meter_key,
        found.aggregation,
        counted.records,
        counted.first_used_at,
        counted.last_used_at,
        None if isinstance(rated, BillingError) else rated.total,
        _sum(billed, line.amount.currency),
    )


def _sum(amounts: Sequence[int], currency: str) -> Money:
    return total_of((Money(amount, currency) for amount in amounts), currency)
