"""Webhook path, step 2: lanes that wait for a turn, fair between tenants and then between their endpoints.

Invariant: a lane waits at most once; `oldest` takes the tenants round and round, and of each the lane that has waited
longest, so that a tenant with thousands of endpoints has as many turns as one with a single one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID


@dataclass(slots=True, eq=False)
class Lane:
    """One endpoint: how much it may have open, and whether more may be due for it."""

    tenant_id: UUID
    webhook_id: UUID
    cap: int = 1
    open: int = 0
    # Requests that may begin in a second; 0 is no limit.
    rate: int = 0
    due: bool = False
    bad: bool = False
    held_until: float = 0.0
    touched_at: float = 0.0


class Turns:
    """A queue of lanes in the order in which they came."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[UUID, Lane] = OrderedDict()
        # The same lanes by tenant; the tenant whose turn is next stands first.
        self._tenants: OrderedDict[UUID, OrderedDict[UUID, Lane]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: Lane) -> None:
        """It waits behind all others, or stays where it is."""
        self._lanes.setdefault(lane.webhook_id, lane)
        self._tenants.setdefault(lane.tenant_id, OrderedDict()).setdefault(lane.webhook_id, lane)

    def remove(self, lane: Lane) -> None:
        """It waits no more, if it did."""
        if self._lanes.pop(lane.webhook_id, None) is None:
            return
        of_tenant = self._tenants[lane.tenant_id]
        del of_tenant[lane.webhook_id]
        if not of_tenant:
            del self._tenants[lane.tenant_id]

    def newest(self) -> Lane:
        """Takes the lane that came last."""
        lane = next(reversed(self._lanes.values()))
        self.remove(lane)
        return lane

    def oldest(self) -> Lane:
        """Takes the lane of the next tenant that came first."""
        tenant_id, lanes = next(iter(self._tenants.items()))
        lane = next(iter(lanes.values()))
        self._tenants.move_to_end(tenant_id)
        self.remove(lane)
        return lane
