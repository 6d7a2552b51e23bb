"""Subscription path, step 3, the licensed side: what a change or an end charges and gives back.

Invariant: only what was charged is given back, once, and by the same share of the same price; a change at T charges the
old price up to the cut and the new one from it on. By day the cut is a local midnight, else T itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import queries.fee_periods
from queries.fee_periods import ListLiveFeesRow
from queries.models import FeePeriod, Subscription

from billing.domain.invoice import InvoiceKind
from billing.domain.period import Period
from billing.domain.pricing import BillingTiming
from billing.runtime.db import Connection
from billing.services.fee_periods import IMPORTED, FeeReason


@dataclass(frozen=True, slots=True)
class BillKey:
    """The invoice of a subscription that carries a line."""

    kind: InvoiceKind
    boundary: datetime


@dataclass(frozen=True, slots=True)
class LicensedItem:
    """A licensed item as it is from the cut on."""

    item_id: UUID
    price_id: UUID
    quantity: Decimal
    timing: BillingTiming


@dataclass(frozen=True, slots=True)
class NewFee:
    """A fee period to write. `what` names item, price and quantity; `nominal` is what `period` is cut from.

    A credit names the charge that it gives back.
    """

    what: LicensedItem
    reason: FeeReason
    period: Period
    nominal: Period
    key: BillKey
    gives_back: int | None = None


async def list_live(tx: Connection, row: Subscription, cut: datetime) -> list[ListLiveFeesRow]:
    """The charges that reach beyond `cut`, as far as they were not given back."""
    return await queries.fee_periods.list_live_fees(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, at=cut
    )


async def end_fees(
    tx: Connection,
    row: Subscription,
    live: Sequence[ListLiveFeesRow],
    cut: datetime,
    *,
    credited: Collection[int],
    key: BillKey,
) -> int:
    """Charges end at `cut`: in advance, with a credit on the invoice `key` for those in `credited`; in arrears, by
    being cut. Returns how many credits that made."""
    fees = [one.fee_period for one in live]
    advance = [fee for fee in fees if fee.billing_timing == BillingTiming.IN_ADVANCE]
    arrears = [fee.id for fee in fees if fee.billing_timing == BillingTiming.IN_ARREARS]
    given_back = [_credit(fee, cut, key) for fee in advance if fee.id in credited]
    await insert_fees(tx, row, given_back)
    await queries.fee_periods.end_fees(
        tx, tenant_id=row.tenant_id, ids=[fee.id for fee in advance], ended_at=cut
    )
    await queries.fee_periods.delete_fees(tx, tenant_id=row.tenant_id, ids=arrears, at=cut)
    await queries.fee_periods.cut_fees(tx, tenant_id=row.tenant_id, ids=arrears, at=cut)
    return len(given_back)


def creditable(live: Sequence[ListLiveFeesRow]) -> set[int]:
    """The charges that a change gives back: what our invoices charge, or another system has for an imported period."""
    return {
        one.fee_period.id for one in live if one.is_charged or one.fee_period.bill_kind == IMPORTED
    }


def charges_from(
    items: Sequence[LicensedItem], part: Period, nominal: Period, key: BillKey
) -> Iterator[NewFee]:
    """What items cost for the rest of a billing period: in advance on `key`, in arrears at its end."""
    at_end = BillKey(InvoiceKind.PERIOD, part.end)
    for item in items:
        in_advance = item.timing is BillingTiming.IN_ADVANCE
        yield NewFee(item, FeeReason.DEBIT, part, nominal, key if in_advance else at_end)


async def insert_fees(tx: Connection, row: Subscription, fees: Sequence[NewFee]) -> None:
    """Writes fee periods in the order given, which is that of the lines."""
    if not fees:
        return
    await queries.fee_periods.insert_item_fees(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        item_ids=[fee.what.item_id for fee in fees],
        price_ids=[fee.what.price_id for fee in fees],
        quantities=[f"{fee.what.quantity:f}" for fee in fees],
        reasons=[fee.reason for fee in fees],
        billing_timings=[fee.what.timing for fee in fees],
        period_starts=[fee.period.start for fee in fees],
        period_ends=[fee.period.end for fee in fees],
        nominal_starts=[fee.nominal.start for fee in fees],
        nominal_ends=[fee.nominal.end for fee in fees],
        bill_kinds=[fee.key.kind for fee in fees],
        bill_boundaries=[fee.key.boundary for fee in fees],
        gives_backs=[fee.gives_back for fee in fees],
    )


async def rekey_fees(tx: Connection, row: Subscription, key: BillKey) -> None:
    """What the invoice at the current period's end was to charge is charged by another one."""
    assert row.period_end is not None, "only a subscription in a billing period has fees to come"
    await queries.fee_periods.rekey_fees(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        kind=key.kind,
        boundary=key.boundary,
        old_boundary=row.period_end,
    )


def _credit(fee: FeePeriod, cut: datetime, key: BillKey) -> NewFee:
    what = LicensedItem(fee.item_id, fee.price_id, fee.quantity, BillingTiming(fee.billing_timing))
    unused = Period(max(cut, fee.period_start), fee.ended_at or fee.period_end)
    nominal = Period(fee.nominal_start, fee.nominal_end)
    return NewFee(what, FeeReason.CREDIT, unused, nominal, key, gives_back=fee.id)
