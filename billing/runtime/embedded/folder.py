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
import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from billing.runtime.embedded.errors import EmbeddedError, FolderInUse, FolderUnusable

LOCK, STATE = "lock", "state.json"
FORMAT = 1  # raised when an older release could not read the folder
STATE_BYTES_MAX = 64 * 1024
_FOREIGN_BUT_HARMLESS = {LOCK, STATE, "lost+found"}


@dataclass(frozen=True, slots=True)
class State:
    """What must stay the same between two runs on one folder. Ports of 0 are still to be chosen."""

    postgres_password: str
    nats_password: str
    postgres_port: int = 0
    nats_port: int = 0
    nats_monitor_port: int = 0
    format: int = FORMAT

    @classmethod
    def generate(cls) -> Self:
        """New passwords of 256 bits. Hexadecimal: they stand in URLs and in nats-server's config."""
        return cls(postgres_password=secrets.token_hex(32), nats_password=secrets.token_hex(32))


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
            return _parse_state(path)
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
        self.write(STATE, json.dumps(asdict(state), indent=2) + "\n")

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
        fresh.replace(path)
        self.sync()
        return path

    def sync(self) -> None:
        """Make renames inside the folder outlive a power cut."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def erase(self) -> None:
        """Delete all that the servers keep here; other files, and the lock, stay.

        The state goes last: a deletion that was cut short is then taken up by the next `--fresh`.
        """
        for name in ("postgres", "postgres.new", "nats"):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.path / name)
        for pattern in ("postgres*.conf*", "nats.conf*", "*.log", "*.log.1", f"{STATE}*"):
            for path in self.path.glob(pattern):
                path.unlink()
        self.sync()

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
            ours = path.name in _FOREIGN_BUT_HARMLESS or path.name.startswith((".", "postgres"))
            if not ours:
                raise FolderUnusable(
                    f"{self.path} is no data folder of Tollway, and it is not empty (it has "
                    f"{path.name}). Give an empty or new folder with --data-dir."
                )


def _lock(path: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        raise FolderInUse(path, int(text) if text.isdecimal() else None) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)


def _parse_state(path: Path) -> State:
    try:
        raw = json.loads(path.read_bytes()[:STATE_BYTES_MAX])
        known = {field.name: raw[field.name] for field in fields(State)}
        state = State(**known)
        whole = all(type(value) is (str if "pass" in key else int) for key, value in known.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _spoilt(path) from error
    if not whole:
        raise _spoilt(path)
    if state.format != FORMAT:
        raise FolderUnusable(
            f"{path} was written by another release (format {state.format}, this one reads "
            f"{FORMAT}). Use that release, or another --data-dir."
        )
    return state


def _spoilt(path: Path) -> EmbeddedError:
    return FolderUnusable(
        f"{path} cannot be read as the state of a data folder. Put it back from a backup, or start "
        "anew with --fresh, which deletes the data of this folder."
    )
