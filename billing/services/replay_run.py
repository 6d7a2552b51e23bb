"""Replay path, steps 3 and 4: a replay whose row this transaction has locked, and its next events.

Invariant: the events come in the order of their ids, by the very conditions that were planned and confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.replays
from queries.models import Replay
from queries.replays import ListSliceRow as Event

from billing.domain.replay import Effects, Mode, TargetKind
from billing.runtime.db import Connection
from billing.services.consumers import Wanted
from billing.services.replay_safety import WEBHOOKS
from billing.services.replay_token import ReplayPlan

_ALL: Final = "*"
# Of what takes many statements each: a forced event, or a dead letter under the locks of the router.
HEAVY_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Pace:
    """How many events a transaction takes, how many may be queued at once, and when to send a lost one again.

    `queued_first` may be queued at the beginning, and later twice as many as the replay has behind it.
    """

    slice_max: int
    queued_max: int
    queued_first: int
    rearm_after: timedelta


@dataclass(frozen=True, slots=True)
class Run:
    """A replay that runs: `reached` are the consumers that are to have its events."""

    row: Replay
    plan: ReplayPlan
    reached: Wanted
    pace: Pace
    now: datetime

    @property
    def purpose(self) -> str:
        """What its rows in the outbox are there for: each round has bus ids of its own."""
        again = f"_{self.row.rounds}" if self.row.rounds else ""
        return f"replay_{self.row.id}{again}"

    @property
    def route(self) -> str:
        """Whom the messages are for: all, all but one (`!name`), or one consumer."""
        if self.plan.target.kind is TargetKind.CONSUMER:
            return self.plan.target.name
        suppressed = self.plan.safety.external_effects is Effects.SUPPRESS
        return f"!{WEBHOOKS}" if suppressed else ""

    @property
    def slice_max(self) -> int:
        """The most events of a transaction: few where each may be a thousand records to compute anew."""
        forced = self.plan.safety.mode is Mode.FORCE
        heavy = forced or self.plan.target.kind is TargetKind.DEAD_LETTERS
        return min(self.pace.slice_max, HEAVY_MAX) if heavy else self.pace.slice_max

    @property
    def tenant_id(self) -> UUID:
        """Whose events."""
        return self.row.tenant_id

    @property
    def last(self) -> UUID:
        """The end of its range."""
        return self.plan.filter.conditions()["last"]

    async def next_events(
        self,
        tx: Connection,
        after: UUID | None,
        most: int,
        *,
        consumers: Sequence[str] = (),
        wanting: Wanted | None = None,
    ) -> list[Event]:
        """The events after this one, and whether one of `consumers` has, or of `wanting` lacks them."""
        conditions = self.plan.filter.conditions()
        if after is not None:
            conditions["first"] = max(conditions["first"], UUID(int=after.int + 1))
        pairs = [
            (consumer, subject)
            for consumer, subjects in (wanting or {}).items()
            for subject in (sorted(subjects) if subjects is not None else [_ALL])
        ]
        return await queries.replays.list_slice(
            tx,
            **conditions,
            most=most,
            replay_id=self.row.id,
            consumers=consumers,
            wanting_consumers=[consumer for consumer, _ in pairs],
            wanted_subjects=[subject for _, subject in pairs],
        )
