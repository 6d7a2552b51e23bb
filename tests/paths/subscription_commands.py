"""Random commands: what a tenant does to subscriptions, and time that passes."""

from __future__ import annotations

import asyncio
from typing import Final

from billing.services.subscription_edits import ItemChange
from tests.desk import Desk
from tests.faults.dying import Dying
from tests.paths.billing_twins import Twins

CUSTOMERS: Final = ("UA", "LH", "OS")


async def subscribe(twins: Twins) -> str:
    name = next((one for one in CUSTOMERS if one not in twins.books.subscriptions), "")
    if name:
        await twins.house.customer(name)
        await twins.house.execute(
            "UPDATE customers SET tax_percent = 20 WHERE tenant_id = $1", twins.tenant_id
        )
        await twins.house.subscribe(name)
        twins.books.subscribe(name)
    return f"subscribe {name}" if name else ""


async def change(twins: Twins) -> str:
    """Another quantity of the fee, at once."""
    names = [name for name in twins.books.subscriptions if twins.is_alterable(name)]
    if not names:
        return ""
    name = twins.chance.choice(names)
    sub = twins.books.subscriptions[name]
    quantity = twins.chance.choice([one for one in (1, 2, 3) if one != sub.quantity])
    identity = await twins.subscription(name)
    item = await twins.house.value(
        "SELECT id FROM subscription_items WHERE subscription_id = $1 AND meter_id IS NULL",
        identity,
    )
    await Desk(twins.house).change(identity, ItemChange(item, quantity=str(quantity)))
    twins.books.change(name, quantity)
    return f"change {name} to {quantity}"


async def cancel(twins: Twins) -> str:
    names = [name for name in twins.books.subscriptions if twins.is_alterable(name)]
    if not names or len(twins.books.subscriptions) < 2:
        return ""
    name = twins.chance.choice(names)
    await Desk(twins.house).cancel(await twins.subscription(name))
    twins.books.cancel(name)
    return f"cancel {name}"


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
        if (await twins.house.clock())["target_time"] == to:
            await twins.house.walk()
        else:
            await twins.house.advance(to)
    twins.books.advance(to)
    return f"advance to {to}, killed at await {at}"
