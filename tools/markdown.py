"""Contract toolchain: the few pieces of Markdown that the generated pages are made of."""

import re


def row(*cells: str) -> str:
    """One row of a table."""
    return f"| {' | '.join(cells)} |"


def cell(text: str) -> str:
    """A comment as the content of a table's cell: one line, with nothing that ends the cell."""
    return escape(" ".join(text.split())).replace("|", "\\|")


def paragraph(text: str) -> str:
    """A comment as running text."""
    return escape(text)


def escape(text: str) -> str:
    """Text with its angle brackets shown outside code spans, where Markdown would eat them."""
    parts = re.split(r"(`[^`]*`)", text)
    shown = [p if p.startswith("`") else p.replace("<", "&lt;").replace(">", "&gt;") for p in parts]
    return "".join(shown)


def link(heading: str) -> str:
    """The anchor that a heading gets: lower case, without dots and other punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
