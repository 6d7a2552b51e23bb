"""Query plugin, the one error: a query, table or type that it will not guess about.

Invariant: a refusal names the file, the query, the place and what to do next.
"""

from __future__ import annotations


class Refusal(Exception):
    """The request cannot be turned into code that is certain to be right; the message says why."""

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(f"{where}: {what} {remedy}")
