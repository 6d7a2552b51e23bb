"""Restart: a sender is killed with 5,000 deliveries in flight, and another one starts, as `tollway up` would start it.

Invariant: none is lost, and what arrives twice was in flight; the figure is the time from the new process's start until
everything is delivered and no claim is left.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from bench.environment import Environment, Result
from bench.sending import Field, ReceiverProcess, field_of, sending
from billing.services.leases import forget_holders

ENDPOINTS: Final = 200
WARM: Final = 40  # so many answers, and an endpoint's room is 32
EACH: Final = 30
IN_FLIGHT: Final = 5_000
PATIENCE_S: Final = 55.0


async def run(env: Environment) -> list[Result]:
    """Milliseconds until everything is settled, and what was doubled."""
    receiver, field = ReceiverProcess(), field_of(env)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for number in range(ENDPOINTS):
                await field.endpoint(receiver.url(f"/e{number}"), "custom.all")
            await field.deliver("custom.all", WARM)
            with sending(env) as first:
                await _settled(field)
                await receiver.ask("hold")
                await field.deliver("custom.all", EACH)
                while (in_flight := await receiver.ask("count")) < IN_FLIGHT:  # noqa: ASYNC110 - another process tells
                    await asyncio.sleep(0.02)
                first.kill()
            await receiver.ask("release")
            await forget_holders(env.worker)
            began = time.perf_counter()
            with sending(env):
                await _settled(field)
                seconds = time.perf_counter() - began
            arrivals = await receiver.arrivals()
    finally:
        receiver.stop()
    delivered = await field.count("status = 'delivered'")
    total = ENDPOINTS * (WARM + EACH)
    assert delivered == len(arrivals) == total, f"{delivered} of {total}, {len(arrivals)} arrived"
    doubled = sum(len(times) > 1 for times in arrivals.values())
    note = f"{in_flight:,} were in flight, {doubled:,} arrived twice, none was lost"
    return [Result("restart", seconds * 1000, "ms to settle", None, note)]


async def _settled(field: Field) -> None:
    while await field.count("status <> 'delivered'"):  # noqa: ASYNC110 - only the database tells
        await asyncio.sleep(0.05)
