"""Random commands: what a tenant does to subscriptions, and time that passes."""

from __future__ import annotations

import asyncio
from typing import Final

from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import Migration
from tests.desk import Desk
from tests.faults.dying import Dying
from tests.paths.billing_model import PLANS
from tests.paths.billing_twins import Twins

CUSTOMERS: Final = ("UA", "LH")
SUBSCRIPTIONS_MAX: Final = 6


async def subscribe(twins: Twins) -> str:
    """To a plan for a meter that nothing bills for the customer now; something may have before."""
    books = twins.books
    taken = {(sub.customer, sub.plan.meter) for sub in books.subscriptions if not sub.canceled_at}
    free = [(name, plan) for name in CUSTOMERS for plan in PLANS if (name, plan.meter) not in taken]
    if not free or len(books.subscriptions) == SUBSCRIPTIONS_MAX:
        return ""
    name, plan = twins.chance.choice(free)
    if name not in books.ledger:
        await twins.house.customer(name)
        await twins.house.execute(
            "UPDATE customers SET tax_percent = 20 WHERE tenant_id = $1", twins.tenant_id
        )
    made = await twins.house.subscribe(name, plan.key)
    sub = books.subscribe(name, plan)
    twins.subscriptions[sub] = made.row.id
    return f"subscribe {sub.name}"


async def change(twins: Twins) -> str:
    """Another quantity of the fee, at once."""
    sub = twins.some_alterable()
    if sub is None:
        return ""
    quantity = twins.chance.choice([one for one in (1, 2, 3) if one != sub.quantity])
    identity = twins.subscriptions[sub]
    item = await twins.house.value(
        "SELECT id FROM subscription_items WHERE subscription_id = $1 AND meter_id IS NULL",
        identity,
    )
    await Desk(twins.house).change(identity, ItemChange(item, quantity=str(quantity)))
    twins.books.change(sub, quantity, sub.plan)
    return f"change {sub.name} to {quantity}"


async def migrate(twins: Twins) -> str:
    """To another plan for the same meter, at once."""
    sub = twins.some_alterable()
    others = [plan for plan in PLANS if sub and plan.meter == sub.plan.meter and plan != sub.plan]
    if sub is None or not others:
        return ""
    told, plan = sub.name, twins.chance.choice(others)
    await Desk(twins.house).migrate(twins.subscriptions[sub], Migration(plan_key=plan.key))
    twins.books.migrate(sub, plan)
    return f"migrate {told} to {plan.key}"


async def cancel(twins: Twins) -> str:
    sub = twins.some_alterable()
    if sub is None or len(twins.books.subscriptions) < 2:
        return ""
    await Desk(twins.house).cancel(twins.subscriptions[sub])
    twins.books.cancel(sub)
    return f"cancel {sub.name}"


async def advance(twins: Twins) -> str:
    to = twins.later()
    await twins.house.advance(to)
    twins.books.advance(to)
    return f"advance to {to}"


async def die(twins: Twins) -> str:
    """As advance, but what works is killed on the way and another one goes on."""
    to, at = twins.later(), twins.chance.randint(1, 400)
    try:
        await Dying(twins.house.advance(to), at=at)
    except asyncio.CancelledError:
        await let_claims_run_out(twins)
        if (await twins.house.clock())["target_time"] == to:
            await twins.house.walk()
        else:
            await twins.house.advance(to)
    twins.books.advance(to)
    return f"advance to {to}, killed at await {at}"


async def let_claims_run_out(twins: Twins) -> None:
    """What a dead worker had claimed is free, as it is some seconds later."""
    for statement in (
        "UPDATE invoices SET retry_at = NULL WHERE tenant_id = $1 AND status = 'draft'",
        "UPDATE usage_periods SET closing_until = NULL WHERE tenant_id = $1",
    ):
        await twins.house.execute(statement, twins.tenant_id)
