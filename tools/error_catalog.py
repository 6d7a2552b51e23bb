"""Contract toolchain: docs/errors.md, what a client can be told and do, from the enum's comments.

Invariant: every reason names its gRPC code first, as `NOT_FOUND: no such plan.`
"""

import re
from collections.abc import Iterable
from typing import Final

import grpc

from tools.contract import Contract, EnumValue
from tools.markdown import cell, paragraph, row

ENUM: Final = "tollway.error.v1.ErrorReason"
PREFIX: Final = "ERROR_REASON_"

HEAD = """\
# The errors

Generated from `proto/` by `make gen`; do not edit.
"""

# Every status code of gRPC but OK.
CODES: Final = frozenset(code.name for code in grpc.StatusCode) - {"OK"}


class ReasonWithoutCode(Exception):
    """The comment of a reason must begin with its gRPC code and a colon."""


def render(contract: Contract) -> str:
    """The page: one table of the reasons, in the order of their codes and then of the proto."""
    enum = next((e for e in contract.enums if e.name == ENUM), None)
    if enum is None:
        raise ReasonWithoutCode(f"The protos have no enum {ENUM}.")
    lines = [
        HEAD,
        paragraph(enum.comment),
        "",
        row("reason", "code", "meaning"),
        row("---", "---", "---"),
    ]
    for value, code, meaning in split(enum.values):
        lines.append(row(f"`{value.name.removeprefix(PREFIX)}`", f"`{code}`", cell(meaning)))
    return "\n".join(lines) + "\n"


def split(values: Iterable[EnumValue]) -> list[tuple[EnumValue, str, str]]:
    """Each sendable reason with its gRPC code and the rest of its comment, sorted by code."""
    found: list[tuple[EnumValue, str, str]] = []
    for value in values:
        if value.number == 0:
            continue
        matched = re.fullmatch(r"([A-Z_]+): (.+)", value.comment, re.DOTALL)
        if matched is None or matched[1] not in CODES:
            raise ReasonWithoutCode(
                f'{value.name}: the comment must begin with a gRPC code, as "NOT_FOUND: ...".'
            )
        found.append((value, matched[1], matched[2]))
    return sorted(found, key=lambda each: each[1])
