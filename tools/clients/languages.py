"""Contract toolchain: which languages clients are generated for, and with which pinned plugins.

    python -m tools.clients.languages          # (make sdk) fetches what each needs, once; needs the network

Invariant: `why_not` never reaches the network; a language whose toolchain or plugins are not here is skipped by name.
The manifest of each, such as sdk/go/go.mod, pins its plugins.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PLUGINS: Final = ROOT / ".cache" / "clients"
FETCH_TIMEOUT_S: Final = 900
TOLD_CHARACTERS_MAX: Final = 300


class FetchFailed(Exception):
    """A toolchain could not fetch what it needs; the text is what it printed."""


class Language(ABC):
    """A language: its toolchain, where its plugins are, and the folder that is generated."""

    name: ClassVar[str]
    program: ClassVar[str]
    folder: ClassVar[Path]
    generated: ClassVar[str]
    # Go has no build before `go get`, so what it generates is in the tree; packages of the others are built.
    committed: ClassVar[bool] = False

    @property
    def template(self) -> str:
        """What buf is to generate, beside this module."""
        return f"tools/clients/{self.folder.name}.yaml"

    @property
    @abstractmethod
    def plugins(self) -> Path:
        """The folder that holds the plugins; it goes on the PATH of buf."""

    @abstractmethod
    def fetch(self) -> None:
        """Fetches plugins and dependencies. Raises FetchFailed."""

    @abstractmethod
    def is_warm(self) -> bool:
        """Whether everything is here that generating and building need."""

    def why_not(self) -> str | None:
        """What is missing, or None."""
        if shutil.which(self.program) is None:
            return f"no `{self.program}` on the PATH"
        if not self.is_warm():
            return "its plugins and libraries are not here; `make sdk` fetches them"
        return None


class Go(Language):
    """Go: the plugins are the tools of its module."""

    name, program = "Go", "go"
    folder, generated, committed = ROOT / "sdk" / "go", "sdk/go/gen", True
    plugins = PLUGINS / "go"

    def fetch(self) -> None:
        """The modules, into Go's own cache."""
        self._install({})

    def is_warm(self) -> bool:
        """The same from Go's cache alone, so that the plugins are those of go.mod."""
        try:
            self._install({"GOPROXY": "off"})
        except FetchFailed:
            return False
        return True

    def _install(self, extra: Mapping[str, str]) -> None:
        run(["go", "mod", "download"], self.folder, extra)
        run(["go", "install", "tool"], self.folder, {"GOBIN": str(self.plugins), **extra})


class TypeScript(Language):
    """TypeScript: the plugin is a development dependency of its package."""

    name, program = "TypeScript", "npm"
    folder, generated = ROOT / "sdk" / "typescript", "sdk/typescript/gen"
    plugins = folder / "node_modules" / ".bin"

    def fetch(self) -> None:
        """What the lock says, into node_modules."""
        run(["npm", "ci", "--no-audit", "--no-fund"], self.folder)

    def is_warm(self) -> bool:
        """npm keeps a lock of what it installed: it is to have the versions of ours."""
        installed = locked(self.folder / "node_modules" / ".package-lock.json")
        return (
            bool(installed)
            and installed.items() <= locked(self.folder / "package-lock.json").items()
        )


class Java(Language):
    """Java: its pom names the plugins, which are programs; they are kept beside the libraries and the pom."""

    name, program = "Java", "mvn"
    folder, generated = ROOT / "sdk" / "java", "sdk/java/gen"
    plugins = PLUGINS / "java"

    def fetch(self) -> None:
        """The programs and the libraries; what else a build needs comes into Maven's cache by a build of nothing."""
        shutil.rmtree(self.plugins, ignore_errors=True)
        empty = ["-Dmaven.main.skip", "-Dmaven.test.skip", "process-classes"]
        copied = ["dependency:copy", "dependency:copy-dependencies"]
        to = f"-DoutputDirectory={self.plugins}"
        run(["mvn", "-q", "-B", *empty, *copied, to], self.folder)
        for program in self.plugins.glob("protoc*"):
            program.chmod(0o755)
        shutil.copy(self.folder / "pom.xml", self.plugins)

    def is_warm(self) -> bool:
        """The pom is as it was then."""
        kept = self.plugins / "pom.xml"
        return kept.exists() and kept.read_bytes() == (self.folder / "pom.xml").read_bytes()


def locked(path: Path) -> dict[str, str]:
    """The versions in a lock of npm; none if there is none."""
    if not path.exists():
        return {}
    packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
    return {name: package["version"] for name, package in packages.items() if name}


LANGUAGES: Final[Sequence[Language]] = (Go(), TypeScript(), Java())


def run(command: list[str], folder: Path, extra: Mapping[str, str] = {}) -> None:
    """Runs a toolchain's command. Raises FetchFailed."""
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(f"{' '.join(command)} takes longer than {FETCH_TIMEOUT_S} s") from error
    if ended.returncode != 0:
        told = (ended.stderr or ended.stdout).strip()
        raise FetchFailed(f"{' '.join(command)} failed: {told[:TOLD_CHARACTERS_MAX]}")


def main() -> None:
    """Fetches for each language whose toolchain is here; says what came of each."""
    for language in LANGUAGES:
        if shutil.which(language.program) is None:
            print(f"{language.name}: skipped, {language.why_not()}")
            continue
        try:
            language.fetch()
            print(f"{language.name}: {language.why_not() or 'ready'}")
        except FetchFailed as failure:
            print(f"{language.name}: {failure}")


if __name__ == "__main__":
    main()
