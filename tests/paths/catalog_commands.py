"""Random commands: a tenant offers other prices and changes a customer's tax; and the plans that it begins with."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from billing.domain.decimals import decimal_text
from billing.domain.proration import Granularity
from billing.services import catalog
from billing.services.prices import Successor, supersede_price
from tests.desk import Desk
from tests.driver import Driver
from tests.paths.billing_facts import Plan, Price
from tests.paths.billing_model import PLANS
from tests.paths.billing_twins import Twins


async def offer(house: Driver, plan: Plan) -> None:
    """Makes a plan with its two prices."""
    await house.meter(plan.meter)
    draft = catalog.NewPlan(
        plan.key,
        plan.key,
        "USD",
        "year" if plan.months == 12 else "month",
        Granularity.DAY if plan.by_day else Granularity.SECOND,
        decimal_text(plan.commitment) if plan.commitment else "",
    )
    async with house.databases.api.transaction(house.tenant_id) as tx:
        made = await catalog.create_plan(tx, house.tenant_id, draft, house.cause(), now=house.now)
        for price in (
            catalog.NewPrice("Fee", "", "", "flat", _fee(plan.fee), None, _tax(plan.fee)),
            catalog.NewPrice(
                "Usage", plan.meter, "", "per_unit", _usage(plan.usage), None, _tax(plan.usage)
            ),
        ):
            await catalog.create_price(
                tx, house.tenant_id, made, price, house.cause(), now=house.now
            )


async def supersede(twins: Twins) -> str:
    """Another price or tax of a plan's fee or usage, for new subscriptions and for those that migrate."""
    house, plan = twins.house, twins.chance.choice(list(twins.books.plans.values()))
    is_fee = twins.chance.random() < 0.5
    first = next(one for one in PLANS if one.key == plan.key)
    old = first.fee if is_fee else first.usage
    new = replace(
        old,
        amount=old.amount * Fraction(twins.chance.choice(["0.5", "1", "1.5"])),
        tax=Fraction(twins.chance.choice(["0", "7", "19"])),
    )
    model, name, numbers = (
        ("flat", "Fee", _fee(new)) if is_fee else ("per_unit", "Usage", _usage(new))
    )
    prices = await Desk(house).prices(plan.key)
    async with twins.transaction() as tx:
        await supersede_price(
            tx,
            twins.tenant_id,
            prices[name],
            Successor(name, model, numbers, _tax(new)),
            house.cause(),
            now=house.now,
        )
    changed = replace(plan, fee=new) if is_fee else replace(plan, usage=new)
    twins.books.plans[plan.key] = changed
    return f"supersede {name} of {plan.key}: {float(new.amount)}, tax {new.tax}%"


async def tax(twins: Twins) -> str:
    """Another tax of a customer or that of its prices, from the next invoice that becomes final on."""
    if not twins.books.taxes:
        return ""
    name = twins.chance.choice(list(twins.books.taxes))
    percent = twins.chance.choice(["20", "10", "7.7", "0", ""])
    await twins.tax(name, percent)
    return f"tax of {name}: {percent or 'its prices'}%"


def _fee(price: Price) -> dict[str, str]:
    return {"amount": decimal_text(price.amount)}


def _tax(price: Price) -> str:
    return decimal_text(price.tax) if price.tax else ""


def _usage(price: Price) -> dict[str, str]:
    numbers = {"unit_amount": decimal_text(price.amount)}
    if price.minimum:
        numbers["minimum_amount"] = decimal_text(price.minimum)
    return numbers
