"""Invoice path, step 4: what stands below the lines of drafts: items, discounts, tax and the customer's credit.

Invariant: within a batch, credit and discounts are used up draft by draft, in the order of their numbers, so that what
two drafts of one customer share is spent once. Finalization reads all this after it has locked the credit balances;
a preview reads it in one snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final
from uuid import UUID

import queries.discounts
import queries.invoice_items
from queries.models import Discount as DiscountRow
from queries.models import Invoice, InvoiceItem

from billing.domain import totals
from billing.domain.decimals import decimal_text
from billing.domain.invoice import InvoiceKind
from billing.domain.money import Money
from billing.domain.totals import AmountDiscount, Discount, PercentDiscount, Totals
from billing.runtime.db import Connection
from billing.services.invoice_line import Line, LineKind
from billing.services.price_book import BookedPrice, PriceKey

_ZERO: Final = Fraction(0)


@dataclass(frozen=True, slots=True)
class UsedDiscount:
    """A discount that lowered an invoice, and by how much. `counted` uses up one of its periods."""

    row: DiscountRow
    amount: Money
    counted: bool

    @property
    def percent(self) -> Fraction | None:
        """Of a discount in percent."""
        return None if self.row.percent is None else Fraction(self.row.percent)


@dataclass(frozen=True, slots=True)
class Computed:
    """What a draft is to become."""

    lines: Sequence[Line]
    totals: Totals
    discounts: Sequence[UsedDiscount] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """How a line of a fee that is given back was discounted and taxed."""

    discount_percent: Fraction
    tax_percent: Fraction


# Tenant, fee period, and kind of line: the fee, or its true-up to a bound.
ChargeKey = tuple[UUID, int, str]
# The kinds of invoices that give fees back.
_WITH_CREDITS: Final = (InvoiceKind.PERIOD, InvoiceKind.CHANGE, InvoiceKind.FINAL)


@dataclass(slots=True)
class DraftMoney:
    """What is left for the drafts of a batch to use; `settle` takes from it."""

    _items: Mapping[UUID, Sequence[InvoiceItem]]
    _discounts: Mapping[UUID, Sequence[DiscountRow]]
    _uses: dict[UUID, int]
    _tax_percents: Mapping[UUID, Fraction | None]
    _credit: dict[tuple[UUID, str], Money]
    _charges: dict[ChargeKey, Charge]
    _uncounted: set[UUID]
    _taken: set[UUID]

    def item_lines(self, draft: Invoice) -> list[Line]:
        """A line for each item of the draft that no draft before it took."""
        return [
            _item_line(item) for item in self._items.get(draft.id, ()) if item.id not in self._taken
        ]

    def settle(
        self, draft: Invoice, lines: Sequence[Line], prices: Mapping[PriceKey, BookedPrice]
    ) -> Computed:
        """Totals of a draft's lines. Raises AmountOutOfRange, or Invalid for too many lines or discounts."""
        lines = [self._given_back(draft, line) for line in lines]
        percents = [self._tax_percent(draft, line, prices) for line in lines]
        offered = [row for row in self._discounts.get(draft.id, ()) if self._is_left(row)]
        account = (draft.customer_id, draft.currency)
        summed = totals.invoice_totals(
            [
                totals.Line(line.amount, percent, line.own_discount_percent)
                for line, percent in zip(lines, percents, strict=True)
            ],
            [_discount_of(row) for row in offered],
            self._credit[account],
        )
        counts = draft.id not in self._uncounted
        used = [
            UsedDiscount(row, amount, counts)
            for row, amount in zip(offered, summed.by_discount, strict=True)
            if amount
        ]
        for one in used:
            self._uses[one.row.id] += one.counted
        self._credit[account] += summed.to_credit_balance - summed.credit_applied
        self._taken.update(line.invoice_item_id for line in lines if line.invoice_item_id)
        self._remember_charges(draft, lines, summed, percents)
        totaled = [
            line.totaled(total, percent)
            for line, total, percent in zip(lines, summed.lines, percents, strict=True)
        ]
        return Computed(totaled, summed, used)

    def _remember_charges(
        self,
        draft: Invoice,
        lines: Sequence[Line],
        summed: Totals,
        percents: Sequence[Fraction],
    ) -> None:
        """A later draft of the batch may give back what this one charges."""
        for line, total, percent in zip(lines, summed.lines, percents, strict=True):
            if line.fee_id is not None and line.amount:
                self._charges[draft.tenant_id, line.fee_id, line.kind] = _charge(
                    total.amount.minor_units, total.discount.minor_units, percent
                )

    def _given_back(self, draft: Invoice, line: Line) -> Line:
        """A credit for an advance fee takes the discount and tax of the charge: no more comes back than was paid."""
        if line.gives_back is None:
            return line
        charge = self._charges.get((draft.tenant_id, line.gives_back, line.kind))
        if charge is None:
            return line
        return replace(
            line, own_discount_percent=charge.discount_percent, tax_percent=charge.tax_percent
        )

    def _is_left(self, row: DiscountRow) -> bool:
        return row.periods is None or self._uses[row.id] < row.periods

    def _tax_percent(
        self, draft: Invoice, line: Line, prices: Mapping[PriceKey, BookedPrice]
    ) -> Fraction:
        """The line's own, or else the customer's, or else that of its price."""
        if line.tax_percent is not None:
            return line.tax_percent
        percent = self._tax_percents[draft.id]
        if percent is not None:
            return percent
        booked = prices.get((draft.tenant_id, line.price_id)) if line.price_id else None
        if booked is None:
            return line.default_tax_percent
        return Fraction(booked.row.tax_percent or _ZERO)


