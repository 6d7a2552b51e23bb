"""Invoice path, step 5: the credit that customers have, per currency.

Invariant: the balance is the sum of the ledger's entries and never below zero. Whoever reads it to act on it holds the
balance's row first; entries are appended, each with the balance after it, and never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import queries.credit
from queries.models import CreditLedger, Invoice

from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.runtime.ids import new_id

Account = tuple[UUID, UUID, str]  # tenant, customer, currency


class CreditKind(StrEnum):
    """Why a balance changed."""

    GRANT = "grant"
    ADJUSTMENT = "adjustment"
    NEGATIVE_TOTAL = "negative_total"  # an invoice's lines sum to less than nothing
    APPLIED = "applied"  # used by an invoice that became final
    PAYMENT_EXCESS = "payment_excess"
    CREDIT_NOTE = "credit_note"
    VOID_RETURN = "void_return"


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of a balance; a negative amount uses credit. `at` is business time."""

    tenant_id: UUID
    customer_id: UUID
    kind: CreditKind
    amount: Money
    at: datetime
    invoice_id: UUID | None = None
    reason: str = ""


async def lock_balances(tx: Connection, accounts: Sequence[Account]) -> dict[Account, Money]:
    """Makes and locks the balances of these accounts; answers what they hold."""
    if not accounts:
        return {}
    tenants = [tenant for tenant, _, _ in accounts]
    customers = [customer for _, customer, _ in accounts]
    currencies = [currency for _, _, currency in accounts]
    await queries.credit.make_balances(
        tx, tenant_ids=tenants, customer_ids=customers, currencies=currencies
    )
    rows = await queries.credit.lock_balances(
        tx, tenant_ids=tenants, customer_ids=customers, currencies=currencies
    )
    return {
        (row.tenant_id, row.customer_id, row.currency): Money(row.balance, row.currency)
        for row in rows
    }


async def append(tx: Connection, entries: Sequence[Entry], *, now: datetime) -> list[CreditLedger]:
    """Writes entries in their order, for callers that hold the balances' locks. `now` is machine time."""
    if not entries:
        return []
    return await queries.credit.append_credit(
        tx,
        tenant_ids=[entry.tenant_id for entry in entries],
        ids=[new_id(now) for _ in entries],
        customer_ids=[entry.customer_id for entry in entries],
        currencies=[entry.amount.currency for entry in entries],
        kinds=[entry.kind for entry in entries],
        amounts=[entry.amount.minor_units for entry in entries],
        reasons=[entry.reason for entry in entries],
        invoice_ids=[entry.invoice_id for entry in entries],
        ats=[entry.at for entry in entries],
    )


async def return_applied(tx: Connection, invoice: Invoice, at: datetime, *, now: datetime) -> None:
    """Gives the credit that an invoice had used back to its customer, as it is voided.

    For callers that hold the invoice's lock; takes that of the balance. `at` is business time.
    """
    if not invoice.credit_applied:
        return
    await lock_balances(tx, [(invoice.tenant_id, invoice.customer_id, invoice.currency)])
    amount = Money(invoice.credit_applied, invoice.currency)
    kind = CreditKind.VOID_RETURN
    entry = Entry(invoice.tenant_id, invoice.customer_id, kind, amount, at, invoice.id)
    await append(tx, [entry], now=now)
