"""Invoice path, step 4, for looking ahead: the invoice that finalizing now would give.

Invariant: it is computed by the functions that finalize, over what they would lock, in one snapshot, and nothing is
written; so it differs from the final invoice by its number and its time alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import queries.finalization
from queries.models import FeePeriod, Invoice

from billing.domain.invoice import InvoiceAction, InvoiceStatus, apply_lifecycle
from billing.runtime.db import Connection
from billing.services.draft_claims import Blocked
from billing.services.draft_money import Computed
from billing.services.finalization import statuses_of
from billing.services.finalize_now import RatingFailed
from billing.services.invoice_lines import preview
from billing.services.invoices import InvoiceView, read_invoice, view_computed


async def preview_invoice(
    tx: Connection, tenant_id: UUID, invoice_id: UUID, *, now: datetime
) -> InvoiceView:
    """A draft as it would be final now. `tx` reads one snapshot; `now` is machine time.

    A draft that waits for usage is shown by what is folded, blocked for USAGE_PENDING. Raises InvoiceNotFound,
    InvalidTransition, RatingFailed.
    """
    draft = await read_invoice(tx, tenant_id, invoice_id)
    apply_lifecycle(InvoiceStatus(draft.status), InvoiceAction.FINALIZE, now)
    pending = await queries.finalization.list_usage_pending(
        tx, tenant_ids=[tenant_id], ids=[invoice_id]
    )
    return await preview_draft(tx, draft, Blocked.USAGE_PENDING if pending else None, now=now)


async def preview_draft(
    tx: Connection,
    draft: Invoice,
    blocked: Blocked | None,
    *,
    now: datetime,
    to_come: Sequence[FeePeriod] = (),
) -> InvoiceView:
    """The same of a draft that need not be stored, with fees that are not either. Raises RatingFailed."""
    outcome = await preview(tx, draft, to_come)
    if not isinstance(outcome, Computed):
        error = outcome.error
        raise RatingFailed(error.message, metadata={"cause": error.reason}) from error
    status = draft.status if blocked else statuses_of(draft, outcome, now)[-1]
    return await view_computed(tx, replace(draft, status=status, blocked_reason=blocked), outcome)
