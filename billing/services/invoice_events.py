"""Invoice path, step 5: what a final invoice tells.

Invariant: these events come after the number and carry it; each belongs to the correlation of the cycle that was
closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

from queries.models import Invoice
from tollway.invoice.v1 import invoice_events_pb2 as payloads
from tollway.invoice.v1 import invoice_service_pb2 as pb
from tollway.type.v1 import money_pb2, time_range_pb2
from tollway.usage.v1 import usage_events_pb2

from billing.domain.decimals import decimal_text
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceStatus
from billing.domain.period import Period
from billing.services.actor import Cause
from billing.services.due_subscriptions import SCHEDULER
from billing.services.events import NewEvent
from billing.services.invoice_line import Line


def status_changes(
    invoice: Invoice, statuses: Sequence[InvoiceStatus], at: datetime, cause: Cause | None = None
) -> list[NewEvent]:
    """invoice.status.changed for each step of `statuses`; the invoice is as it stands after the last one.

    `cause` is who asked for it; without one it follows from the cycle.
    """
    resource = encode(Prefix.INVOICE, invoice.id)
    steps = list(pairwise(statuses))
    first = invoice.version - len(steps) + 1
    return [
        NewEvent(
            invoice.tenant_id,
            resource,
            first + n,
            payloads.InvoiceStatusChanged(
                invoice_id=resource,
                customer_id=encode(Prefix.CUSTOMER, invoice.customer_id),
                subscription_id=encode(Prefix.SUBSCRIPTION, invoice.subscription_id)
                if invoice.subscription_id
                else "",
                old_status=wire_status(old),
                new_status=wire_status(new),
                number=invoice.number or "",
                total=wire_money(invoice.total, invoice.currency),
                amount_due=wire_money(invoice.amount_due, invoice.currency),
            ),
            at,
            cause or _cause(invoice),
        )
        for n, (old, new) in enumerate(steps)
    ]


def became_due(invoice: Invoice) -> NewEvent:
    """invoice.due, of an invoice that was just marked as told."""
    assert invoice.due_at is not None, "it is final"
    assert invoice.due_told_at is not None, "it was just marked"
    resource = encode(Prefix.INVOICE, invoice.id)
    payload = payloads.InvoiceFellDue(
        invoice_id=resource,
        customer_id=encode(Prefix.CUSTOMER, invoice.customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, invoice.subscription_id)
        if invoice.subscription_id
        else "",
        number=invoice.number or "",
        total=wire_money(invoice.total, invoice.currency),
        amount_due=wire_money(invoice.amount_due, invoice.currency),
    )
    payload.due_time.FromDatetime(invoice.due_at)
    at, cause = invoice.due_told_at, _cause(invoice)
    return NewEvent(invoice.tenant_id, resource, invoice.version, payload, at, cause)


def usage_billed(
    invoice: Invoice,
    lines: Sequence[Line],
    version: int,
    at: datetime,
    cause: Cause | None = None,
) -> NewEvent:
    """usage.billed of the subscription: which periods stand on the invoice, with their quantities."""
    resource = encode(Prefix.SUBSCRIPTION, _subscription(invoice))
    payload = usage_events_pb2.UsageBilled(
        subscription_id=resource, invoice_id=encode(Prefix.INVOICE, invoice.id)
    )
    # The groups of a meter have a line each, and their period one entry. A true-up names no meter.
    held: dict[tuple[UUID, Period, UUID], Fraction] = {}
    for line in lines:
        if line.meter_id is not None:
            key = (*line.usage_key, line.meter_id)
            held[key] = held.get(key, Fraction(0)) + line.quantity
    spans = {period: _range(period) for _, period, _ in held}
    for (item_id, period, meter_id), quantity in held.items():
        payload.periods.add(
            subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, item_id),
            meter_id=encode(Prefix.METER, meter_id),
            quantity=decimal_text(quantity),
            period=spans[period],
        )
    return NewEvent(invoice.tenant_id, resource, version, payload, at, cause or _cause(invoice))


def wire_status(status: str) -> pb.InvoiceStatus.ValueType:
    """A stored status as the contract spells it."""
    return pb.InvoiceStatus.Value(f"INVOICE_STATUS_{status.upper()}")


def _range(period: Period) -> time_range_pb2.TimeRange:
    span = time_range_pb2.TimeRange()
    span.start.FromDatetime(period.start)
    span.end.FromDatetime(period.end)
    return span


def _cause(invoice: Invoice) -> Cause:
    return Cause(SCHEDULER, invoice.correlation_id, invoice.causation_id)


def _subscription(invoice: Invoice) -> UUID:
    assert invoice.subscription_id is not None, "a cycle's invoice has a subscription"
    return invoice.subscription_id


def wire_money(minor_units: int, currency: str) -> money_pb2.Money:
    """An amount as payloads carry it."""
    return money_pb2.Money(minor_units=minor_units, currency_code=currency)
