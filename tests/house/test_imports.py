"""The arrows between the layers point down, and SQL stands in queries/ alone."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.house.tree import LAYERS, ROOT, modules, name_of, tree_of

SQL: Final = re.compile(
    r"\b(select\b.+\bfrom\b|insert\s+into\b|update\s+\S+(\s+as\s+\w+)?\s+set\b|delete\s+from\b|truncate\s+(table\s+)?\w"
    r"|(create|alter|drop)\s+(table|index|role|schema|database|function|sequence)\b)",
    re.IGNORECASE | re.DOTALL,
)
# The machine room prepares the database before the first query can run on it.
SQL_ALLOWED: Final = (
    "billing/runtime/migrat",
    "billing/runtime/embedded/",
    "billing/runtime/db.py",
)


def test_the_import_contracts_hold() -> None:
    checked = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"],
        cwd=ROOT,
        env={"PYTHONPATH": ":".join(str(ROOT / root) for root in (".", "gen", "gen/python"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_sql_is_written_in_queries_only() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}: {text.strip()[:80]}"
        for path in modules(*LAYERS)
        if not name_of(path).startswith(SQL_ALLOWED)
        for node, text in strings(tree_of(path))
        if SQL.search(text)
    ]
    assert not found, f"move it to queries/<noun>.sql and call the generated function: {found}"


def strings(tree: ast.Module) -> Iterator[tuple[ast.Constant, str]]:
    """The string literals of a module that are no docstrings, f-strings' pieces included."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and node not in docstrings
            and isinstance(node.value, str)
        ):
            yield node, node.value
