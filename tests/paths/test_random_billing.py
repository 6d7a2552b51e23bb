"""Every path of money at once: random commands against the service and against a plain model, compared after each.

The model (billing_model.py) knows the rules of billing and nothing of how they are kept. What differs is a bug of one
of the two; the seed and the commands so far are in the failure.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from tests.conftest import LONG, Databases
from tests.driver import house_of
from tests.paths import (
    catalog_commands,
    discount_commands,
    invoice_commands,
    subscription_commands,
    time_commands,
    usage_commands,
)
from tests.paths.billing_model import PLANS
from tests.paths.billing_twins import START, Twins

SEEDS: Final = range(61 if LONG else 8)
COMMANDS: Final = 60 if LONG else 40
# What may come next, and how often.
WEIGHTS: Final[dict[Callable[[Twins], Awaitable[str]], int]] = {
    subscription_commands.subscribe: 2,
    subscription_commands.change: 3,
    subscription_commands.migrate: 3,
    subscription_commands.cancel: 1,
    subscription_commands.put_off: 3,
    subscription_commands.take_back: 1,
    catalog_commands.supersede: 2,
    catalog_commands.tax: 1,
    time_commands.advance: 5,
    time_commands.die: 2,
    usage_commands.record: 5,
    usage_commands.amend: 2,
    usage_commands.take_back: 2,
    invoice_commands.finalize: 2,
    invoice_commands.void: 3,
    invoice_commands.pay: 3,
    invoice_commands.note: 2,
    discount_commands.give: 2,
    discount_commands.end: 1,
}


async def step(twins: Twins) -> str:
    """One random command that is possible now; returns what it did."""
    done = ""
    while not done:
        (command,) = twins.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        done = await command(twins)
    await twins.house.deliver()
    return done


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_invoices_and_credit_are_what_the_rules_say(
    databases: Databases, seed: int
) -> None:
    house = await house_of(databases, START)
    for plan in PLANS:
        await catalog_commands.offer(house, plan)
    twins = Twins(house, random.Random(seed))
    told: list[str] = []
    try:
        for _ in range(COMMANDS):
            told.append(await step(twins))
            await twins.compare()
    except Exception as error:
        raise AssertionError(f"seed {seed}:\n" + "\n".join(told)) from error
