"""Invoice path, step 5: drafts become open, and paid at once when their total is zero.

Invariant: the usage periods that the drafts bill or adjust are locked in one sorted statement before their records are
read in later ones, so each record is either read here or folded behind the lock and marked for an adjustment. Numbers
are drawn last, by one statement for the whole batch, so they have no gap. Everything is one transaction: a crash
leaves drafts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.finalization
import queries.subscriptions
from queries.models import Invoice

from billing.domain.errors import BillingError
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceAction, InvoiceStatus, apply_lifecycle
from billing.domain.usage import MACHINE as USAGE_PERIODS
from billing.domain.usage import UsagePeriodAction
from billing.runtime.db import Connection, Database
from billing.services import credit_ledger, draft_claims, events, invoice_lines
from billing.services.actor import Cause
from billing.services.business_time import business_times
from billing.services.draft_claims import (
    Blocked,
    Claimed,
    FinalizationSettings,
    OnTestClocks,
)
from billing.services.draft_money import Computed, in_order
from billing.services.draft_periods import DraftPeriods, lock_periods, share_out
from billing.services.due_invoices import due_times
from billing.services.invoice_events import status_changes, usage_billed
from billing.services.invoice_line import USAGE_KINDS, Line
from billing.services.invoice_lines import Uncomputed
from billing.services.invoice_lines_store import insert_lines
from billing.services.invoice_money import write_money
from billing.services.quantity_reads import key_of

log = logging.getLogger(__name__)

_BILLABLE: Final = [str(status) for status in USAGE_PERIODS.sources(UsagePeriodAction.BILL)]


@dataclass(frozen=True, slots=True)
class Finalized:
    """A draft with what it becomes; `statuses` are the states it goes through, draft first."""

    draft: Invoice
    computed: Computed
    periods: DraftPeriods
    statuses: Sequence[InvoiceStatus]

    @property
    def usage(self) -> Sequence[Line]:
        """The lines that bill or adjust a usage period."""
        return [line for line in self.computed.lines if line.kind in USAGE_KINDS]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which drafts became final and which are left, with the reason by invoice id where they are blocked.

    `errors` says of a draft that cannot be rated what is wrong.
    """

    invoices: Sequence[Invoice]
    left: Sequence[Claimed]
    blocked: Mapping[UUID, Blocked]
    errors: Mapping[UUID, BillingError]


async def finalize_due(
    database: Database,
    settings: FinalizationSettings,
    *,
    now: datetime,
    scope: OnTestClocks | None = None,
) -> int:
    """Claims due drafts in one transaction and makes them final in the next; returns how many it claimed.

    `now` is machine time.
    """
    async with database.transaction() as tx:
        claimed = await draft_claims.claim_due(tx, scope, settings, now)
    if not claimed:
        return 0
    async with database.transaction() as tx:
        done = await finalize(tx, claimed, now=now)
    if done.left:
        # Apart, since it locks usage periods, which nobody may who holds a number sequence.
        async with database.transaction() as tx:
            await draft_claims.let_go(tx, done.left, done.blocked, settings, now)
    return len(claimed)


async def finalize(
    tx: Connection, claimed: Sequence[Claimed], *, now: datetime, cause: Cause | None = None
) -> Outcome:
    """Makes claimed drafts final, as far as they can be; the caller lets go of what is left, after the commit.

    `cause` is who asked for it; without one, each follows from its cycle.
    """
    taken = await _take(tx, claimed)
    locked = await lock_periods(tx, taken)
    drafts = await queries.finalization.lock_drafts(
        tx, tenant_ids=[one.tenant_id for one in taken], ids=[one.id for one in taken]
    )
    pending = await queries.finalization.list_usage_pending(
        tx, tenant_ids=[draft.tenant_id for draft in drafts], ids=[draft.id for draft in drafts]
    )
    blocked = dict.fromkeys(pending, Blocked.USAGE_PENDING)
    billable = [draft for draft in drafts if draft.id not in blocked]
    # Before credit and discounts are read: else two subscriptions of one customer spend them twice.
    await credit_ledger.lock_balances(
        tx, [(draft.tenant_id, draft.customer_id, draft.currency) for draft in billable]
    )
    periods = share_out(billable, locked)
    outcomes = await invoice_lines.compute(tx, billable, periods)
    ready, errors = [], {}
    for draft in billable:
        match outcomes[draft.id]:
            case Computed(lines=[]) if draft.subscription_id is None:
                blocked[draft.id] = Blocked.INVOICE_EMPTY
            case Computed() as computed:
                statuses = statuses_of(draft, computed, now)
                ready.append(Finalized(draft, computed, periods[draft.id], statuses))
            case Uncomputed(error):
                log.warning("%s cannot be rated: %s", encode(Prefix.INVOICE, draft.id), error)
                blocked[draft.id], errors[draft.id] = Blocked.RATING_FAILED, error
    invoices = await _write(tx, ready, cause, now) if ready else []
    final = {invoice.id for invoice in invoices}
    return Outcome(invoices, [one for one in claimed if one.id not in final], blocked, errors)


