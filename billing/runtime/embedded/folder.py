"""Every path's ground: the one folder that holds all data of `tollway up`.

    lock            held by the living owner (flock), names its pid
    state.json      passwords and ports, made once, mode 0600
    postgres/       the database cluster        postgres.conf, postgres_hba.conf, postgres.log
    nats/           the streams                 nats.conf, nats.log

Invariant: one living owner per folder; every file that we write is whole at any instant (written
beside, then renamed), and nobody but the owner and the servers can read a password.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from billing.runtime.embedded.errors import FolderInUse, FolderUnusable
from billing.runtime.embedded.state import State

LOCK, STATE = "lock", "state.json"
_PATIENCE_WITH_THE_DEAD_S = 2.0
_BETWEEN_TRIES_S = 0.01
_OURS_OR_HARMLESS = ("postgres", "nats", LOCK, "lost+found", ".")


class DataFolder:
    """An opened, locked data folder; `close` lets others in."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the folder if need be, and own it. Raises FolderInUse and FolderUnusable."""
        path = path.expanduser().absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            path = path.resolve(strict=True)
            fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise FolderUnusable(
                f"The data folder {path} cannot be used: {error.strerror} ({error.filename}). "
                "Give another with --data-dir, or correct its owner and mode."
            ) from error
        try:
            _lock(path, fd)
            folder = cls(path, fd)
            folder._refuse_what_is_not_ours()
        except BaseException:
            os.close(fd)
            raise
        return folder

    def close(self) -> None:
        """Give the folder up; the kernel does the same when the process dies."""
        os.close(self._lock_fd)

    def load_or_make_state(self) -> State:
        """The folder's state, made at the first start. Raises FolderUnusable if it was spoilt."""
        path = self.path / STATE
        if path.exists():
            return State.read(path)
        if (self.path / "postgres").exists():
            raise FolderUnusable(
                f"{path} is missing, and with it the password of the data in {self.path}. "
                "Put it back from a backup, or start anew with --fresh, which deletes that data."
            )
        state = State.generate()
        self.save_state(state)
        return state

    def save_state(self, state: State) -> None:
        """Replace the state; it is on disk when this returns."""
        self.write(STATE, state.to_json())

    def write(self, name: str, text: str, *, reader_gid: int | None = None) -> Path:
        """Replace file `name` whole: mode 0600, or 0640 for the group that a server reads it with."""
        path, fresh = self.path / name, self.path / f"{name}.new"
        with suppress(FileNotFoundError):
            fresh.unlink()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            if reader_gid is not None:
                os.fchown(fd, -1, reader_gid)
                os.fchmod(fd, 0o640)
            file.write(text)
            file.flush()
            os.fsync(fd)
        self.rename(fresh, path)
        return path

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or folder to its place; it is there after a power cut too."""
        source.replace(target)
        self._sync()

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def erase(self) -> None:
        """Delete all that the servers keep here; other files, and the lock, stay.

        The state goes last: a deletion that was cut short is then taken up by the next `--fresh`.
        """
        for path in (self.path / "nats", self.path / "postgres", *self.path.glob("postgres.new-*")):
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
        for pattern in ("postgres*.conf*", "nats.conf*", "*.log", "*.log.1", f"{STATE}*"):
            for path in self.path.glob(pattern):
                path.unlink()
        self._sync()

    def _refuse_what_is_not_ours(self) -> None:
        state = self.path / STATE
        if state.exists():
            owner = state.stat().st_uid
            if owner != os.geteuid():
                raise FolderUnusable(
                    f"The data in {self.path} belongs to the user with id {owner}, and this is the "
                    f"user with id {os.geteuid()}. Run as that user, or give another --data-dir."
                )
            return
        for path in self.path.iterdir():
            if not path.name.startswith(_OURS_OR_HARMLESS):
                raise FolderUnusable(
                    f"{self.path} is no data folder of Tollway, and it is not empty (it has "
                    f"{path.name}). Give an empty or new folder with --data-dir."
                )


def _lock(path: Path, fd: int) -> None:
    """Take the lock, or raise FolderInUse.

    A killed owner may have left a child between fork and exec, which holds the lock for moments more.
    """
    deadline = time.monotonic() + _PATIENCE_WITH_THE_DEAD_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            pid = _owner_in(fd)
            if pid is None or _lives(pid) or time.monotonic() >= deadline:
                raise FolderInUse(path, pid) from error
        time.sleep(_BETWEEN_TRIES_S)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)


def _owner_in(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
