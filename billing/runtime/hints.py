"""Every path: whom a commit wakes.

Invariant: a hint goes out after the commit of what it is about, and only then; it only makes quick what the polls make
certain. Whoever writes what others wait for says so within the transaction; one that writes nothing of that kind wakes
nobody.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

OUTBOX: Final = "outbox"  # something is to be published
DELIVERIES: Final = "deliveries"  # a webhook is due
CLOCKS: Final = "clocks"  # a test clock was sent on its way

# The topics of the transaction that this task, or the one that made it, is in.
current: Final[ContextVar[set[str] | None]] = ContextVar("tollway_hints", default=None)


def wake(topic: str) -> None:
    """Wakes who waits on `topic` when the current transaction has committed."""
    topics = current.get()
    if topics is not None:
        topics.add(topic)
