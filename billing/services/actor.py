"""Every path: on whose behalf and for which cause something is done.

Invariant: a cause is made once at the rim (a request, a due instant, an event that is handled) and handed down;
whatever is emitted on the way carries it, so that the trail of a change leads back to its first cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Link:
    """A further cause: an event and the correlation id it belongs to."""

    event_id: UUID
    correlation_id: UUID


@dataclass(frozen=True, slots=True)
class Cause:
    """Who does it (`key_…`, `opr_…` or `worker:<role>`), for which correlation, after which event.

    `method` is the RPC that it was asked for by, in full; the audit names it.
    """

    actor: str
    correlation_id: UUID
    causation_id: UUID | None = None
    traceparent: str = ""
    links: tuple[Link, ...] = field(default=())
    method: str = ""
