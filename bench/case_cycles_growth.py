"""Growth of the cycles: a thousand subscriptions closed, drafted and made final beside few others and beside many.

Invariant: the others are whole, with items, usage periods and cycles of their own, and due a month later.
"""

from __future__ import annotations

from typing import Final

from bench.case_cycles import RECORDS_PER_ITEM, catalog, cycle, subscribe
from bench.environment import Environment, Result

DUE: Final = 1_000
OTHERS: Final = (0, 99_000)
AT_ONCE: Final = 10_000


async def run(env: Environment) -> list[Result]:
    """Subscriptions per second at each size; the limit of the larger one is the smaller one's figure."""
    plan, there = await catalog(env), 0
    await cycle(env, plan, DUE // 5, RECORDS_PER_ITEM)  # as in a house that has billed before
    results: list[Result] = []
    for others in (round(others * env.scale) for others in OTHERS):
        while there < others:
            more = min(AT_ONCE, others - there)
            await subscribe(env, plan, more, 0, ahead=1)
            there += more
        seconds = sum((await cycle(env, plan, DUE, RECORDS_PER_ITEM)).values())
        limit = results[0].figure if results else None
        name, note = f"cycles beside {there:,}", "the same beside none" if results else ""
        results.append(Result(name, DUE / seconds, "subscriptions/s", limit, note))
    return results
