"""Every path's ground: as whom the embedded servers run.

PostgreSQL refuses to run as root, and root is who runs in most containers. Three ways down are known,
in this order; none makes a system user, and none changes the mode of a folder above the data folder.

Invariant: whoever is chosen can read the programs and owns the data.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from billing.runtime.embedded.errors import NoWayToDropRoot
from billing.runtime.embedded.settings import Way

LAUNCHER = Path(__file__).with_name("launcher.py")

# CHOWN and KILL to own and stop the server's files and process, SETGID and SETUID to become nobody.
_TO_BECOME_NOBODY = {0, 5, 6, 7}
_TO_KEEP_READING = {2, 8}  # DAC_READ_SEARCH, and SETPCAP to keep it
_NOBODY = 65_534
_PROBE_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Identity:
    """How a server runs (`way`), who it then is (`uid`, `gid`), and who owns its files outside."""

    way: Way
    uid: int
    gid: int
    owner_uid: int
    owner_gid: int

    def launch(self, argv: list[str], *, death_signal: int) -> list[str]:
        """The command line that runs `argv` as this identity; a death signal of 0 asks for none."""
        who = [self.way, str(self.uid), str(self.gid), str(os.getpid()), str(death_signal)]
        return [sys.executable, "-I", "-S", str(LAUNCHER), *who, *argv]

    @property
    def reader_gid(self) -> int | None:
        """The group that must be let read what we write for a server; None: it can read it anyway."""
        return self.owner_gid if self.way is Way.PLAIN else None

    def own(self, top: Path) -> None:
        """Hand a folder with all in it to whom the servers run as, if it is not theirs yet.

        The top goes last: a change that was cut short is then seen, and made again.
        """
        owner = self.owner_uid, self.owner_gid
        if (top.stat().st_uid, top.stat().st_gid) == owner:
            return
        for _, folders, files, fd in os.fwalk(top):
            for name in (*folders, *files):
                os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
        os.chown(top, *owner)


def choose(wanted: Way | None, *, folder: Path, programs: list[Path]) -> Identity:
    """The identity for servers with data in `folder`. Raises NoWayToDropRoot."""
    if wanted is not None:
        return identity(wanted)
    if os.geteuid() != 0:
        # initdb looks up the name of its user; an id without one gets the name nobody.
        return identity(Way.DIRECT if _has_name(os.geteuid()) else Way.NAMESPACE)
    held = _held_capabilities()
    can_become_nobody = _is_mapped(_nobody()[0]) and held >= _TO_BECOME_NOBODY
    if can_become_nobody and held >= _TO_KEEP_READING:
        return identity(Way.CAPABILITY)
    if _namespace_works():
        return identity(Way.NAMESPACE)
    closed = [path for path in (folder, *programs) if not _open_to_others(path.parent)]
    if can_become_nobody and not closed:
        return identity(Way.PLAIN)
    raise NoWayToDropRoot(
        "PostgreSQL must not run as root, and no way to run it as nobody works here: the capability "
        "DAC_READ_SEARCH is not held, user namespaces are not permitted"
        + (f", and {closed[0].parent} is closed to others" if closed else ", nor is setuid")
        + ". Run tollway as an ordinary user, or grant one of these to root."
    )


def identity(way: Way) -> Identity:
    """The identity that `way` leads to from who we are now."""
    us = os.geteuid(), os.getegid()
    them = _nobody()
    return {
        Way.DIRECT: partial(Identity, Way.DIRECT, *us, *us),
        Way.NAMESPACE: partial(Identity, Way.NAMESPACE, *them, *us),
        Way.CAPABILITY: partial(Identity, Way.CAPABILITY, *them, *them),
        Way.PLAIN: partial(Identity, Way.PLAIN, *them, *them),
    }[way]()


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return _NOBODY, _NOBODY
    return entry.pw_uid, entry.pw_gid


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _held_capabilities() -> set[int]:
    """The numbers of this process' permitted capabilities; none where the system has no such sets."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return set()
    line = next((line for line in status.splitlines() if line.startswith("CapPrm:")), "CapPrm: 0")
    bits = int(line.split()[1], 16)
    return {number for number in range(bits.bit_length()) if bits >> number & 1}


def _is_mapped(uid: int) -> bool:
    """False where only some ids exist, as in a rootless container: setuid would be refused."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    ranges = [tuple(map(int, line.split())) for line in lines]
    return any(first <= uid < first + count for first, _, count in ranges)


def _namespace_works() -> bool:
    command = identity(Way.NAMESPACE).launch([sys.executable, "-I", "-S", "-c", ""], death_signal=0)
    probe = subprocess.run(command, capture_output=True, check=False, timeout=_PROBE_TIMEOUT_S)
    return probe.returncode == 0


def _open_to_others(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))
