"""Random commands: a tenant gives discounts and ends them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Final

from billing.domain.money import Money
from billing.services.discounts import NewDiscount, create_discount, end_discount
from tests.paths.billing_facts import Discount
from tests.paths.billing_twins import Twins

DISCOUNTS_AT_ONCE: Final = 3


async def give(twins: Twins) -> str:
    """So many percent, all, or an amount that is less or more than most invoices; of some periods or for ever."""
    if not twins.books.subscriptions:
        return ""
    sub = twins.chance.choice(twins.books.subscriptions)
    customer, is_its_own = sub.customer, twins.chance.random() < 0.4
    if twins.books.live_discounts(customer) == DISCOUNTS_AT_ONCE:
        return ""
    percent, amount = twins.chance.choice(
        [("10", 0), ("33.3", 0), ("100", 0), ("", 777), ("", 6000), ("", 99_999)]
    )
    periods = twins.chance.choice([0, 1, 1, 2])
    draft = NewDiscount(
        None if is_its_own else await twins.customer(customer),
        twins.subscriptions[sub] if is_its_own else None,
        "Spring",
        Decimal(percent) if percent else None,
        Money(amount, "USD") if amount else None,
        periods,
    )
    house = twins.house
    async with twins.transaction() as tx:
        made = await create_discount(tx, twins.tenant_id, draft, house.cause(), now=house.now)
    given = Discount(
        customer,
        sub if is_its_own else None,
        Fraction(percent) if percent else None,
        amount,
        periods or None,
    )
    twins.discounts[given] = made.row.id
    twins.books.discounts.append(given)
    whose = sub.name if is_its_own else customer
    return f"give {whose} {percent}% or {amount} off for {periods} periods"


async def end(twins: Twins) -> str:
    live = [one for one in twins.books.discounts if not one.ended]
    if not live:
        return ""
    ending, house = twins.chance.choice(live), twins.house
    async with twins.transaction() as tx:
        await end_discount(
            tx, twins.tenant_id, twins.discounts[ending], house.cause(), now=house.now
        )
    ending.ended = True
    return f"end the discount of {ending.customer}: {ending.percent}% or {ending.amount}"
