"""A process that owns embedded servers, for tests that kill their owner.

Run as a script it starts the servers, prints what it started as one line of JSON, and stops them when
its input ends. From a test: `with Owner.start(folder) as owner: …`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from billing.runtime.embedded import EmbeddedError, EmbeddedSettings, start_servers

ROOTS = [str(Path(__file__).parents[2])]


@dataclass(frozen=True, slots=True)
class Started:
    """What the owner tells about its servers; `error` alone when they did not start."""

    database_url: str = ""
    nats_url: str = ""
    pids: tuple[int, ...] = ()
    error: str = ""


class Owner:
    """The owning process, as its test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @classmethod
    def spawn(
        cls,
        folder: Path,
        *,
        die_with_owner: bool = True,
        through: Callable[[list[str]], list[str]] | None = None,
        import_first: Iterable[Path] = (),
    ) -> Self:
        """Start the process and do not wait for its servers.

        `through` makes another command line of the owner's, which ends up running it.
        """
        argv = [sys.executable, __file__, str(folder), json.dumps(die_with_owner)]
        if through is not None:
            argv = through(argv)
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        roots = [*map(str, import_first), *ROOTS, *filter(None, inherited)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
        pipe = subprocess.PIPE
        return cls(subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=environment))

    def started(self) -> Started:
        """Wait until the servers answer, or could not be started."""
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return Started(**{**told, "pids": tuple(told["pids"])})

    def kill(self) -> None:
        """SIGKILL: the owner can do nothing about its servers any more."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End its input and wait until it has stopped its servers."""
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


async def _own(folder: Path, settings: EmbeddedSettings) -> None:
    try:
        servers = await start_servers(folder, settings)
    except EmbeddedError as error:
        _tell(Started(error=f"{type(error).__name__}: {error}"))
        return
    async with servers:
        _tell(Started(servers.database_url, servers.nats_url, tuple(servers.pids.values())))
        await asyncio.to_thread(sys.stdin.read)


def _tell(started: Started) -> None:
    print(json.dumps(asdict(started)), flush=True)


if __name__ == "__main__":
    asyncio.run(_own(Path(sys.argv[1]), EmbeddedSettings(die_with_owner=json.loads(sys.argv[2]))))
