"""Invoice path, steps 2 and 3: a closed cycle gets its draft.

Invariant: at most one invoice that counts per subscription, kind and boundary, by the database's key; a repeated,
late or replayed event makes no second one, and one that comes late still makes it. Every period that ends has its
invoice, be it of zero, which is paid as it becomes final; an activation without a fee, billed trial or waiting item has
none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import queries.invoices
from queries.models import Invoice
from tollway.invoice.v1 import invoice_events_pb2 as payloads
from tollway.invoice.v1 import invoice_service_pb2 as pb
from tollway.scheduler.v1 import scheduler_events_pb2

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_times
from billing.services.incoming import Incoming
from billing.services.subscription_lifecycle import ROUTER

GRACE_DEFAULT: Final = timedelta(hours=1)

CycleKey = tuple[UUID, UUID, str, datetime]  # tenant, subscription, kind, boundary


async def draft_for_cycles(
    tx: Connection,
    incoming: Sequence[Incoming],
    now: datetime,
    *,
    grace: timedelta = GRACE_DEFAULT,
) -> Collection[UUID]:
    """Consumer `invoice`, of billing.cycle.closed: a draft that becomes final when the grace has passed."""
    by_cycle: dict[CycleKey, Incoming] = {}
    for event in incoming:
        by_cycle.setdefault(_cycle_of(event), event)
    today = await business_times(tx, {event.tenant_id for event in incoming}, now)
    drafts = await queries.invoices.insert_drafts(
        tx,
        grace_s=grace.total_seconds(),
        tenant_ids=[tenant for tenant, _, _, _ in by_cycle],
        ids=[new_id(now) for _ in by_cycle],
        subscription_ids=[subscription for _, subscription, _, _ in by_cycle],
        kinds=[kind for _, _, kind, _ in by_cycle],
        boundaries=[boundary for _, _, _, boundary in by_cycle],
        correlation_ids=[event.correlation_id for event in by_cycle.values()],
        causation_ids=[event.event_id for event in by_cycle.values()],
        created_ats=[today[event.tenant_id] for event in by_cycle.values()],
    )
    told = []
    for draft in drafts:
        assert draft.subscription_id is not None, "it was made for a subscription's cycle"
        key = (draft.tenant_id, draft.subscription_id, draft.kind, draft.boundary)
        told.append(generated(draft, by_cycle[key].cause(ROUTER)))
    await events.emit(tx, told, now=now)
    return ()


async def note_rating(
    tx: Connection, incoming: Sequence[Incoming], now: datetime
) -> Collection[UUID]:
    """Consumer `invoice`, of rating.completed: nothing to do.

    A draft stores no lines: they are computed from the records whenever somebody looks, and once more when it becomes
    final. The consumer takes the event in, so that a subscription's events reach it in order and without a gap.
    """
    return ()


def _cycle_of(event: Incoming) -> CycleKey:
    payload = event.payload(scheduler_events_pb2.BillingCycleClosed)
    subscription = decode(Prefix.SUBSCRIPTION, payload.subscription_id)
    boundary = payload.boundary_time.ToDatetime(UTC)
    return event.tenant_id, subscription, payload.kind, boundary


def generated(draft: Invoice, cause: Cause) -> events.NewEvent:
    """invoice.generated of a new draft."""
    resource = encode(Prefix.INVOICE, draft.id)
    return events.NewEvent(
        draft.tenant_id, resource, draft.version, _payload(draft), draft.created_at, cause
    )


def _payload(draft: Invoice) -> payloads.InvoiceGenerated:
    payload = payloads.InvoiceGenerated(
        invoice_id=encode(Prefix.INVOICE, draft.id),
        customer_id=encode(Prefix.CUSTOMER, draft.customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, draft.subscription_id)
        if draft.subscription_id
        else "",
        kind=pb.InvoiceKind.Value(f"INVOICE_KIND_{draft.kind.upper()}"),
        replaces_invoice_id=encode(Prefix.INVOICE, draft.replaces) if draft.replaces else "",
    )
    payload.boundary_time.FromDatetime(draft.boundary)
    if draft.finalize_at is not None:
        payload.finalize_time.FromDatetime(draft.finalize_at)
    return payload
