"""Router, step 2: which consumer wants which subjects. Names only; workers/router/consumers.py adds the handlers.

Invariant: this is the one place that says so. Who asks whether everything has been handled (a replay's plan and end, a
step of a test clock, healing) looks at the same table as the router that does it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

# None: everything, unknown and custom subjects included.
Wanted = Mapping[str, Collection[str] | None]

WANTED: Final[Wanted] = MappingProxyType(
    {
        "subscription": frozenset({"subscription.created"}),
        "usage": frozenset({"usage.reported"}),
        "scheduler": frozenset({"subscription.created", "subscription.status.changed"}),
        "invoice": frozenset({"billing.cycle.closed", "rating.completed"}),
        "webhooks": None,
        "feed": None,
    }
)

# These must get the events of a resource in order: what waits or is dead for one of them holds back what follows.
ORDERED: Final = frozenset({"subscription", "scheduler", "invoice"})
