"""grpcurl for the tests and for trying the examples of the contract: fetched with Go, kept in `.cache/bin`.

    python -m tools.grpcurl          # fetches it and prints where it is

Tests install nothing: they use it when it is there, and `why_not()` says what to do when it is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "v1.9.4"
FETCH_TIMEOUT_S = 600

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "bin"
# The version is in the name, so that another pinned version is fetched anew.
PROGRAM = FOLDER / f"grpcurl-{VERSION}"


class GrpcurlUnavailable(Exception):
    """grpcurl could not be fetched; the text says why."""


def why_not() -> str | None:
    """What is missing for using grpcurl, or None."""
    if PROGRAM.exists():
        return None
    if shutil.which("go") is None:
        return "grpcurl is not in .cache/bin, and Go to fetch it is not on the PATH"
    return "grpcurl is not in .cache/bin; `python -m tools.grpcurl` fetches it"


def fetch() -> Path:
    """The program, fetched the first time. Raises GrpcurlUnavailable."""
    if PROGRAM.exists():
        return PROGRAM
    if shutil.which("go") is None:
        raise GrpcurlUnavailable("Go is not on the PATH")
    FOLDER.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["go", "install", f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{VERSION}"],
        env={**os.environ, "GOBIN": str(FOLDER)},
        capture_output=True,
        text=True,
        timeout=FETCH_TIMEOUT_S,
        check=False,
    )
    if built.returncode != 0:
        raise GrpcurlUnavailable(built.stderr.strip())
    (FOLDER / "grpcurl").rename(PROGRAM)
    return PROGRAM


if __name__ == "__main__":
    try:
        print(fetch())
    except GrpcurlUnavailable as error:
        sys.exit(str(error))
