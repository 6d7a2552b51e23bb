"""Invoice path, for looking: invoices and lists of them.

Invariant: a draft's lines are computed when it is read, in the reader's one snapshot, by the function that finalizing
it calls; a final invoice is shown as it was stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from uuid import UUID

import queries.discounts
import queries.invoices
from queries.models import Invoice

from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceKind, InvoiceStatus
from billing.domain.money import Money
from billing.domain.totals import Totals
from billing.runtime.db import Connection
from billing.services import customers, subscriptions
from billing.services.draft_claims import Blocked
from billing.services.draft_money import Computed
from billing.services.invoice_line import Line
from billing.services.invoice_lines import preview
from billing.services.invoice_lines_store import read_lines
from billing.services.parties import Parties, current_parties, read_parties


class InvoiceNotFound(NotFound):
    """There is no such invoice in this tenant."""

    reason = "INVOICE_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class InvoiceFilter:
    """Which invoices to list; None for all. `blocked`: only drafts whose time has come and that cannot be final."""

    customer_id: UUID | None = None
    subscription_id: UUID | None = None
    status: InvoiceStatus | None = None
    blocked: bool = False
    kind: InvoiceKind | None = None
    number: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    finalized_from: datetime | None = None
    finalized_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class InvoiceView:
    """An invoice and its lines; of a draft, with the amounts that finalizing it now would give."""

    row: Invoice
    lines: Sequence[Line]
    discounts: Sequence[InvoiceDiscount]
    parties: Parties


@dataclass(frozen=True, slots=True)
class InvoiceDiscount:
    """What a discount took from an invoice; `percent` is None for one by amount."""

    discount_id: UUID
    display_name: str
    percent: Fraction | None
    amount: Money


async def read_invoice(tx: Connection, tenant_id: UUID, invoice_id: UUID) -> Invoice:
    """The invoice as it is stored. Raises InvoiceNotFound."""
    row = await queries.invoices.get_invoice(tx, tenant_id=tenant_id, id=invoice_id)
    if row is None:
        raise InvoiceNotFound(metadata={"invoice": encode(Prefix.INVOICE, invoice_id)})
    return row


async def get_invoice(tx: Connection, tenant_id: UUID, invoice_id: UUID) -> InvoiceView:
    """The invoice with its lines. For a draft `tx` must read one snapshot. Raises InvoiceNotFound.

    A draft whose lines cannot be computed now is shown without them, blocked for RATING_FAILED.
    """
    row = await read_invoice(tx, tenant_id, invoice_id)
    if row.status == InvoiceStatus.DRAFT:
        return await view_draft(tx, row)
    assert row.parties is not None, "they are written with the number"
    lines, discounts = await read_lines(tx, row), await _read_discounts(tx, row)
    return InvoiceView(row, lines, discounts, read_parties(row.parties))


async def view_draft(tx: Connection, row: Invoice) -> InvoiceView:
    """A draft with the lines and amounts that finalizing it now would give. `tx` must read one snapshot."""
    outcome = await preview(tx, row)
    if isinstance(outcome, Computed):
        return await view_computed(tx, row, outcome)
    blocked = replace(row, blocked_reason=Blocked.RATING_FAILED.value)
    return InvoiceView(blocked, (), (), await current_parties(tx, row.tenant_id, row.customer_id))


async def view_computed(tx: Connection, row: Invoice, computed: Computed) -> InvoiceView:
    """An invoice with lines and amounts that were computed for it."""
    parties = await current_parties(tx, row.tenant_id, row.customer_id)
    discounts = [
        InvoiceDiscount(used.row.id, used.row.display_name, used.percent, used.amount)
        for used in computed.discounts
    ]
    return InvoiceView(with_totals(row, computed.totals), computed.lines, discounts, parties)


async def _read_discounts(tx: Connection, row: Invoice) -> list[InvoiceDiscount]:
    return [
        InvoiceDiscount(
            used.discount_id,
            used.display_name,
            None if used.percent is None else Fraction(used.percent),
            Money(used.amount, row.currency),
        )
        for used in await queries.discounts.list_invoice_discounts(
            tx, tenant_id=row.tenant_id, invoice_id=row.id
        )
    ]


def with_totals(draft: Invoice, totals: Totals) -> Invoice:
    """The draft with the amounts that finalizing it now would give."""
    return replace(
        draft,
        subtotal=totals.subtotal.minor_units,
        discount=totals.discount.minor_units,
        tax=totals.tax.minor_units,
        total=totals.total.minor_units,
        to_credit_balance=totals.to_credit_balance.minor_units,
        credit_applied=totals.credit_applied.minor_units,
        amount_due=totals.amount_due.minor_units,
    )


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
        blocked=wanted.blocked,
        kind=wanted.kind,
        number=wanted.number,
        created_from=wanted.created_from,
        created_until=wanted.created_until,
        finalized_from=wanted.finalized_from,
        finalized_until=wanted.finalized_until,
        page_max=limit,
    )
