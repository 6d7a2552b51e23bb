"""The project as the house tests see it: its files, its modules, its contract."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tools.contract import Contract, read

ROOT: Final = Path(__file__).resolve().parents[2]
LAYERS: Final = ("billing", "server", "workers", "cli")
HAND_WRITTEN: Final = (*LAYERS, "tools", "bench", "tests", "sdk/python")


def name_of(path: Path) -> str:
    """A file's path below the root, as messages and tables name it."""
    return path.relative_to(ROOT).as_posix()


@cache
def modules(*folders: str) -> tuple[Path, ...]:
    """Every Python file below the named folders, sorted."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts))


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that is committed or could be: what git knows and does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("git does not know this folder")
    names = listed.stdout.decode().split("\0")
    return tuple(ROOT / name for name in names if name and (ROOT / name).is_file())


@cache
def descriptors() -> FileDescriptorSet:
    """Our protos and all they import, with comments, an import before its importer."""
    buf = Path(sys.executable).parent / "buf"
    built = subprocess.run(
        [buf, "build", "--as-file-descriptor-set", "-o", "-"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr.decode()
    return FileDescriptorSet.FromString(built.stdout)


@cache
def contract() -> Contract:
    """The messages, enums and services of proto/tollway."""
    files = descriptors().file
    return read(files, [file.name for file in files if file.name.startswith("tollway/")])
