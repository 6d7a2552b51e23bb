"""The scenario's programs, built the way a user of each SDK builds them, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import LONG
from tests.house.tree import ROOT
from tools import generate
from tools.clients.languages import LANGUAGES, Language

SDK: Final = ROOT / "sdk"


@dataclass(frozen=True, slots=True)
class Program:
    """How to run it."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def build(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """A step of a build; its messages when it fails."""
    built = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr


def ready(name: str) -> Language:
    """The language; skips the test where its toolchain or what it needs is not here."""
    language = next(language for language in LANGUAGES if language.name == name)
    if missing := language.why_not():
        pytest.skip(f"the {name} client: {missing}")
    return language


def generate_anew(language: Language, folder: Path) -> None:
    """What is not in the tree is made of the protos as they are; a file that stays the same is not compiled again."""
    command = ["buf", "generate", "--template", language.template, "-o", str(folder)]
    generate.run(command, ROOT, language.plugins)
    changes = generate.differences(ROOT, folder, [language.generated])
    generate.apply(ROOT, folder, [name for name in changes if name.startswith(language.generated)])


def python(folder: Path, environment: Mapping[str, str]) -> Program:
    """The wheel, unpacked where nothing else of the tree is on the path."""
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in ("sdk/python", "gen/python"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    command = "wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir"
    build(
        [sys.executable, "-m", "pip", *command.split(), str(folder), str(copy / "sdk/python")],
        folder,
        environment,
    )
    wheel = zipfile.ZipFile(next(folder.glob("tollway_sdk-*.whl")))
    with wheel:
        wheel.extractall(folder / "site")
    source = shutil.copy(SDK / "python" / "examples" / "scenario.py", folder)
    # It comes before the roots of .venv, so the generated package is the wheel's too.
    return Program(
        [sys.executable, "-W", "error", str(source)], {"PYTHONPATH": str(folder / "site")}
    )


def go(folder: Path, environment: Mapping[str, str]) -> Program:
    """The binary, from Go's cache of modules."""
    ready("Go")
    program = folder / "scenario"
    offline = {**environment, "GOPROXY": "off"}
    build(["go", "vet", "./..."], SDK / "go", offline)
    build(["go", "build", "-o", str(program), "./examples/scenario"], SDK / "go", offline)
    return Program([str(program)])


def typescript(folder: Path, environment: Mapping[str, str]) -> Program:
    """What the compiler makes of it, beside the package that npm would publish."""
    generate_anew(ready("TypeScript"), folder)
    build(["npm", "run", "build"], SDK / "typescript", environment)
    return Program(["node", str(SDK / "typescript" / "dist" / "examples" / "scenario.js")])


def java(folder: Path, environment: Mapping[str, str]) -> Program:
    """The classes of the jar and the example's, from Maven's cache, with the libraries that `make sdk` fetched."""
    language = ready("Java")
    target = SDK / "java" / "target"
    if not LONG and not target.is_dir():
        pytest.skip("the Java client: half a million lines are compiled by `make test-long` first")
    generate_anew(language, folder)
    build(["mvn", "-o", "-q", "-B", "process-classes"], SDK / "java", environment)
    places = [target / "classes", target / "test-classes", language.plugins / "*"]
    path = os.pathsep.join(str(place) for place in places)
    return Program(["java", "-cp", path, "io.tollway.examples.Scenario"])


PROGRAMS: Final[Mapping[str, Callable[[Path, Mapping[str, str]], Program]]] = {
    "python": python,
    "go": go,
    "typescript": typescript,
    "java": java,
}
