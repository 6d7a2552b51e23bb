"""Invoice path, step 5: what becoming final does to discounts, items and credit balances.

Invariant: everything here is in the finalizing transaction, under the locks of the subscriptions (or manual drafts) and
of the credit balances, so that a discount, an item or a unit of credit is used once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import queries.discounts
import queries.invoice_items
from queries.models import Invoice

from billing.domain.decimals import decimal_text
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.services import credit_ledger
from billing.services.credit_ledger import CreditKind, Entry
from billing.services.draft_money import Computed, UsedDiscount, in_order

Ready = tuple[Invoice, Computed]


async def write_money(
    tx: Connection, ready: Sequence[Ready], today: Mapping[UUID, datetime], *, now: datetime
) -> None:
    """Writes what drafts that become final use and give; `today` is business time by tenant."""
    await _write_discounts(
        tx,
        [
            (draft, position, used)
            for draft, computed in ready
            for position, used in enumerate(computed.discounts, start=1)
        ],
    )
    await _take_items(tx, ready)
    by_id = {draft.id: computed for draft, computed in ready}
    ordered = in_order([draft for draft, _ in ready])
    entries = [
        entry
        for draft in ordered
        for entry in _entries(draft, by_id[draft.id], today[draft.tenant_id])
    ]
    await credit_ledger.append(tx, entries, now=now)


def _entries(draft: Invoice, computed: Computed, at: datetime) -> list[Entry]:
    """At most one: an invoice with credit left over has nothing to apply it to."""
    given: list[tuple[CreditKind, Money]] = [
        (CreditKind.NEGATIVE_TOTAL, computed.totals.to_credit_balance),
        (CreditKind.APPLIED, -computed.totals.credit_applied),
    ]
    return [
        Entry(draft.tenant_id, draft.customer_id, kind, amount, at, draft.id)
        for kind, amount in given
        if amount
    ]


async def _write_discounts(
    tx: Connection, rows: Sequence[tuple[Invoice, int, UsedDiscount]]
) -> None:
    if not rows:
        return
    await queries.discounts.insert_invoice_discounts(
        tx,
        tenant_ids=[draft.tenant_id for draft, _, _ in rows],
        invoice_ids=[draft.id for draft, _, _ in rows],
        positions=[position for _, position, _ in rows],
        discount_ids=[used.row.id for _, _, used in rows],
        display_names=[used.row.display_name for _, _, used in rows],
        percents=[
            None if used.percent is None else decimal_text(used.percent) for _, _, used in rows
        ],
        amounts=[used.amount.minor_units for _, _, used in rows],
        counteds=[used.counted for _, _, used in rows],
    )


async def _take_items(tx: Connection, ready: Sequence[Ready]) -> None:
    taken = sorted(
        (draft.tenant_id, line.invoice_item_id, draft.id)
        for draft, computed in ready
        for line in computed.lines
        if line.invoice_item_id
    )
    if not taken:
        return
    moved = await queries.invoice_items.take_invoice_items(
        tx,
        tenant_ids=[tenant for tenant, _, _ in taken],
        ids=[item for _, item, _ in taken],
        invoice_ids=[invoice for _, _, invoice in taken],
    )
    assert moved == len(taken), "items move under the locks that their finalizer holds"
