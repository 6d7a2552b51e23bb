"""The rim, step 0: how long a call may take when its caller says nothing, or too much.

Invariant: every call ends. A caller's shorter deadline is the transport's to keep; ours is the longest one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from billing.domain.errors import BillingError, Kind

T = TypeVar("T")


class TookTooLong(BillingError):
    """The call was not done within its time; whether it took effect is not known, so repeat it with its request_id."""

    kind = Kind.UNAVAILABLE
    reason = "DEADLINE_PASSED"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The longest that a call and a stream may take. A stream that was ended so goes on from its cursor."""

    call_s_max: float = 60.0
    stream_s_max: float = 3600.0


class Timed(Protocol):
    """A call's context: what its caller's deadline leaves."""

    def time_remaining(self) -> float | None:
        """Seconds; None without a deadline."""


def longest(context: Timed, most_s: float) -> float | None:
    """How long we have to watch over a call ourselves; None when its caller's own deadline is earlier."""
    left_s = context.time_remaining()
    return None if left_s is not None and left_s <= most_s else most_s


def ended_by(limit: asyncio.Timeout, error: Exception) -> Exception:
    """The error that a call ended with: TookTooLong when it was our limit, and not a timeout within."""
    if isinstance(error, TimeoutError) and limit.expired():
        return TookTooLong(retry_after_s=1)
    return error


async def until(answers: AsyncIterator[T], seconds: float | None) -> AsyncIterator[T]:
    """The answers of a stream as they come, for so long. Raises TookTooLong."""
    ends_at = None if seconds is None else asyncio.get_running_loop().time() + seconds
    while True:
        # Around each answer: a timeout around them all would strike whoever takes them.
        try:
            async with asyncio.timeout_at(ends_at) as limit:
                answer = await anext(answers)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise ended_by(limit, error) from error
        yield answer
