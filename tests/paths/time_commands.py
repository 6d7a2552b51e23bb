"""Random commands: time passes, and whoever works may die on the way."""

from __future__ import annotations

import asyncio

from tests.faults.dying import Dying
from tests.paths.billing_twins import Twins


async def advance(twins: Twins) -> str:
    if not twins.books.subscriptions:
        return ""  # nothing would happen
    to = twins.later()
    await twins.house.advance(to)
    twins.books.advance(to)
    return f"advance to {to}"


async def die(twins: Twins) -> str:
    """As advance, but what works is killed on the way and another one goes on."""
    if not twins.books.subscriptions:
        return ""
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
