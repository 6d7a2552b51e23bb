"""The demo's voice: one line per hop, with the seconds since the start."""

from __future__ import annotations

import time

from rich.console import Console, RenderableType
from rich.padding import Padding


class Teller:
    """Prints what happens as it happens."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the demo has run."""
        return time.monotonic() - self._began

    def tell(self, what: str, detail: str = "") -> None:
        """A hop, and what it brought."""
        self.console.print(
            f"[dim]{self.seconds:6.1f} s[/dim]  [bold]{what}[/bold]  {detail}", highlight=False
        )

    def show(self, what: RenderableType) -> None:
        """A table or a tree, set in."""
        self.console.print(Padding(what, (0, 0, 1, 10)))


def dollars(cents: int) -> str:
    """An amount in US dollars, such as 7,234.34."""
    return f"{cents // 100:,}.{cents % 100:02d}"