def in_order(drafts: Sequence[Invoice]) -> list[Invoice]:
    """Drafts in the order in which they get their numbers."""
    return sorted(drafts, key=lambda draft: (draft.finalize_at or draft.created_at, draft.id))


async def read_money(tx: Connection, drafts: Sequence[Invoice]) -> DraftMoney:
    """What stands below the drafts' lines, in a few statements for all of them."""
    tenants = [draft.tenant_id for draft in drafts]
    ids = [draft.id for draft in drafts]
    customers = [draft.customer_id for draft in drafts]
    subscriptions = [draft.subscription_id for draft in drafts]
    currencies = [draft.currency for draft in drafts]
    items: dict[UUID, list[InvoiceItem]] = defaultdict(list)
    for row in await queries.invoice_items.list_draft_items(
        tx, tenant_ids=tenants, invoice_ids=ids, subscription_ids=subscriptions
    ):
        items[row.draft_id].append(row.invoice_item)
    discounts: dict[UUID, list[DiscountRow]] = defaultdict(list)
    uses: dict[UUID, int] = {}
    uncounted: set[UUID] = set()
    for offer in await queries.discounts.list_draft_discounts(
        tx,
        tenant_ids=tenants,
        invoice_ids=ids,
        customer_ids=customers,
        subscription_ids=subscriptions,
        currencies=currencies,
    ):
        discounts[offer.invoice_id].append(offer.discount)
        uses[offer.discount.id] = offer.uses
        if not offer.counts:
            uncounted.add(offer.invoice_id)
    percents: dict[UUID, Fraction | None] = {}
    credit: dict[tuple[UUID, str], Money] = {}
    account_of = {draft.id: (draft.customer_id, draft.currency) for draft in drafts}
    for tax in await queries.invoice_items.list_draft_taxes(
        tx,
        tenant_ids=tenants,
        invoice_ids=ids,
        customer_ids=customers,
        currencies=currencies,
    ):
        percents[tax.invoice_id] = None if tax.tax_percent is None else Fraction(tax.tax_percent)
        account = account_of[tax.invoice_id]
        credit[account] = Money(tax.credit, account[1])
    charges = await _read_charges(tx, [one for one in drafts if one.kind in _WITH_CREDITS])
    return DraftMoney(items, discounts, uses, percents, credit, charges, uncounted, set())


async def _read_charges(tx: Connection, drafts: Sequence[Invoice]) -> dict[ChargeKey, Charge]:
    if not drafts:
        return {}
    rows = await queries.invoice_items.list_credited_fees(
        tx,
        tenant_ids=[draft.tenant_id for draft in drafts],
        invoice_ids=[draft.id for draft in drafts],
    )
    return {
        (row.tenant_id, row.id, row.kind): _charge(
            row.amount, row.discount, Fraction(row.tax_percent)
        )
        for row in rows
    }


def _charge(amount: int, discount: int, tax_percent: Fraction) -> Charge:
    return Charge(Fraction(discount * 100, amount), tax_percent)


def _discount_of(row: DiscountRow) -> Discount:
    if row.percent is not None:
        return PercentDiscount(Fraction(row.percent))
    assert row.amount is not None and row.currency is not None, "a check of the table"  # noqa: PT018
    return AmountDiscount(Money(row.amount, row.currency))


def _item_line(item: InvoiceItem) -> Line:
    return Line(
        LineKind.ITEM,
        item.description,
        None,
        None,
        None,
        Fraction(item.quantity),
        Money(item.amount, item.currency),
        [
            {
                "label": "units",
                "quantity": decimal_text(Fraction(item.quantity)),
                "unit_amount": decimal_text(Fraction(item.unit_amount)),
                "amount": decimal_text(
                    Fraction(item.quantity) * Fraction(item.unit_amount), decimals=24
                ),
            }
        ],
        invoice_item_id=item.id,
        tax_percent=None if item.tax_percent is None else Fraction(item.tax_percent),
    )
