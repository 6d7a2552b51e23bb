"""Random commands: what a tenant does to usage."""

from __future__ import annotations

from billing.domain.decimals import decimal_text
from billing.services.usage_amendments import Amendment, amend_usage, void_usage
from billing.services.usage_checks import instant_us
from billing.services.usage_revisions import Author
from tests.paths.billing_facts import Use
from tests.paths.billing_twins import Twins


async def record(twins: Twins) -> str:
    if not twins.books.subscriptions:
        return ""
    sub = twins.chance.choice(twins.books.subscriptions)
    use = Use(
        f"use-{next(twins.keys)}",
        sub.customer,
        sub.plan.meter,
        twins.some_instant(),
        twins.some_quantity(),
    )
    if not twins.books.is_covered(use.customer, use.meter, use.at):
        return ""
    await twins.send(use)
    twins.books.record(use)
    return f"record {use}"


async def amend(twins: Twins) -> str:
    use = twins.some_use()
    if use is None:
        return ""
    quantity, at = twins.some_quantity(), twins.some_instant()
    if not twins.books.is_covered(use.customer, use.meter, at):
        at = use.at
    if (quantity, at) == (use.quantity, use.at):
        return ""  # it would change nothing, and nothing follows from it
    change = Amendment({"quantity", "timestamp"}, decimal_text(quantity), instant_us(at))
    author = Author(twins.house.cause(), "mended", allow_backfill=True)
    async with twins.transaction() as tx:
        await amend_usage(tx, twins.tenant_id, use.key, change, author, now=twins.house.now)
    use.was_at.append(use.at)
    use.quantity, use.at = quantity, at
    twins.books.touch(use)
    return f"amend {use}"


async def take_back(twins: Twins) -> str:
    use = twins.some_use()
    if use is None:
        return ""
    author = Author(twins.house.cause(), "wrong", allow_backfill=True)
    async with twins.transaction() as tx:
        await void_usage(tx, twins.tenant_id, use.key, author, now=twins.house.now)
    use.voided = True
    twins.books.touch(use)
    return f"void {use}"
