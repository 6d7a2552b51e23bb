"""Contract toolchain: the state diagrams of ARCHITECTURE.md, drawn from the tables that decide.

Invariant: the text outside the two markers is kept byte for byte.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Final

from billing.domain.lifecycle import Machine, mermaid

PAGE: Final = "ARCHITECTURE.md"
BEGIN: Final = "<!-- begin generated: state diagrams (make gen) -->"
END: Final = "<!-- end generated: state diagrams -->"


class MarkersMissing(Exception):
    """The page must hold the two marker lines, once each and in order."""


def render(root: Path) -> str:
    """ARCHITECTURE.md of `root` with a fresh block between the markers."""
    page = (root / PAGE).read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise MarkersMissing(f"{PAGE} needs the lines {BEGIN!r} and {END!r}, once each, in order.")
    return f"{before}{BEGIN}\n{block()}\n{END}{after}"


def block() -> str:
    """A heading and a diagram for every Machine that a module of the domain holds."""
    parts: list[str] = []
    domain = importlib.import_module("billing.domain")
    for info in pkgutil.walk_packages(domain.__path__, "billing.domain."):
        module = importlib.import_module(info.name)
        for machine in vars(module).values():
            if isinstance(machine, Machine):
                title = machine.resource_kind.replace("_", " ").capitalize()
                parts.append(f"\n### {title}\n\n```mermaid\n{mermaid(machine).strip()}\n```")
    return "\n".join(sorted(parts)) + "\n"
