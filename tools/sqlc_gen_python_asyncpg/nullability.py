"""Query plugin, step 2 of 3: find the NULLs that sqlc does not see.

sqlc takes every cast and every subselect for NOT NULL. What a statement's own text shows to be
uncertain is refused until its author says which it is: AS "name?" or AS "name!".

Invariant: no false comfort. A reason found here is a real way to NULL; finding none is no proof,
since only the outermost expression of a column is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

AGGREGATES: Final = frozenset(
    {"max", "min", "sum", "avg", "array_agg", "string_agg", "bool_and", "bool_or", "every"}
    | {"json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "percentile_cont"}
)
NEIGHBOURS: Final = frozenset({"lag", "lead", "nth_value", "first_value", "last_value", "nullif"})

_COMMENT = re.compile(r"--[^\n]*")
_GROUPED = re.compile(r"\bgroup\s+by\b", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"([a-z_0-9]+)\s*$", re.IGNORECASE)
_JSON_MEMBER = re.compile(r"(->|#>)>?\s*('[^']*'(::\w+(\[\])?)?|[\w.$]+)\s*$")
_SURE_SELECT = re.compile(r"\s*select\s+(count|coalesce|exists)\s*\(", re.IGNORECASE)
_SELECT = re.compile(r"\s*select\b", re.IGNORECASE)
_LEFT_JOIN = re.compile(
    r"\b(?:left|full)\s+(?:outer\s+)?join\s+(?:lateral\s*)?(?P<name>[a-z_][\w.]*)?\s*",
    re.IGNORECASE,
)
_ALIAS = re.compile(r"\s*(?:with\s+ordinality\s+)?(?:as\s+)?(?P<name>[a-z_]\w*)", re.IGNORECASE)
_CASE = re.compile(r"\s*case\b", re.IGNORECASE)
_ELSE = re.compile(r"\belse\b", re.IGNORECASE)


def why_null(text: str, name: str) -> str | None:
    """Why the column that `text` calls `name` may be NULL, or None when nothing shows it."""
    sql = _COMMENT.sub("", text)
    cast = r"(?:\s*::\s*[a-z0-9_]+(?:\s*\[\])?)?"
    alias = re.compile(rf'\){cast}\s+as\s+"?{re.escape(name)}"?(?!\w)', re.IGNORECASE)
    for match in alias.finditer(sql):
        reason = _reason(sql, match.start())
        if reason is not None:
            return reason
    return _reason_outer(sql, name, cast)


def _reason(sql: str, close: int) -> str | None:
    start = _opening(sql, close)
    head = _word_before(sql, start)
    inside = sql[start + 1 : close]
    filtered = False
    # sum(n) FILTER (WHERE …) OVER (…): walk back to the call itself.
    while head in {"filter", "over"}:
        filtered = filtered or head == "filter"
        close = sql.rfind(")", 0, start)
        start = _opening(sql, close)
        head = _word_before(sql, start)
    if head in NEIGHBOURS:
        return f"{head}() may find nothing"
    if head in AGGREGATES and (filtered or not _GROUPED.search(sql)):
        return f"{head}() of no rows is NULL"
    return _reason_inside(inside) if not _is_call(head) else None


def _reason_outer(sql: str, name: str, cast: str) -> str | None:
    """A column of what is left-joined: sqlc forgets it behind a cast and for subselects."""
    own = re.escape(name)
    for relation in _left_joined(sql):
        # In a list of columns only: ON and WHERE name the relation's columns too.
        listed = (
            rf"(?:\b(?:select|returning|distinct)|,)\s*{relation}\.{own}(?=\s*(?:,|from\b|\)|$))"
        )
        renamed = rf'\b{relation}\.\w+{cast}\s+as\s+"?{own}"?(?!\w)'
        column = f"{listed}|{renamed}"
        if re.search(column, sql, re.IGNORECASE):
            return f"{relation} is left-joined"
    return None


def _left_joined(sql: str) -> Iterator[str]:
    """The names under which the statement knows what it left-joins."""
    for match in _LEFT_JOIN.finditer(sql):
        start, name = match.end(), match.group("name")
        if sql[start : start + 1] == "(":
            start = _closing(sql, start) + 1
        alias = _ALIAS.match(sql, start)
        if alias is not None and alias.group("name").lower() not in {"on", "using"}:
            name = alias.group("name")
        if name:
            yield re.escape(name)


def _reason_inside(inside: str) -> str | None:
    """What stands in plain parentheses: a subselect, a CASE or a JSON member."""
    if _SELECT.match(inside) and not _SURE_SELECT.match(inside):
        return "a subselect may find nothing"
    if _CASE.match(inside) and not _ELSE.search(inside):
        return "CASE without ELSE is NULL"
    if _JSON_MEMBER.search(inside) and not _SELECT.match(inside):
        return "a JSON member may be missing"
    return None


def _is_call(head: str) -> bool:
    """Words that come before plain parentheses are no function's name."""
    return head not in {"", "select", "returning", "and", "or", "not", "then", "else", "distinct"}


def _opening(sql: str, close: int) -> int:
    """The place of the parenthesis that `close` closes; the start when there is none."""
    depth = 0
    for place in range(close, -1, -1):
        if sql[place] == ")":
            depth += 1
        elif sql[place] == "(":
            depth -= 1
            if depth == 0:
                return place
    return 0


def _closing(sql: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`; the end when there is none."""
    depth = 0
    for place in range(start, len(sql)):
        if sql[place] == "(":
            depth += 1
        elif sql[place] == ")":
            depth -= 1
            if depth == 0:
                return place
    return len(sql)


def _word_before(sql: str, place: int) -> str:
    match = _WORD_BEFORE.search(sql, 0, place)
    return match.group(1).lower() if match else ""
