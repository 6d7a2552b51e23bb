"""Every path's ground: what a data folder must remember from run to run.

Invariant: a state that is read is one that was written whole; anything else is refused, since a wrong
password would lock its owner out of the data.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from billing.runtime.embedded.errors import FolderUnusable

FORMAT = 1  # raised when an older release could not read the folder
STATE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class State:
    """Passwords and ports of one folder. A port of 0 is still to be chosen."""

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

    @classmethod
    def read(cls, path: Path) -> Self:
        """The state in the file `path`. Raises FolderUnusable when it is spoilt or of a newer release."""
        raw = _read_object(path)
        if isinstance(raw.get("format"), int) and raw["format"] != FORMAT:
            raise FolderUnusable(
                f"{path} was written by another release (format {raw['format']}, this one reads "
                f"{FORMAT}). Use that release, or another --data-dir."
            )
        try:
            known = {field.name: raw[field.name] for field in fields(cls)}
        except KeyError as error:
            raise _spoilt(path) from error
        if any(type(known[field.name]).__name__ != field.type for field in fields(cls)):
            raise _spoilt(path)
        return cls(**known)

    def to_json(self) -> str:
        """The text from which `read` makes it again."""
        return json.dumps(asdict(self), indent=2) + "\n"


def _read_object(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(STATE_BYTES_MAX)
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise _spoilt(path) from error
    if not isinstance(raw, dict):
        raise _spoilt(path)
    return raw


def _spoilt(path: Path) -> FolderUnusable:
    return FolderUnusable(
        f"{path} cannot be read as the state of a data folder. Put it back from a backup, or start "
        "anew with --fresh, which deletes the data of this folder."
    )
