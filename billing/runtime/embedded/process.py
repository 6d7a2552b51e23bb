"""Every path's ground: one server as a child process, from start to the last signal.

Invariant: when `stop` returns, the process is gone, whatever it did with the polite signals; and the
log file of a server never grows far beyond LOG_BYTES_MAX.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from billing.runtime.embedded.errors import ServerFailed
from billing.runtime.embedded.identity import Identity

LOG_BYTES_MAX = 16 * 1024 * 1024  # then the log moves to <name>.log.1, of which there is one
LOG_TAIL_BYTES = 2_000
POLL_S = 0.01
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH")  # what a Python or a library may need to be found
AFTER_QUIT_S = 5.0  # what a server gets between the last polite signal and SIGKILL


@dataclass(frozen=True, slots=True)
class Program:
    """How to run one server and how to end it."""

    name: str  # as a person calls it, for messages
    argv: list[str]
    folder: Path  # where it runs
    log_path: Path
    stop_signal: signal.Signals  # a clean stop that does not wait for clients
    quit_signal: signal.Signals  # an unclean one, recovered from at the next start
    death_signal: int  # what the kernel sends it when we die; 0 is nothing


class ServerProcess:
    """A running child. Not bound to an event loop; bound to the thread that started it.

    The kernel takes the end of that *thread* for our death, so start servers from a thread that
    lives as long as they shall.
    """

    def __init__(self, program: Program, child: subprocess.Popen[bytes], log_start: int) -> None:
        self.program = program
        self._child = child
        self._log_start = log_start

    @classmethod
    def start(cls, program: Program, identity: Identity) -> ServerProcess:
        """Fork and exec. That it runs says nothing yet about whether it answers."""
        log_fd = open_log(program.log_path)
        try:
            log_start = os.fstat(log_fd).st_size
            child = subprocess.Popen(
                identity.launch(program.argv, death_signal=program.death_signal),
                cwd=program.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                start_new_session=True,  # Ctrl-C is for us; we stop the servers when we are done
            )
        finally:
            os.close(log_fd)
        return cls(program, child, log_start)

    @property
    def pid(self) -> int:
        """The process id, valid until `stop`."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """As of the last `has_ended` or `stop`; minus the signal's number after a signal."""
        return self._child.returncode

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._child.poll() is not None

    def log_tail(self) -> str:
        """The end of what this run has logged, at most LOG_TAIL_BYTES."""
        return log_tail(self.program.log_path, self._log_start)

    def failed(self, what: str) -> ServerFailed:
        """The error that says what happened to this server, with the end of its log."""
        path = self.program.log_path
        return ServerFailed(self.program.name, what, log_path=path, log_tail=self.log_tail())

    def ended_with(self) -> ServerFailed:
        """The error for a server that is gone and should not be."""
        code = self._child.returncode
        how = f"with exit status {code}" if code >= 0 else f"by signal {-code}"
        return self.failed(f"ended on its own {how}")

    def kill(self) -> None:
        """End the process without a chance to tidy up, as a power cut would. `stop` then reaps it."""
        self._child.kill()

    async def stop(self, *, grace_s: float) -> None:
        """End the process: politely for `grace_s`, then not. Cancelled, it skips the politeness."""
        try:
            if not self.has_ended():
                self._child.send_signal(self.program.stop_signal)
                await until(self.has_ended, timeout_s=grace_s)
        finally:
            self.end_now()

    def end_now(self) -> None:
        """End the process before this returns; no await, so that no cancellation comes between.

        Blocks for AFTER_QUIT_S at most, and only for a process that `stop` has not ended.
        """
        if self.has_ended():
            return
        self._child.send_signal(self.program.quit_signal)
        try:
            self._child.wait(AFTER_QUIT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


async def until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll until `condition` holds or the time is up; says which."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def environment() -> dict[str, str]:
    """All that a server sees of our environment: no PG… setting and no secret reaches it."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def open_log(path: Path) -> int:
    """A descriptor that appends to `path`, mode 0600."""
    limit_log(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def limit_log(path: Path) -> None:
    """Move a log that has grown too long aside, while its server goes on writing.

    Copied and cut rather than renamed, since the server holds the file open to append; lines written
    in between are lost.
    """
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def log_tail(path: Path, start: int = 0) -> str:
    """The last whole lines of `path` after `start`, at most LOG_TAIL_BYTES."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A log shorter than at the start was moved aside meanwhile: all of it is new.
            begin = max(start if start <= size else 0, size - LOG_TAIL_BYTES)
            file.seek(begin)
            text = file.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
            return (text if begin in (0, start) else text.partition("\n")[2]).strip()
    except FileNotFoundError:
        return ""
