"""Errors are a closed vocabulary: what the code raises is what the proto promises."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from billing.domain.errors import BillingError, Kind, error_types
from tests.house.tree import LAYERS, ROOT, contract, modules, name_of, tree_of
from tools.error_catalog import ENUM, PREFIX, split

CODES: Final = {
    Kind.INVALID: "INVALID_ARGUMENT",
    Kind.NOT_FOUND: "NOT_FOUND",
    Kind.ALREADY_EXISTS: "ALREADY_EXISTS",
    Kind.CONFLICT: "ABORTED",
    Kind.PRECONDITION: "FAILED_PRECONDITION",
    Kind.PERMISSION: "PERMISSION_DENIED",
    Kind.UNAUTHENTICATED: "UNAUTHENTICATED",
    Kind.EXHAUSTED: "RESOURCE_EXHAUSTED",
    Kind.OUT_OF_RANGE: "OUT_OF_RANGE",
    Kind.UNAVAILABLE: "UNAVAILABLE",
    Kind.UNIMPLEMENTED: "UNIMPLEMENTED",
}


@cache
def promised() -> dict[str, str]:
    """Every reason of the proto, without its prefix, with the gRPC code that its comment names."""
    enum = next(enum for enum in contract().enums if enum.name == ENUM)
    return {value.name.removeprefix(PREFIX): code for value, code, _ in split(enum.values)}


@cache
def raised() -> tuple[type[BillingError], ...]:
    """Every error class of the layers; importing a module is what makes its classes known."""
    for path in modules(*LAYERS):
        importlib.import_module(dotted(name_of(path)))
    return tuple(error for error in error_types() if error.__module__.split(".")[0] in LAYERS)


def dotted(name: str) -> str:
    """`billing/domain/money.py` as an import name."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_reason_in_the_code_is_in_the_proto() -> None:
    unknown = {
        f"{e.__module__}.{e.__name__}": e.reason for e in raised() if e.reason not in promised()
    }
    assert not unknown, f"add them to proto/tollway/error/v1/error_reason.proto: {unknown}"


def test_every_reason_has_the_code_that_the_proto_says() -> None:
    wrong = {
        f"{error.__module__}.{error.__name__}": f"{CODES[error.kind]} is not {promised()[error.reason]}"
        for error in raised()
        if promised().get(error.reason, CODES[error.kind]) != CODES[error.kind]
    }
    assert not wrong


def test_every_reason_in_the_proto_is_given_by_some_code() -> None:
    used = {text for path in modules(*LAYERS) for text in words(tree_of(path))}
    unused = sorted(reason for reason in promised() if reason not in used)
    assert not unused, f"a reason enters the proto with the code that gives it: {unused}"


def words(tree: ast.Module) -> Iterator[str]:
    """Strings that could be a reason, and names of the enum's values without their prefix."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.removeprefix(PREFIX)
        elif isinstance(node, ast.Attribute):
            yield node.attr.removeprefix(PREFIX)


def test_every_reason_that_an_rpc_names_is_in_the_proto() -> None:
    wrong = {
        f"{service.name}/{rpc.name}": sorted(unknown)
        for service in contract().services
        for rpc in service.rpcs
        if (line := re.search(r"^Errors: (.+?)\.$", rpc.comment, re.MULTILINE | re.DOTALL))
        and (unknown := set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", line[1])) - set(promised()))
    }
    assert not wrong


def test_the_catalog_of_errors_lists_every_reason() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert [reason for reason in promised() if f"| `{reason}` |" not in page] == []
