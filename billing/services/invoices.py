"""Invoice path, for looking: invoices and lists of them.

Invariant: a draft's lines are computed when it is read, in the reader's one snapshot, by the function that finalizing
it calls; a final invoice is shown as it was stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import queries.invoices
from queries.models import Invoice

from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceStatus
from billing.runtime.db import Connection
from billing.services import customers, subscriptions
from billing.services.draft_claims import Blocked
from billing.services.invoice_line import Line
from billing.services.invoice_lines import Computed, preview
from billing.services.invoice_lines_store import read_lines


class InvoiceNotFound(NotFound):
    """There is no such invoice in this tenant."""

    reason = "INVOICE_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class InvoiceFilter:
    """Which invoices to list; None for all."""

    customer_id: UUID | None = None
    subscription_id: UUID | None = None
    status: InvoiceStatus | None = None


@dataclass(frozen=True, slots=True)
class InvoiceView:
    """An invoice and its lines; of a draft, with the amounts that finalizing it now would give."""

    row: Invoice
    lines: Sequence[Line]


async def get_invoice(tx: Connection, tenant_id: UUID, invoice_id: UUID) -> InvoiceView:
    """The invoice with its lines. For a draft `tx` must read one snapshot. Raises InvoiceNotFound.

    A draft whose lines cannot be computed now is shown without them, blocked for RATING_FAILED.
    """
    row = await queries.invoices.get_invoice(tx, tenant_id=tenant_id, id=invoice_id)
    if row is None:
        raise InvoiceNotFound(metadata={"invoice": encode(Prefix.INVOICE, invoice_id)})
    if row.status != InvoiceStatus.DRAFT:
        return InvoiceView(row, await read_lines(tx, row))
    outcome = (await preview(tx, [row]))[row.id]
    if not isinstance(outcome, Computed):
        return InvoiceView(replace(row, blocked_reason=Blocked.RATING_FAILED.value), ())
    totals = outcome.totals
    previewed = replace(
        row,
        subtotal=totals.subtotal.minor_units,
        total=totals.total.minor_units,
        amount_due=totals.amount_due.minor_units,
    )
    return InvoiceView(previewed, outcome.lines)


async def list_invoices(
    tx: Connection, tenant_id: UUID, wanted: InvoiceFilter, *, before: UUID | None, limit: int
) -> list[Invoice]:
    """At most `limit` invoices, newest first, those made before the invoice `before`.

    Drafts are listed without amounts: those are computed for one draft at a time, by get_invoice. Raises
    CustomerNotFound or SubscriptionNotFound when the filter names what does not exist.
    """
    if wanted.customer_id is not None:
        await customers.get_customer(tx, tenant_id, customer_id=wanted.customer_id, external_id="")
    if wanted.subscription_id is not None:
        await subscriptions.get_subscription(tx, tenant_id, subscription_id=wanted.subscription_id)
    return await queries.invoices.list_invoices(
        tx,
        tenant_id=tenant_id,
        before=before,
        customer_id=wanted.customer_id,
        subscription_id=wanted.subscription_id,
        status=wanted.status,
        page_max=limit,
    )
