"""Contract toolchain: make everything that is generated from the protos, the SQL and the rules.

`python -m tools.generate` (make gen) moves over what changed; `--check` (make check) only compares what is committed.
A client's language whose plugins are not on this machine is left as it is, by name (tools/clients).

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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tools import state_diagrams
from tools.clients.languages import LANGUAGES, Language

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
    languages = ready(committed_only=arguments.check)
    folders = (*FOLDERS, *(language.generated for language in languages))
    with tempfile.TemporaryDirectory(prefix="tollway-gen-") as folder:
        copy = Path(folder).resolve() / "tollway"
        try:
            build(ROOT, copy, languages)
        except GeneratorFailed as failure:
            raise SystemExit(str(failure)) from failure
        changes = list(differences(ROOT, copy, folders))
        if not arguments.check:
            apply(ROOT, copy, changes)
            print(f"generated: {len(changes)} files changed" if changes else "generated: no change")
        elif changes:
            report(ROOT, copy, changes)
            raise SystemExit("Generated files are stale: run `make gen` and commit the result.")


def ready(*, committed_only: bool) -> list[Language]:
    """The languages whose plugins are here; says which are skipped, and why."""
    found = []
    for language in LANGUAGES:
        if committed_only and not language.committed:
            continue
        if missing := language.why_not():
            print(f"skipped the {language.name} client: {missing}")
        else:
            found.append(language)
    return found


def build(root: Path, copy: Path, languages: Sequence[Language]) -> None:
    """Copy the sources of `root` to `copy` and run every generator there."""
    copy.mkdir()
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy2(source, copy / name)
    # They write different outputs.
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(run, command, copy) for command in GENERATORS]
        running += [
            pool.submit(
                run, ["buf", "generate", "--template", language.template], copy, language.plugins
            )
            for language in languages
        ]
        for finished in running:
            finished.result()
    if (root / state_diagrams.PAGE).exists():
        (copy / state_diagrams.PAGE).write_text(state_diagrams.render(root), encoding="utf-8")


def run(command: list[str], folder: Path, *plugins: Path) -> None:
    """Run one generator in `folder`, with this interpreter's own tools and the plugins first on the PATH."""
    # The interpreter's folder is not resolved: a virtual environment is the folder of the link.
    first = [str(folder) for folder in (Path(sys.executable).parent, *plugins)]
    path = os.pathsep.join([*first, os.environ.get("PATH", "")])
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


def outputs(root: Path, folders: Sequence[str]) -> set[str]:
    """The generated files that exist below `root`, as paths relative to it."""
    found = {name for name in FILES if (root / name).is_file()}
    for folder in folders:
        for path in (root / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(root).as_posix())
    return found


def differences(root: Path, copy: Path, folders: Sequence[str] = FOLDERS) -> Iterator[str]:
    """Names of the outputs that are missing, stale or different in `root`, sorted."""
    fresh, present = outputs(copy, folders), outputs(root, folders)
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
