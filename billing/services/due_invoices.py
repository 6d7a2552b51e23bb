"""Invoice path, step 6: when a final invoice is to be paid, and that its time has come.

Invariant: the due time is fixed with the number and never moves; invoice.due is told once for an invoice that is open
then, in the transaction that marks it as told, by whichever scheduler comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.due_invoices
from queries.models import Invoice

from billing.domain.period import Interval, Schedule
from billing.runtime.db import Connection, Database
from billing.services import events
from billing.services.draft_claims import OnTestClocks
from billing.services.invoice_events import became_due

PAYMENT_TERMS_DEFAULT_DAYS: Final = 30


async def due_times(
    tx: Connection, drafts: Sequence[Invoice], today: Mapping[UUID, datetime]
) -> dict[UUID, datetime]:
    """When drafts that become final now are due, by invoice; `today` is the business time by tenant.

    So many days of the customer's calendar later, at the same time of day: at once for 0.
    """
    customers = sorted({(draft.tenant_id, draft.customer_id) for draft in drafts})
    rows = await queries.due_invoices.list_payment_terms(
        tx,
        tenant_ids=[tenant for tenant, _ in customers],
        customer_ids=[customer for _, customer in customers],
    )
    terms = {(row.tenant_id, row.id): row for row in rows}
    due = {}
    for draft in drafts:
        row = terms[draft.tenant_id, draft.customer_id]
        days = PAYMENT_TERMS_DEFAULT_DAYS if row.days is None else row.days
        now = today[draft.tenant_id]
        due[draft.id] = Schedule(now, row.time_zone, Interval.DAY).boundary(days)
    return due


async def tell_due(
    database: Database, *, batch_max: int, now: datetime, scope: OnTestClocks | None = None
) -> int:
    """Emits invoice.due for at most `batch_max` open invoices whose due time has come; returns how many.

    Without a scope, those of tenants that live in machine time, which `now` is.
    """
    async with database.transaction() as tx:
        if scope is None:
            rows = await queries.due_invoices.take_due_invoices(tx, now=now, batch_max=batch_max)
        else:
            rows = await queries.due_invoices.take_due_invoices_on_test_clocks(
                tx, tenant_id=scope.tenant_id, batch_max=batch_max
            )
        await events.emit(tx, [became_due(row) for row in rows], now=now)
    return len(rows)
