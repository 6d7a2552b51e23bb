"""Every path's ground: what can go wrong with the servers of `tollway up`, said so that it can be mended.

Invariant: each error names the folder, port or program at fault and what to do about it; where a
server gave a reason, the end of its log is part of the message.
"""

from __future__ import annotations

from pathlib import Path


class EmbeddedError(Exception):
    """Root of everything that the embedded servers raise on purpose; the message is for a person."""


class FolderInUse(EmbeddedError):
    """A living process owns the data folder; `pid` is None when it has not written its own yet."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.folder, self.pid = folder, pid
        owner = f"process {pid}" if pid else "another process"
        super().__init__(
            f"The data folder {folder} is in use by {owner}. "
            "Stop that one first, or give this one its own folder with --data-dir."
        )


class FolderUnusable(EmbeddedError):
    """The data folder cannot be made, read or written, or it holds something else."""


class BinaryMissing(EmbeddedError):
    """A server program is not installed, or not for this platform."""


class PortInUse(EmbeddedError):
    """The port that the settings ask for is taken by another program."""

    def __init__(self, server: str, port: int) -> None:
        self.server, self.port = server, port
        super().__init__(
            f"Port {port} on 127.0.0.1, asked for {server}, is taken by another program. "
            "Stop that program, give another port, or give none and a free one is chosen."
        )


class NoWayToDropRoot(EmbeddedError):
    """Run by root, and no way works here to run the servers as somebody else."""


class ServerFailed(EmbeddedError):
    """A server did not start, stopped on its own, or did not answer in time; see `log_path`."""

    def __init__(self, server: str, what: str, *, log_path: Path, log_tail: str) -> None:
        self.server, self.log_path, self.log_tail = server, log_path, log_tail
        said = f"\nThe end of {log_path}:\n{log_tail}" if log_tail else f" Its log is {log_path}."
        super().__init__(f"{server} {what}.{_advice(log_tail)}{said}")


# What the servers say, and what a person can do about it.
_ADVICE = (
    ("No space left on device", "Make room on the disk of the data folder."),
    ("no space left on device", "Make room on the disk of the data folder."),
    (
        "not compatible with this version",
        "Dump the data with the release that wrote it, then load it.",
    ),
    ("could not map anonymous shared memory", "Lower shared_buffers_mb: memory is short."),
    ("Cannot allocate memory", "Lower shared_buffers_mb: memory is short."),
    ("error while loading shared libraries", "Install the missing system library named below."),
)


def _advice(log_tail: str) -> str:
    return next((f" {advice}" for phrase, advice in _ADVICE if phrase in log_tail), "")
