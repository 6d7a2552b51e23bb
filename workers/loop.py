"""Every worker: the boring loop around a step. All cleverness is in the step; all patience is here.

Invariant: when `stop` is set, the step under way is finished and none begins. A step that fails is logged and tried
again after a pause; the loop does not end by it, because neither a lost database nor a lost bus may end a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from billing.domain.backoff import ExponentialBackoff
from billing.runtime.faults import Fault, fault_of

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[int]]

IDLE_FIRST_S: Final = 0.005
_FAILED: Final = ExponentialBackoff(base_ms=100, cap_ms=5_000)


async def run_loop(
    step: Step,
    stop: asyncio.Event,
    *,
    idle_s: float,
    wake: asyncio.Event | None = None,
    on_failure: Callable[[], None] | None = None,
    at_once: bool = True,
) -> None:
    """Repeats `step` until `stop`. When it found nothing, pauses 5 ms, then longer each time, up to `idle_s`.

    `wake` ends a pause at once; hints may be lost, so the pause ends by itself too. It is cleared before each step,
    so what is hinted at during a step makes another one. A step that did something is followed at once by the next;
    without `at_once`, when `wake` was set meanwhile or after the 5 ms. `on_failure` counts the steps that raised.
    """
    pause_s, failures = IDLE_FIRST_S, 0
    while not stop.is_set():
        if wake is not None:
            wake.clear()
        try:
            done = await step()
        except Exception as error:
            failures += 1
            _report(error, failures)
            if on_failure is not None:
                on_failure()
            delay = _FAILED.delay(failures, jitter_permille=random.randint(0, 1000))
            await _pause(delay.total_seconds(), stop, None)
            continue
        failures = 0
        if done:
            pause_s = IDLE_FIRST_S
            if at_once:
                continue
        await _pause(min(pause_s, idle_s), stop, wake)
        pause_s = min(pause_s * 2, max(idle_s, IDLE_FIRST_S))


def _report(error: Exception, failures: int) -> None:
    """An outage in a line, anything else with its traceback."""
    text = "a step failed %d times in a row and is tried again: %s"
    if fault_of(error) is Fault.DATA:
        log.exception(text, failures, error)
    else:
        log.warning(text, failures, error)


async def _pause(seconds: float, stop: asyncio.Event, wake: asyncio.Event | None) -> None:
    """Waits for time, `stop` or `wake`, whichever comes first."""
    if wake is not None and wake.is_set():
        return
    if wake is None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
        return
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, wake)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
