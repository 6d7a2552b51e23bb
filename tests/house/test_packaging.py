"""What is installed is what is in the tree: packages, migrations, locks."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Final

from tests.house.tree import LAYERS, ROOT, modules, name_of

GENERATED: Final = {"queries": "gen", "tollway": "gen/python", "buf": "gen/python"}


def test_every_folder_of_python_files_is_a_package() -> None:
    plain = sorted(
        {name_of(path.parent) for path in modules(*LAYERS)}
        - {name_of(path.parent) for path in modules(*LAYERS) if path.name == "__init__.py"}
    )
    assert not plain, f"these would be missing from the wheel; give them an __init__.py: {plain}"


def test_the_wheel_holds_every_module_and_every_migration(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (*LAYERS, "gen", "queries"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, copy / name)
    command = "wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir"
    built = subprocess.run(
        [sys.executable, "-m", "pip", *command.split(), tmp_path, copy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("tollway-*.whl"))) as wheel:
        held = set(wheel.namelist())
    assert expected() - held == set()


def expected() -> set[str]:
    """Every file that must be in the wheel, by its name there."""
    names = {name_of(path) for path in modules(*LAYERS)}
    for package, folder in GENERATED.items():
        names |= {
            path.relative_to(ROOT / folder).as_posix()
            for path in (ROOT / folder / package).rglob("*")
            if path.suffix in {".py", ".pyi"} or path.name == "py.typed"
        }
    migrations = (ROOT / "queries/migrations").glob("*.sql")
    return names | {f"tollway_migrations/{path.name}" for path in migrations}


def test_the_locks_pin_every_dependency_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run, dev = pins("run.txt"), pins("dev.txt")
    assert {names(d) for d in project["dependencies"]} <= run.keys(), "run `make lock`"
    extra = project["optional-dependencies"]["dev"]
    assert {names(d) for d in [*project["dependencies"], *extra]} <= dev.keys(), "run `make lock`"
    assert {
        name: (version, dev.get(name)) for name, version in run.items() if dev.get(name) != version
    } == {}


def pins(file: str) -> dict[str, str]:
    """The exact versions of a lock, by package."""
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE))


def names(requirement: str) -> str:
    """The package that a requirement names."""
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")
