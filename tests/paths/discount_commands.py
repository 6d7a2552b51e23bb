"""Random commands: a tenant gives discounts and ends them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Final

from billing.domain.money import Money
from billing.services.discounts import NewDiscount, create_discount, end_discount
from tests.paths.billing_twins import Twins

DISCOUNTS_AT_ONCE: Final = 3


async def give(twins: Twins) -> str:
    """So many percent, all, or an amount that is less or more than most invoices; of some periods or for ever."""
    if not twins.books.subscriptions:
        return ""
    customer = twins.chance.choice(list(twins.books.subscriptions))
    if twins.books.live_discounts(customer) == DISCOUNTS_AT_ONCE:
        return ""
    percent, amount = twins.chance.choice(
        [("10", 0), ("33.3", 0), ("100", 0), ("", 777), ("", 6000), ("", 99_999)]
    )
    periods = twins.chance.choice([0, 1, 1, 2])
    draft = NewDiscount(
        await twins.customer(customer),
        None,
        "Spring",
        Decimal(percent) if percent else None,
        Money(amount, "USD") if amount else None,
        periods,
    )
    house = twins.house
    async with twins.transaction() as tx:
        made = await create_discount(tx, twins.tenant_id, draft, house.cause(), now=house.now)
    twins.discounts.append(made.row.id)
    twins.books.discount(customer, Fraction(percent) if percent else None, amount, periods)
    return f"give {customer} {percent}% or {amount} off for {periods} periods"


async def end(twins: Twins) -> str:
    live = [n for n, discount in enumerate(twins.books.discounts) if not discount.ended]
    if not live:
        return ""
    n, house = twins.chance.choice(live), twins.house
    async with twins.transaction() as tx:
        await end_discount(tx, twins.tenant_id, twins.discounts[n], house.cause(), now=house.now)
    twins.books.discounts[n].ended = True
    return f"end discount {n} of {twins.books.discounts[n].customer}"
