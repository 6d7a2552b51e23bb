"""The door: processes of ours that run beside this one: the workers of `tollway up`, the servers of `tollway serve`.

Invariant: a child leaves when its standard input closes, which the kernel does whatever becomes of its parent; one that
ends by itself is started again, unless it has never been ready and must be.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cli.compose import stopped_within

log = logging.getLogger(__name__)

RESTART_PAUSE_S: Final = 1.0


class ChildFailed(Exception):
    """A process ended before it was ready; its own lines above say why."""


@dataclass(frozen=True, slots=True)
class Child:
    """A command of ours, and the beginning of the line by which it says that it is ready.

    `must_start` makes a first start that fails an error; otherwise it is tried again, too.
    """

    name: str
    words: Sequence[str]
    environment: Mapping[str, str]
    ready_line: str
    must_start: bool = False


async def keep_child(child: Child, on_ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Keeps it running until the stop, then waits until it has left. Raises ChildFailed.

    `on_ready` gets what stands behind the ready line, after each start.
    """
    was_ready = False

    def ready(text: str) -> None:
        nonlocal was_ready
        was_ready = True
        on_ready(text)

    while not stop.is_set():
        status = await _run_once(child, ready, stop)
        if stop.is_set():
            return
        if child.must_start and not was_ready:
            raise ChildFailed(f"{child.name}: {ChildFailed.__doc__}")
        log.error("%s ended with status %s; it is started again", child.name, status)
        await stopped_within(stop, RESTART_PAUSE_S)


async def _run_once(
    child: Child, on_ready: Callable[[str], None], stop: asyncio.Event
) -> int | None:
    """Runs it until it ends, or the stop makes it; its exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *child.words, "--until-stdin-closes",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=dict(child.environment),
        start_new_session=True,
    )  # fmt: skip
    watch = asyncio.create_task(_read_until_closed(process, child.ready_line, on_ready))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([watch, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await watch
    return process.returncode


async def _read_until_closed(
    process: asyncio.subprocess.Process, ready_line: str, on_ready: Callable[[str], None]
) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        text = line.decode().strip()
        if text.startswith(ready_line):
            on_ready(text.removeprefix(ready_line).strip())
