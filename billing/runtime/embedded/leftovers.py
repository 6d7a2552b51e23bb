"""Every path's ground: servers that a killed owner left behind on a folder.

They are stopped and started anew rather than adopted: the new ones run with the present settings, and
as our children. A leftover is known by its command line, which names the program and the folder, so
neither a pid file nor a process id used again can point at a stranger.

Invariant: only a process whose command line names this very folder is ever signalled. Call only while
the folder's lock is held: then no living owner has it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from billing.runtime.embedded.process import AFTER_QUIT_S, Program, until

_PS = ["ps", "-A", "-o", "pid=", "-o", "command="]
_PS_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Leftover:
    """A running server of this folder that is not our child."""

    pid: int
    command: str

    def is_gone(self) -> bool:
        """Whether the process has ended; its number may be a stranger's by now."""
        return _command_of(self.pid) != self.command

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if not self.is_gone():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def find(program: Program) -> list[Leftover]:
    """The processes that run `program` on the same folder, found by their command lines."""
    wanted = " ".join(program.argv)
    ours = os.getpid()
    return [
        Leftover(pid, command)
        for pid, command in _commands()
        if pid != ours and _names(command, wanted)
    ]


async def stop(program: Program, *, grace_s: float) -> int:
    """Stop what is left over of `program`; returns how many there were. They are gone afterwards."""
    leftovers = find(program)
    stages = (
        (program.stop_signal, grace_s),
        (program.quit_signal, AFTER_QUIT_S),
        (9, AFTER_QUIT_S),
    )
    for number, patience_s in stages:
        for leftover in leftovers:
            leftover.signal(number)
        if await until(lambda: all(one.is_gone() for one in leftovers), timeout_s=patience_s):
            break
    return len(leftovers)


def _names(command: str, wanted: str) -> bool:
    """Whether the command runs the same server: the program's own name, and the same arguments.

    The path of the program may differ: another virtual environment may have started it.
    """
    program, _, arguments = wanted.partition(" ")
    return command.endswith(f"/{Path(program).name} {arguments}")


def _commands() -> Iterator[tuple[int, str]]:
    proc = Path("/proc")
    if (proc / "self" / "cmdline").exists():
        for entry in os.listdir(proc):
            if entry.isdecimal() and (command := _command_of(int(entry))):
                yield int(entry), command
        return
    listing = subprocess.run(
        _PS, capture_output=True, text=True, check=True, timeout=_PS_TIMEOUT_S
    ).stdout
    for line in listing.splitlines():
        pid, _, command = line.strip().partition(" ")
        yield int(pid), command.strip()


def _command_of(pid: int) -> str:
    """The arguments of a process, joined by spaces; empty when it is gone or a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return "" if Path("/proc/self/cmdline").exists() else _command_by_ps(pid)
    return os.fsdecode(raw.rstrip(b"\0").replace(b"\0", b" "))


def _command_by_ps(pid: int) -> str:
    command = ["ps", "-p", str(pid), "-o", "command="]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_PS_TIMEOUT_S
    )
    return answer.stdout.strip()
