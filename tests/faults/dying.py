"""A process that dies at a chosen await, as near as one process can come to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Dying:
    """Awaits `work` and cancels whatever its `at`-th suspension waits for; nothing after that await is done.

    Unlike a kill, open transactions are rolled back by us and not by the server, which comes to the same.
    """

    def __init__(self, work: Coroutine[Any, Any, T], *, at: int) -> None:
        self._work, self._at = work, at

    def __await__(self) -> Generator[Any, None, T]:
        steps = self._work.__await__()
        error: BaseException | None = None
        suspensions = 0
        while True:
            try:
                waited_for = steps.throw(error) if error is not None else steps.send(None)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return] # StopIteration does not say of what
            error = None
            suspensions += 1
            if suspensions == self._at and (waited_for is None or not waited_for.cancel()):
                error = asyncio.CancelledError()
                continue
            try:
                yield waited_for
            except BaseException as raised:
                error = raised
