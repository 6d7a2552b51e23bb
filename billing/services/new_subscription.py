"""Subscription path, step 1: what a new subscription asks for, and the terms that follow from it.

Invariant: a subscription starts in the past only as far as its usage can still be billed, or when another system has
billed the time before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from billing.domain.errors import Invalid
from billing.domain.period import Interval, Schedule, day_anchor
from billing.domain.usage import BACKDATING_LIMIT
from billing.services.subscription_terms import Alignment, Terms

# As far back as usage may be dated: every period since then can still be billed from its records.
START_BEHIND_MAX: Final = BACKDATING_LIMIT
START_AHEAD_MAX: Final = timedelta(days=730)
IMPORT_BEHIND_MAX: Final = timedelta(days=36_525)
TRIAL_DAYS_MAX: Final = 730


class StartTooOld(Invalid):
    """A subscription starts at most 35 days back, unless another system has billed the time before."""

    reason = "TIMESTAMP_TOO_OLD"


@dataclass(frozen=True, slots=True)
class NewItem:
    """A price to take; an empty quantity means 1. `subscription_required`: usage must name the subscription."""

    price_id: UUID
    quantity: str = ""
    subscription_required: bool = False


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """A subscription to make. Customer and plan are named by id, or else by external id and key.

    No items take all prices of the plan; no start is now, in business time. At most one of a calendar alignment, an
    `anchor_at` and an `anchor_day` (of the month) says where billing periods begin. `billed_until` imports a running
    subscription: everything before it was billed by another system.
    """

    customer_id: UUID | None = None
    external_customer_id: str = ""
    plan_id: UUID | None = None
    plan_key: str = ""
    external_id: str = ""
    items: Sequence[NewItem] = ()
    start_at: datetime | None = None
    trial_days: int = 0
    alignment: Alignment = Alignment.ANNIVERSARY
    anchor_at: datetime | None = None
    anchor_day: int = 0
    billed_until: datetime | None = None


def terms_of(draft: NewSubscription, zone: str, interval: Interval, today: datetime) -> Terms:
    """When it starts, is activated and renews. `today` is business time. Raises StartTooOld, Invalid."""
    start = draft.start_at or today
    _refuse_start(draft, start, today)
    if not 0 <= draft.trial_days <= TRIAL_DAYS_MAX:
        raise Invalid.field("trial_days", f"give a number from 0 to {TRIAL_DAYS_MAX}.")
    trial_end = None
    if draft.trial_days:
        # Days of the customer's calendar: the trial ends at the time of day at which it began.
        trial_end = Schedule(start, zone, Interval.DAY).boundary(draft.trial_days)
    anchor = _anchor(draft, trial_end or start, zone, interval)
    return Terms(start, trial_end, draft.alignment, zone, interval, anchor, draft.billed_until)


def _refuse_start(draft: NewSubscription, start: datetime, today: datetime) -> None:
    billed = draft.billed_until
    if billed is not None:
        if billed < start:
            raise Invalid.field("billed_until_time", "must not lie before the start.")
        if billed - today > START_AHEAD_MAX:
            raise Invalid.field(
                "billed_until_time", f"must be at most {START_AHEAD_MAX.days} days ahead."
            )
    behind = IMPORT_BEHIND_MAX if billed is not None else START_BEHIND_MAX
    _refuse_old("start_time", start, today, behind)
    if billed is not None:
        _refuse_old("billed_until_time", billed, today, START_BEHIND_MAX)
    if start - today > START_AHEAD_MAX:
        raise Invalid.field("start_time", f"must be at most {START_AHEAD_MAX.days} days ahead.")


def _refuse_old(field: str, instant: datetime, today: datetime, behind: timedelta) -> None:
    if today - instant > behind:
        oldest = (today - behind).isoformat()
        raise StartTooOld(
            f"{field}: must not lie before {oldest}, {behind.days} days back.",
            metadata={"oldest": oldest},
        )


def _anchor(
    draft: NewSubscription, activation: datetime, zone: str, interval: Interval
) -> datetime | None:
    """The anchor that was given; None leaves it to the activation or the calendar."""
    given = (draft.anchor_at is not None) + bool(draft.anchor_day)
    if given + (draft.alignment is Alignment.CALENDAR) > 1:
        raise Invalid.field("anchor", "give one of calendar alignment, anchor_time and anchor_day.")
    if not draft.anchor_day:
        return draft.anchor_at
    if interval in (Interval.DAY, Interval.WEEK):
        raise Invalid.field("anchor_day", f"a plan billed by the {interval} has no day of a month.")
    return day_anchor(activation, zone, draft.anchor_day)
