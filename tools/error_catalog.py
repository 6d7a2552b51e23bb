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

# What no code of the server can add a reason to; tests/server/test_errors.py holds the first two to it.
FOOT: Final = """
## What carries no reason

The gRPC library refuses some calls by itself, before any code of the server runs, and tells a code and a text alone.
(Over HTTP a body that is too large has its reason, `BODY_TOO_LARGE`.)

| code | when |
| --- | --- |
| `RESOURCE_EXHAUSTED` | A message is larger than 4 MiB: send less at once. |
| `RESOURCE_EXHAUSTED` | The metadata of a call is larger than 16 KiB. |
| `RESOURCE_EXHAUSTED` | More calls are open than `TOLLWAY_CALLS_MAX`, `TOLLWAY_STREAMS_MAX` and 200 together. \
Before that, calls are refused as `OVERLOADED`, with a reason. |
| `UNAVAILABLE` | More than 1000 calls wait for the server to see them, it cannot be reached, or the connection broke: \
try again, with the same `request_id`. |
| `DEADLINE_EXCEEDED`, `CANCELLED` | The client's own deadline, or the client itself, ended the call: repeat it with \
the same `request_id`. |

An unknown service or method is `UNIMPLEMENTED` with the reason `METHOD_NOT_FOUND`.
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
    return "\n".join(lines) + "\n" + FOOT


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
