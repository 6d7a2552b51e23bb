"""The door: options that are asked for when they are missing.

Invariant: where nobody can answer, the error names the option to give.
"""

from __future__ import annotations

import sys
from typing import Any

import click


class Asked(click.Option):
    """An option with a prompt; without a terminal, and without an answer on standard input, it is a missing option."""

    def prompt_for_value(self, ctx: click.Context) -> Any:
        """The answer, or MissingParameter."""
        if sys.stdin.isatty():
            return super().prompt_for_value(ctx)
        if answer := sys.stdin.readline().strip():
            return answer
        raise click.MissingParameter(ctx=ctx, param=self)
