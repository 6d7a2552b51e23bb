"""Webhook path, step 2: what this sender knows of its endpoints: which fail, and until when nothing is sent to them.

Invariant: only what receivers did counts, in the order in which it is committed; a sender that takes an endpoint over
knows nothing of it, and so writes down what it sees first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from billing.domain.webhook import FAILING_LIMIT, breaker_pause
from billing.services.webhook_deliveries import Attempt, Outcome
from billing.services.webhook_health import Failing

# Endpoints known to answer are remembered, so that nothing is written for them; beyond this many all are forgotten.
FINE_MAX: Final = 200_000


@dataclass(frozen=True, slots=True)
class Judged:
    """What a batch of attempts changes: what to write of those that fail, and which, as (tenant, endpoint), do not."""

    failing: Sequence[Failing]
    healthy: Sequence[tuple[UUID, UUID]]


class Breakers:
    """The breakers of the endpoints of this sender."""

    def __init__(self) -> None:
        self._failing: dict[UUID, Failing] = {}
        self._opened_at: dict[UUID, datetime] = {}
        self._fine: set[UUID] = set()

    @property
    def open(self) -> int:
        """How many are open or half-open."""
        return len(self._opened_at)

    def forget(self) -> None:
        """Other senders may have had the endpoints meanwhile."""
        self._failing.clear()
        self._opened_at.clear()
        self._fine.clear()

    def learn(self, failing_since: Mapping[UUID, datetime]) -> None:
        """Since when they really fail: an earlier sender may have seen it first."""
        for webhook_id, since in failing_since.items():
            if (known := self._failing.get(webhook_id)) is not None:
                self._failing[webhook_id] = replace(known, failing_since=since)

    def closed_for_s(self, webhook_id: UUID, now: datetime) -> float:
        """For how long nothing is to be sent to an endpoint; 0 almost always."""
        known = self._failing.get(webhook_id)
        if known is None or known.open_until is None:
            return 0.0
        return max(0.0, (known.open_until - now).total_seconds())

    def judge(self, attempts: Iterable[Attempt], now: datetime) -> Judged:
        """Counts these attempts. A fault of the house says nothing, and neither does a probe that failed."""
        failing: dict[UUID, Failing] = {}
        healthy: dict[UUID, UUID] = {}
        for attempt in attempts:
            webhook_id = attempt.claimed.webhook_id
            delivered = attempt.outcome is Outcome.DELIVERED
            if attempt.ours or (attempt.claimed.probe and not delivered):
                continue
            if delivered:
                failing.pop(webhook_id, None)
                if self._is_fine(webhook_id):
                    healthy[webhook_id] = attempt.claimed.tenant_id
            elif (state := self._fails(attempt, now)) is not None:
                failing[webhook_id] = state
        return Judged(
            list(failing.values()), [(tenant, webhook) for webhook, tenant in healthy.items()]
        )

    def _is_fine(self, webhook_id: UUID) -> bool:
        """Whether that it answers is to be written down."""
        if webhook_id in self._fine:
            return False
        self._failing.pop(webhook_id, None)
        self._opened_at.pop(webhook_id, None)
        if len(self._fine) >= FINE_MAX:
            self._fine.clear()
        self._fine.add(webhook_id)
        return True

    def _fails(self, attempt: Attempt, now: datetime) -> Failing | None:
        """What is to be written down of a failure, if anything."""
        webhook_id = attempt.claimed.webhook_id
        known, opened_at = self._failing.get(webhook_id), self._opened_at.get(webhook_id)
        if opened_at is not None and attempt.started_at <= opened_at:
            # It began before the breaker opened, and says nothing that opening it did not.
            return None
        self._fine.discard(webhook_id)
        failures = known.failures + 1 if known else 1
        pause = breaker_pause(failures)
        state = Failing(
            attempt.claimed.tenant_id,
            webhook_id,
            known.failing_since if known else attempt.started_at,
            failures,
            now + pause if pause else None,
        )
        self._failing[webhook_id] = state
        if pause:
            self._opened_at[webhook_id] = now
        is_news = known is None or bool(pause) or now - state.failing_since >= FAILING_LIMIT
        # What is stored since earlier stays; if it was deleted meanwhile, by a tenant that enabled it, it begins anew.
        return replace(state, failing_since=attempt.started_at) if is_news else None
