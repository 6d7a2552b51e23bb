"""Contract toolchain: make everything that is generated from the protos, the SQL and the rules.

`python -m tools.generate` (make gen) moves over what changed; `--check` (make check) only compares.

Invariant: both build the same outputs in a temporary copy of the sources, so a generator that
fails leaves the tree as it was, and a file that nothing generates any more is removed.
"""

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tools import state_diagrams

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ("proto", "queries", "tools", "buf.yaml", "buf.gen.yaml", "sqlc.yaml")
# The generator owns these folders: a file in them that it did not write is stale.
FOLDERS: Final = ("gen/python", "gen/queries", "gen/openapi")
FILES: Final = ("docs/events.md", "docs/errors.md", "docs/api.md", state_diagrams.PAGE)
GENERATORS: Final = (["buf", "generate"], ["sqlc", "generate"])
DIFF_LINES_MAX: Final = 60


class GeneratorFailed(Exception):
    """A generator ended with an error; the message is what it printed."""


def main() -> None:
    """Generate into a copy, then move over (or with --check report) what differs."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.generate")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when stale")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tollway-gen-") as folder:
        copy = Path(folder).resolve() / "tollway"
        try:
            build(ROOT, copy)
        except GeneratorFailed as failure:
            raise SystemExit(str(failure)) from failure
        changes = list(differences(ROOT, copy))
        if not arguments.check:
            apply(ROOT, copy, changes)
            print(f"generated: {len(changes)} files changed" if changes else "generated: no change")
        elif changes:
            report(ROOT, copy, changes)
            raise SystemExit("Generated files are stale: run `make gen` and commit the result.")


def build(root: Path, copy: Path) -> None:
    """Copy the sources of `root` to `copy` and run every generator there."""
    copy.mkdir()
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy2(source, copy / name)
    # buf and sqlc read different sources and write different outputs.
    with ThreadPoolExecutor() as pool:
        for finished in [pool.submit(run, command, copy) for command in GENERATORS]:
            finished.result()
    if (root / state_diagrams.PAGE).exists():
        (copy / state_diagrams.PAGE).write_text(state_diagrams.render(root), encoding="utf-8")


def run(command: list[str], folder: Path) -> None:
    """Run one generator in `folder`, with this interpreter's own tools first on the PATH."""
    # The interpreter's folder is not resolved: a virtual environment is the folder of the link.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise GeneratorFailed(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}".rstrip())


def outputs(root: Path) -> set[str]:
    """The generated files that exist below `root`, as paths relative to it."""
    found = {name for name in FILES if (root / name).is_file()}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(root).as_posix())
    return found


def differences(root: Path, copy: Path) -> Iterator[str]:
    """Names of the outputs that are missing, stale or different in `root`, sorted."""
    fresh, present = outputs(copy), outputs(root)
    for name in sorted(fresh | present):
        both = name in fresh and name in present
        if not both or (root / name).read_bytes() != (copy / name).read_bytes():
            yield name


def apply(root: Path, copy: Path, changes: list[str]) -> None:
    """Make `root` equal to `copy` for the named files, each in one atomic step."""
    for name in changes:
        target, source = root / name, copy / name
        if not source.exists():
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.new")
        shutil.copyfile(source, beside)
        beside.replace(target)


def report(root: Path, copy: Path, changes: list[str]) -> None:
    """Print each stale file, and the first lines of what differs."""
    lines: list[str] = []
    for name in changes:
        print(f"stale: {name}")
        old, new = (
            path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for path in (root / name, copy / name)
        )
        lines += difflib.unified_diff(
            old, new, f"committed/{name}", f"generated/{name}", "", "", 1, ""
        )
    print("\n".join(lines[:DIFF_LINES_MAX]))


if __name__ == "__main__":
    main()
