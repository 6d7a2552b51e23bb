"""Usage path, beside it: thresholds on what a customer uses, or what it costs so far.

Invariant: a threshold belongs to one customer and watches one figure; what it watches never changes, its value may.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import queries.usage_thresholds
from queries.models import UsageThreshold

from billing.domain.currency import exponent_of
from billing.domain.decimals import parse_decimal
from billing.domain.errors import Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.business_time import business_time
from billing.services.catalog import get_meter
from billing.services.customers import get_customer

CUSTOMER_THRESHOLDS_MAX: Final = 50
CHANGEABLE: Final = ("quantity", "amount", "note")


class ThresholdNotFound(NotFound):
    """There is no such threshold in this tenant."""

    reason = "THRESHOLD_NOT_FOUND"


class TooManyThresholds(Precondition):
    """A customer has at most 50 thresholds; delete one."""

    reason = "TOO_MANY_THRESHOLDS"


@dataclass(frozen=True, slots=True)
class ThresholdValue:
    """What is watched for: a quantity as a decimal string, or else an amount of minor units in a currency."""

    quantity: str = ""
    amount: int | None = None
    currency: str = ""

    def parsed(self) -> Decimal | None:
        """The quantity, if it is one. Raises InvalidDecimal, UnknownCurrency, Invalid."""
        if bool(self.quantity) == (self.amount is not None):
            raise Invalid.field("quantity", "give a quantity or an amount, and not both.")
        if self.amount is not None:
            exponent_of(self.currency, path="amount.currency_code")
            if self.amount <= 0:
                raise Invalid.field("amount", "must be more than zero.")
            return None
        quantity = parse_decimal(self.quantity, path="quantity")
        if quantity <= 0:
            raise Invalid.field("quantity", "must be more than zero.")
        return quantity


@dataclass(frozen=True, slots=True)
class NewThreshold:
    """A threshold to make. A quantity is of one meter; an amount may be of one, or of all that the customer uses."""

    customer_id: UUID | None
    external_customer_id: str
    meter_key: str
    value: ThresholdValue
    note: str


async def create_threshold(
    tx: Connection, tenant_id: UUID, draft: NewThreshold, *, now: datetime
) -> UsageThreshold:
    """A new threshold. Raises CustomerNotFound, MeterNotFound, TooManyThresholds, and what its value raises."""
    quantity = draft.value.parsed()
    if quantity is not None and not draft.meter_key:
        raise Invalid.field("meter_key", "a quantity is of a meter: name it.")
    customer = await get_customer(
        tx, tenant_id, customer_id=draft.customer_id, external_id=draft.external_customer_id
    )
    meter = await get_meter(tx, tenant_id, key=draft.meter_key) if draft.meter_key else None
    row = await queries.usage_thresholds.insert_threshold(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        customer_id=customer.id,
        meter_id=meter.id if meter else None,
        quantity=quantity,
        amount=draft.value.amount,
        currency=draft.value.currency or None,
        note=draft.note,
        now=await business_time(tx, tenant_id, now),
        most=CUSTOMER_THRESHOLDS_MAX,
    )
    if row is None:
        limit = str(CUSTOMER_THRESHOLDS_MAX)
        raise TooManyThresholds(
            metadata={"customer": encode(Prefix.CUSTOMER, customer.id), "limit": limit}
        )
    return row


async def get_threshold(tx: Connection, tenant_id: UUID, threshold_id: UUID) -> UsageThreshold:
    """The threshold. Raises ThresholdNotFound."""
    row = await queries.usage_thresholds.get_threshold(tx, tenant_id=tenant_id, id=threshold_id)
    if row is None:
        raise _not_found(threshold_id)
    return row


async def list_thresholds(
    tx: Connection, tenant_id: UUID, customer_id: UUID | None, before: UUID | None, *, limit: int
) -> Sequence[UsageThreshold]:
    """Newest first, of one customer if it is given."""
    return await queries.usage_thresholds.list_thresholds(
        tx, tenant_id=tenant_id, customer_id=customer_id, before=before, page_max=limit
    )


async def update_threshold(
    tx: Connection,
    tenant_id: UUID,
    threshold_id: UUID,
    changed: Collection[str],
    value: ThresholdValue,
    note: str,
) -> UsageThreshold:
    """Another value or note: the fields that `changed` names, of CHANGEABLE. It stays crossed where it was.

    Raises ThresholdNotFound, InvalidDecimal, Invalid.
    """
    if not changed or set(changed) - set(CHANGEABLE):
        raise Invalid.field("update_mask", f"must name fields of: {', '.join(CHANGEABLE)}.")
    row = await get_threshold(tx, tenant_id, threshold_id)
    if "amount" in changed and value.currency != row.currency:
        raise Invalid.field(
            "amount", f"must be in {row.currency or 'no currency: it is a quantity'}."
        )
    if "quantity" in changed and row.quantity is None:
        raise Invalid.field("quantity", "this threshold watches an amount.")
    moves = bool({"quantity", "amount"} & set(changed))
    quantity = value.parsed() if moves else row.quantity
    updated = await queries.usage_thresholds.update_threshold(
        tx,
        tenant_id=tenant_id,
        id=threshold_id,
        quantity=quantity,
        amount=value.amount if moves else row.amount,
        note=note if "note" in changed else row.note,
    )
    if updated is None:
        raise _not_found(threshold_id)
    return updated


async def delete_threshold(tx: Connection, tenant_id: UUID, threshold_id: UUID) -> None:
    """Watches no more. Raises ThresholdNotFound."""
    if not await queries.usage_thresholds.delete_threshold(
        tx, tenant_id=tenant_id, id=threshold_id
    ):
        raise _not_found(threshold_id)


def _not_found(threshold_id: UUID) -> ThresholdNotFound:
    return ThresholdNotFound(metadata={"threshold": encode(Prefix.THRESHOLD, threshold_id)})
