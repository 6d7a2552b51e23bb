"""Nothing grows to "everything about X": the size and the first line of every file."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.tree import HAND_WRITTEN, LAYERS, modules, name_of, project_files, tree_of

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
# Names under which anything could be put.
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "shared", "base_utils"}


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        name_of(path): lines
        for path in modules(*HAND_WRITTEN)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    }
    assert not long, f"split by what they are about: {long}"


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{name_of(path)}:{node.lineno} {node.name}": lines
        for path in modules(*HAND_WRITTEN)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long, f"decide above, do below: {long}"


def test_every_module_says_first_where_it_stands() -> None:
    silent = [
        name_of(path)
        for path in modules(*LAYERS, "tools")
        if path.name != "__init__.py"
        and not re.match(r"[^:\n]+: \S", ast.get_docstring(tree_of(path)) or "")
    ]
    assert not silent, (
        f'begin the docstring with the path and the step, as "Publish path, step 2: ...": {silent}'
    )


def test_every_bench_and_test_module_has_a_docstring() -> None:
    silent = [
        name_of(path)
        for path in modules("bench", "tests")
        if path.name != "__init__.py" and not ast.get_docstring(tree_of(path))
    ]
    assert not silent


def test_no_module_has_a_name_that_could_hold_anything() -> None:
    vague = [
        name_of(path)
        for path in modules(*HAND_WRITTEN)
        if VAGUE & {path.stem, *path.parent.parts[-1:]}
    ]
    assert not vague


# Written in pieces, so that this file does not find itself.
PLACES_OF_A_MACHINE = [
    r"(?<![\w.])/" + r"(root|work|home/\w+|Users/\w+)/",
    r"/tmp/" + "house",
]
REGISTRIES = [
    "pypi" + r"\.org", "files" + r"\.pythonhosted", "registry" + r"\.npmjs", "registry" + r"\.yarnpkg",
    "proxy" + r"\.golang", "repo1?" + r"\.maven", "artifact" + "ory", r"\bnexus" + r"\.",
    "--index" + "-url", "--extra-index" + "-url", "PIP_INDEX" + "_URL", "GOPROXY" + r"\s*=",
]  # fmt: skip


@pytest.mark.parametrize("patterns", [PLACES_OF_A_MACHINE, REGISTRIES], ids=["machine", "registry"])
def test_no_file_names_a_place_of_one_machine_or_a_package_registry(patterns: list[str]) -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path in project_files()
        if "third_party" not in path.parts
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if re.search("|".join(patterns), line)
    ]
    assert not found


def text_of(path: Path) -> str:
    """The text of a file; nothing for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
