"""Random commands: what a tenant does to subscriptions, now or later."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from billing.services.subscription_edits import ItemChange
from billing.services.subscription_edits import Proration as Wanted
from billing.services.subscription_requests import Later, Migration, cancel_scheduled_change
from tests.desk import Desk
from tests.driver import DAY
from tests.paths import billing_contracts as contracts
from tests.paths.billing_facts import Change, End, Proration, Scheduled, Subscription
from tests.paths.billing_twins import Twins

# Where customers live: in one of the zones clocks are put forward and back.
CUSTOMERS: Final = {"UA": "UTC", "LH": "Europe/Berlin"}
SUBSCRIPTIONS_MAX: Final = 6
PENDING_MAX: Final = 3
PRORATIONS: Final[tuple[Proration, ...]] = ("at_once", "next_invoice", "none")


async def subscribe(twins: Twins) -> str:
    """To a plan for a meter that nothing bills for the customer now; something may have before."""
    books = twins.books
    taken = {(sub.customer, sub.plan.meter) for sub in books.subscriptions if not sub.canceled_at}
    plans = books.plans.values()
    free = [(name, plan) for name in CUSTOMERS for plan in plans if (name, plan.meter) not in taken]
    if not free or len(books.subscriptions) == SUBSCRIPTIONS_MAX:
        return ""
    name, plan = twins.chance.choice(free)
    if name not in books.ledger:
        await twins.house.customer(name, CUSTOMERS[name])
        await twins.tax(name, twins.chance.choice(["20", ""]))
    made = await twins.house.subscribe(name, plan.key)
    sub = contracts.subscribe(books, name, CUSTOMERS[name], plan)
    twins.subscriptions[sub] = made.row.id
    return f"subscribe {sub.name}"


async def change(twins: Twins) -> str:
    """Another quantity of the fee, at once."""
    sub = twins.some_active()
    if sub is None:
        return ""
    wanted = _some_quantity(twins, sub)
    told = f"change {sub.name}: {_told(wanted)}"
    assert await _change(twins, sub, wanted, None) is None
    assert contracts.change(twins.books, sub, wanted)
    return told


async def migrate(twins: Twins) -> str:
    """To another plan for the same meter or to the newest prices of its own, at once."""
    sub = twins.some_active()
    wanted = _some_migration(twins, sub) if sub else None
    if sub is None or wanted is None:
        return ""
    told = f"migrate {sub.name}: {_told(wanted)}"
    assert await _migrate(twins, sub, wanted, None) is None
    assert contracts.change(twins.books, sub, wanted)
    return told


async def cancel(twins: Twins) -> str:
    sub = twins.some_active()
    if sub is None or len(twins.books.subscriptions) < 2:
        return ""
    credit = twins.chance.random() < 0.8
    await Desk(twins.house).cancel(twins.subscriptions[sub], credit=credit)
    contracts.end(twins.books, sub, credit=credit)
    return f"cancel {sub.name}, credit {credit}"


async def put_off(twins: Twins) -> str:
    """A change, a migration or an end: at the period's end, or at some instant to come."""
    sub = twins.some_active()
    if sub is None or sum(1 for _ in _pending(twins, sub)) == PENDING_MAX:
        return ""
    later, due_at = Later(), sub.cycle.end
    if twins.chance.random() < 0.5:
        days, minutes = twins.chance.choice([0, 3, 20, 40]), twins.chance.randint(7, 1400)
        due_at = twins.books.now + days * DAY + timedelta(minutes=minutes, seconds=29)
        later = Later(due_at)
    what = _some_quantity(twins, sub) if twins.chance.random() < 0.5 else None
    what = what or _some_migration(twins, sub)
    if what is None or twins.chance.random() < 0.3:
        end = End(twins.chance.random() < 0.8)
        asked = await Desk(twins.house).cancel(twins.subscriptions[sub], later, credit=end.credit)
        assert asked.scheduled is not None
        return _note(twins, sub, due_at, end, asked.scheduled.id)
    ask = _change if what.quantity else _migrate
    identity = await ask(twins, sub, what, later)
    assert identity is not None
    return _note(twins, sub, due_at, what, identity)


async def take_back(twins: Twins) -> str:
    """Something that was put off."""
    pending = list(_pending(twins, None))
    if not pending:
        return ""
    one, house = twins.chance.choice(pending), twins.house
    if isinstance(one.what, End) and twins.chance.random() < 0.5:
        await Desk(house).uncancel(twins.subscriptions[one.sub])
    else:
        async with twins.transaction() as tx:
            await cancel_scheduled_change(
                tx, twins.tenant_id, twins.scheduled[one], house.cause(), now=house.now
            )
    one.status = "canceled"
    return f"take back {one.sub.name}: {_told(one.what)}"


def _some_quantity(twins: Twins, sub: Subscription) -> Change:
    quantity = twins.chance.choice([one for one in (1, 2, 3) if one != sub.quantity])
    return Change(quantity, proration=twins.chance.choice(PRORATIONS))


def _some_migration(twins: Twins, sub: Subscription) -> Change | None:
    """The prices that change; within a period another interval is charged at once."""
    offered = [plan for plan in twins.books.plans.values() if plan.meter == sub.plan.meter]
    plan = twins.chance.choice(offered)
    fee = plan.fee if plan.fee is not sub.plan.fee else None
    usage = plan.usage if plan.usage is not sub.plan.usage else None
    if fee is None and usage is None:
        return None
    moves = plan.months != sub.plan.months
    proration = "at_once" if moves else twins.chance.choice(PRORATIONS)
    return Change(plan=plan.key, fee=fee, usage=usage, proration=proration)


async def _change(
    twins: Twins, sub: Subscription, wanted: Change, later: Later | None
) -> UUID | None:
    identity = twins.subscriptions[sub]
    item = await twins.house.value(
        "SELECT id FROM subscription_items WHERE subscription_id = $1 AND meter_id IS NULL",
        identity,
    )
    asked = await Desk(twins.house).change(
        identity,
        ItemChange(item, quantity=str(wanted.quantity)),
        later=later,
        proration=Wanted(wanted.proration),
    )
    return asked.scheduled.id if asked.scheduled else None


async def _migrate(
    twins: Twins, sub: Subscription, wanted: Change, later: Later | None
) -> UUID | None:
    migration = Migration(plan_key=wanted.plan, proration=Wanted(wanted.proration))
    asked = await Desk(twins.house).migrate(twins.subscriptions[sub], migration, later)
    return asked.scheduled.id if asked.scheduled else None


def _note(
    twins: Twins, sub: Subscription, due_at: datetime, what: Change | End, identity: UUID
) -> str:
    twins.scheduled[contracts.put_off(twins.books, sub, due_at, what)] = identity
    return f"put off {sub.name} until {due_at}: {_told(what)}"


def _pending(twins: Twins, sub: Subscription | None) -> Iterator[Scheduled]:
    """What is put off, of one subscription if it is given."""
    return (one for one in twins.books.scheduled if one.is_pending and sub in (None, one.sub))


def _told(what: Change | End) -> str:
    if isinstance(what, End):
        return f"end, credit {what.credit}"
    wanted = f"quantity {what.quantity}" if what.quantity else f"prices of {what.plan}"
    return f"{wanted}, {what.proration}"
