"""Invoice path, beside its steps: credit that a tenant gives a customer, and corrects.

Invariant: a balance never goes below zero, every change has a reason that the ledger and the audit keep, and an entry
is never changed: a mistake is corrected by another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.credit
import queries.customers
from queries.models import CreditBalance, CreditLedger
from tollway.invoice.v1 import credit_events_pb2

from billing.domain.errors import Invalid, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.services import credit_ledger, events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.credit_ledger import CreditKind, Entry
from billing.services.customers import CustomerNotFound, get_customer
from billing.services.invoice_events import wire_money


class CreditBalanceTooLow(Precondition):
    """The credit balance holds less than that; it never goes below zero."""

    reason = "CREDIT_BALANCE_TOO_LOW"


@dataclass(frozen=True, slots=True)
class CreditChange:
    """What to add to a customer's balance; a negative amount, of an adjustment, takes."""

    customer_id: UUID
    kind: CreditKind
    amount: Money
    reason: str


async def change_credit(
    tx: Connection, tenant_id: UUID, change: CreditChange, cause: Cause, *, now: datetime
) -> CreditLedger:
    """The new ledger entry; emits credit_balance.adjusted. Raises CustomerNotFound, CreditBalanceTooLow, Invalid."""
    if not change.amount or (change.kind is CreditKind.GRANT and change.amount.minor_units < 0):
        raise Invalid.field("amount", "must be above zero; AdjustCreditBalance takes credit away")
    customer = await queries.customers.advance_customer_version(
        tx, tenant_id=tenant_id, id=change.customer_id
    )
    if customer is None:
        raise CustomerNotFound(metadata={"customer": encode(Prefix.CUSTOMER, change.customer_id)})
    account = (tenant_id, customer.id, change.amount.currency)
    held = (await credit_ledger.lock_balances(tx, [account]))[account]
    if (held + change.amount).minor_units < 0:
        raise CreditBalanceTooLow(
            f"The balance holds {held}; take at most that.", metadata={"balance": held.to_text()}
        )
    at = await business_time(tx, tenant_id, now)
    entry = Entry(tenant_id, customer.id, change.kind, change.amount, at, reason=change.reason)
    (row,) = await credit_ledger.append(tx, [entry], now=now)
    resource = encode(Prefix.CUSTOMER, customer.id)
    payload = credit_events_pb2.CreditBalanceAdjusted(
        credit_entry_id=encode(Prefix.CREDIT_ENTRY, row.id),
        customer_id=resource,
        amount=wire_money(row.amount, row.currency),
        balance=wire_money(row.balance_after, row.currency),
    )
    event = events.NewEvent(tenant_id, resource, customer.version, payload, at, cause)
    await events.emit(tx, [event], now=now)
    return row


async def list_balances(tx: Connection, tenant_id: UUID, customer_id: UUID) -> list[CreditBalance]:
    """A customer's balances by currency; none before the first entry. Raises CustomerNotFound."""
    await get_customer(tx, tenant_id, customer_id=customer_id, external_id="")
    return await queries.credit.list_credit_balances(
        tx, tenant_id=tenant_id, customer_id=customer_id
    )


async def list_ledger(
    tx: Connection,
    tenant_id: UUID,
    customer_id: UUID,
    currency: str,
    *,
    before: int | None,
    limit: int,
) -> list[CreditLedger]:
    """At most `limit` entries, newest first, those before the entry with the number `before`.

    An empty currency means the only one. Raises CustomerNotFound, or Invalid where there are several.
    """
    balances = await list_balances(tx, tenant_id, customer_id)
    if not currency and len(balances) > 1:
        held = ", ".join(balance.currency for balance in balances)
        raise Invalid.field("currency_code", f"the customer has balances in {held}; name one")
    if not balances:
        return []
    return await queries.credit.list_credit_ledger(
        tx,
        tenant_id=tenant_id,
        customer_id=customer_id,
        currency=currency or balances[0].currency,
        before=before,
        page_max=limit,
    )