async def _take(tx: Connection, claimed: Sequence[Claimed]) -> list[Claimed]:
    """Those whose subscription nobody else holds, which is locked now; manual drafts need none."""
    owners = sorted(
        {(one.tenant_id, one.subscription_id) for one in claimed if one.subscription_id}
    )
    held = await queries.finalization.take_subscriptions(
        tx, tenant_ids=[tenant for tenant, _ in owners], ids=[identity for _, identity in owners]
    )
    free = {(row.tenant_id, row.id) for row in held}
    return [
        one
        for one in claimed
        if one.subscription_id is None or (one.tenant_id, one.subscription_id) in free
    ]


def statuses_of(draft: Invoice, computed: Computed, now: datetime) -> list[InvoiceStatus]:
    """The states that a draft goes through as it becomes final, draft first: paid at once when nothing is due."""
    opened, _ = apply_lifecycle(InvoiceStatus(draft.status), InvoiceAction.FINALIZE, now)
    statuses = [InvoiceStatus(draft.status), opened]
    if not computed.totals.amount_due:
        statuses.append(apply_lifecycle(opened, InvoiceAction.SETTLE, now)[0])
    return statuses


async def _write(
    tx: Connection, ready: Sequence[Finalized], cause: Cause | None, now: datetime
) -> list[Invoice]:
    """Lines, periods, versions, then numbers, then events."""
    await insert_lines(tx, [(one.draft, one.computed.lines) for one in ready])
    await _bill_periods(tx, ready)
    versions = await _draw_versions(tx, ready)
    today = await business_times(tx, {one.draft.tenant_id for one in ready}, now)
    await write_money(tx, [(one.draft, one.computed) for one in ready], today, now=now)
    invoices = await _number(tx, ready, today)
    told = []
    for one in ready:
        final = invoices[one.draft.id]
        at = today[final.tenant_id]
        if one.usage:
            told.append(usage_billed(final, one.usage, versions[final.id], at, cause))
        told.extend(status_changes(final, one.statuses, at, cause))
    await events.emit(tx, told, now=now)
    return list(invoices.values())


async def _bill_periods(tx: Connection, ready: Sequence[Finalized]) -> None:
    """The drafts' own usage periods are billed; nothing of them, or of those adjusted, is due any more."""
    own = sorted({key_of(row) for one in ready for row in one.periods.own})
    if own:
        billed = await queries.finalization.bill_usage_periods(
            tx,
            tenant_ids=[key.tenant_id for key in own],
            item_ids=[key.item_id for key in own],
            period_starts=[key.period_start for key in own],
            from_statuses=_BILLABLE,
        )
        assert billed == len(own), "the rows are locked, and a billed one has no draft"
    done = sorted({key_of(row) for one in ready for row in one.periods})
    if done:
        await queries.finalization.delete_marks(
            tx,
            tenant_ids=[key.tenant_id for key in done],
            item_ids=[key.item_id for key in done],
            period_starts=[key.period_start for key in done],
        )


async def _draw_versions(tx: Connection, ready: Sequence[Finalized]) -> dict[UUID, int]:
    """The subscription's version for each invoice that tells usage.billed, in order."""
    telling: dict[tuple[UUID, UUID], list[UUID]] = {}
    for one in ready:
        if one.usage and one.draft.subscription_id:
            key = (one.draft.tenant_id, one.draft.subscription_id)
            telling.setdefault(key, []).append(one.draft.id)
    rows = await queries.subscriptions.advance_versions(
        tx,
        tenant_ids=[tenant for tenant, _ in telling],
        ids=[identity for _, identity in telling],
        events=[len(invoices) for invoices in telling.values()],
    )
    versions = {}
    for row in rows:
        invoices = telling[row.tenant_id, row.id]
        first = row.version - len(invoices) + 1
        versions.update({identity: first + n for n, identity in enumerate(invoices)})
    return versions


async def _number(
    tx: Connection, ready: Sequence[Finalized], today: Mapping[UUID, datetime]
) -> dict[UUID, Invoice]:
    await queries.finalization.lock_invoice_sequences(
        tx, tenant_ids=sorted({one.draft.tenant_id for one in ready})
    )
    by_id = {one.draft.id: one for one in ready}
    ordered = [by_id[draft.id] for draft in in_order([one.draft for one in ready])]
    totals = [one.computed.totals for one in ordered]
    due_at = await due_times(tx, [one.draft for one in ordered], today)
    numbered = await queries.finalization.number_invoices(
        tx,
        tenant_ids=[one.draft.tenant_id for one in ordered],
        ids=[one.draft.id for one in ordered],
        statuses=[one.statuses[-1] for one in ordered],
        versions=[len(one.statuses) - 1 for one in ordered],
        subtotals=[one.subtotal.minor_units for one in totals],
        discounts=[one.discount.minor_units for one in totals],
        taxes=[one.tax.minor_units for one in totals],
        totals=[one.total.minor_units for one in totals],
        to_credit_balances=[one.to_credit_balance.minor_units for one in totals],
        credits_applied=[one.credit_applied.minor_units for one in totals],
        ats=[today[one.draft.tenant_id] for one in ordered],
        due_ats=[due_at[one.draft.id] for one in ordered],
    )
    assert len(numbered) == len(ready), "the drafts are locked, and a tenant has its sequence"
    return {invoice.id: invoice for invoice in numbered}
