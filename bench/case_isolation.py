"""Isolation: endpoints that hang change nobody else's deliveries, whatever their backlog.

Invariant: the limits are the same figures of the same run without the endpoints that hang; times are from the commit of
the deliveries to their arrival in another process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from bench.environment import Environment, Result
from bench.sending import Field, ReceiverProcess, field_of, sending

HEALTHY: Final = 90
HUNG: Final = 10  # a tenth of all
BACKLOG: Final = 10_000
BURST: Final = 1_000
STEADY: Final = 200
EVERY_S: Final = 0.01
PATIENCE_S: Final = 58.0


async def run(env: Environment) -> list[Result]:
    """The latency at a steady rate, and how long a burst takes, beside those of hung endpoints."""
    receiver, field = ReceiverProcess(), field_of(env)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for number in range(HEALTHY):
                await field.endpoint(receiver.url(f"/steady{number}"), f"custom.steady{number}")
            for number in range(HUNG):
                await field.endpoint(receiver.url(f"/hang{number}"), "custom.hung")
            await field.endpoint(receiver.url("/hang"), "custom.one_hung")
            for name in ("warm", "alone", "beside"):
                await field.endpoint(receiver.url(f"/{name}"), f"custom.{name}")
            with sending(env):
                return await _measure(field, receiver)
    finally:
        receiver.stop()


async def _measure(field: Field, receiver: ReceiverProcess) -> list[Result]:
    await _burst(field, receiver, "warm")
    quiet = await _steady(field, receiver)
    alone = await _burst(field, receiver, "alone")
    await field.deliver("custom.hung", BACKLOG // HUNG)
    busy = await _steady(field, receiver)
    await field.deliver("custom.one_hung", BACKLOG)
    beside = await _burst(field, receiver, "beside")
    note = "the same without the endpoints that hang"
    return [
        Result("isolation: p50", _at(busy, 0.5), "ms", _at(quiet, 0.5), note),
        Result("isolation: p95", _at(busy, 0.95), "ms", _at(quiet, 0.95), note),
        Result("isolation: p99", _at(busy, 0.99), "ms", _at(quiet, 0.99), note),
        Result("isolation: 1,000 to one", beside * 1000, "ms", alone * 1000, note),
    ]


async def _steady(field: Field, receiver: ReceiverProcess) -> list[float]:
    """How many milliseconds each of the deliveries took that are made one by one, sorted."""
    committed: dict[str, float] = {}
    began = time.monotonic()
    for number in range(STEADY):
        await asyncio.sleep(max(0.0, began + number * EVERY_S - time.monotonic()))
        place = number % HEALTHY
        [event_id] = await field.deliver(f"custom.steady{place}", 1)
        committed[f"/steady{place}{event_id}"] = time.time()
    arrivals = await _all(receiver, list(committed))
    return sorted(1000 * (arrivals[name][0] - at) for name, at in committed.items())


async def _burst(field: Field, receiver: ReceiverProcess, name: str) -> float:
    """How many seconds it took to commit 1,000 deliveries to one endpoint, until the last of them arrived."""
    began = time.time()
    ids = await field.deliver(f"custom.{name}", BURST)
    arrivals = await _all(receiver, [f"/{name}{event_id}" for event_id in ids])
    return max(arrivals[f"/{name}{event_id}"][0] for event_id in ids) - began


async def _all(receiver: ReceiverProcess, names: Sequence[str]) -> dict[str, list[float]]:
    while True:
        arrivals = await receiver.arrivals()
        if all(name in arrivals for name in names):
            return arrivals
        await asyncio.sleep(0.05)


def _at(sorted_ms: Sequence[float], part: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, int(part * len(sorted_ms)))]
