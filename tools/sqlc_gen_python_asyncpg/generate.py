"""Query plugin, all steps: request -> files, as one pure function.

Invariant: either every file is right or none is written; the first refusal ends the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from tools.sqlc_gen_python_asyncpg import emit, models
from tools.sqlc_gen_python_asyncpg.names import snake, value_name
from tools.sqlc_gen_python_asyncpg.refusal import Refusal
from tools.sqlc_gen_python_asyncpg.request import Request
from tools.sqlc_gen_python_asyncpg.shapes import Shape, decide

# Modules that the plugin writes itself.
OWN_MODULES = frozenset({"models", "connection"})


def generate(request: Request) -> Mapping[str, str]:
    """File name -> text, for the directory `out` of sqlc.yaml."""
    queries = sorted(request.queries, key=lambda query: query.filename)
    shapes = [decide(query, request) for query in queries]
    _refuse_same_functions(shapes)
    files: dict[str, str] = {}
    modules: list[str] = []
    for filename, group in groupby(shapes, key=lambda shape: shape.query.filename):
        module = _module_name(filename)
        if f"{module}.py" in files:
            raise Refusal(filename, f"two query files would both be {module}.py.", "Rename one.")
        modules.append(module)
        files[f"{module}.py"] = emit.module(filename, list(group))
    files["__init__.py"] = models.init_module(modules)
    files["connection.py"] = models.CONNECTION
    files["models.py"] = models.models_module(shapes, request)
    return files


def _module_name(filename: str) -> str:
    name = snake(filename.removesuffix(".sql"))
    if name in OWN_MODULES:
        raise Refusal(filename, f"{name}.py is the plugin's own.", "Rename the query file.")
    return value_name(name)


def _refuse_same_functions(shapes: Iterable[Shape]) -> None:
    """sqlc keeps query names apart, but GetURL and GetUrl are one function."""
    seen: dict[tuple[str, str], str] = {}
    for shape in shapes:
        query = shape.query
        other = seen.setdefault((query.filename, shape.function), query.name)
        if other != query.name:
            where = f"{query.filename}: {query.name}"
            raise Refusal(where, f"is {shape.function} like {other}.", "Rename one.")
