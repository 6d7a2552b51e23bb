"""The rim, step 0: how long a call may take when its caller says nothing, or too much.

Invariant: every call ends. A caller's shorter deadline is the transport's to keep; ours is the longest one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
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


class Within:
    """Ends a block that takes longer than so many seconds with TookTooLong; None is for ever.

    What `asyncio.timeout` does, for a third of its price: every call without a deadline passes here.
    """

    __slots__ = ("_cancelling", "_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._expired, self._cancelling = seconds, False, 0
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Starts the time."""
        if self._seconds is not None:
            self._task = asyncio.current_task()
            assert self._task is not None, "calls are tasks"
            self._cancelling = self._task.cancelling()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        assert self._task is not None, "the time was started"
        self._expired = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stops the time. Raises TookTooLong when it was up, and nobody else has cancelled the task meanwhile."""
        if self._timer is None or self._task is None:
            return
        self._timer.cancel()
        ours = self._expired and self._task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise TookTooLong(retry_after_s=1) from error


async def until(answers: AsyncIterator[T], seconds: float | None) -> AsyncIterator[T]:
    """The answers of a stream as they come, for so long. Raises TookTooLong."""
    loop = asyncio.get_running_loop()
    ends_at = None if seconds is None else loop.time() + seconds
    while True:
        # Around each answer: a limit around them all would strike whoever takes them.
        try:
            with Within(None if ends_at is None else ends_at - loop.time()):
                answer = await anext(answers)
        except StopAsyncIteration:
            return
        yield answer
