"""Subscription path, step 1, and invoice path, steps 1 and 4: which stretches of time a subscription has.

Invariant: everything here follows from what the subscription was made with, so a period that is opened late, or
twice, or by another worker is the same period: activation, anchor, and period n = anchor + n intervals in the
customer's zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from itertools import islice

from queries.models import Subscription

from billing.domain.period import Interval, Period, Schedule, calendar_anchor


class Alignment(StrEnum):
    """Where billing periods begin: at the activation's own day and time, or at the calendar's."""

    ANNIVERSARY = "anniversary"
    CALENDAR = "calendar"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A usage period's time; `billed_at` is the boundary of the invoice that bills it, None for a trial.

    `nominal` is the full period that it is cut from, None for itself: minimums, maximums and weighted sums go by it.
    """

    period: Period
    billed_at: datetime | None
    nominal: Period | None = None

    @property
    def cut_from(self) -> Period | None:
        """The nominal period, if this is a part of one."""
        return None if self.nominal == self.period else self.nominal


@dataclass(frozen=True)
class Terms:
    """When a subscription starts, is activated and renews."""

    start_at: datetime
    trial_end_at: datetime | None
    alignment: Alignment
    zone: str
    interval: Interval
    anchor_at: datetime | None = None

    @classmethod
    def of(cls, row: Subscription) -> Terms:
        """The terms of a stored subscription."""
        return cls(
            row.start_at,
            row.trial_end_at,
            Alignment(row.alignment),
            row.time_zone,
            Interval(row.billing_interval),
            row.anchor_at,
        )

    @property
    def activation_at(self) -> datetime:
        """The end of the trial, or the start without one: from here on it is billed."""
        return self.trial_end_at or self.start_at

    @cached_property
    def schedule(self) -> Schedule:
        """The nominal periods, from the original anchor."""
        anchor = self.anchor_at or self.activation_at
        if self.anchor_at is None and self.alignment is Alignment.CALENDAR:
            anchor = calendar_anchor(anchor, self.zone, self.interval)
        return Schedule(anchor, self.zone, self.interval)

    def paid_from(self, start: datetime) -> Period:
        """The billing period that begins at `start`, the activation or a boundary.

        With calendar alignment the first is the part of a nominal period, and its fee is prorated.
        """
        return Period(start, self.schedule.containing(start).end)

    def stretches(self, after: datetime | None = None) -> Iterator[Stretch]:
        """The usage periods in order: the trial, then the billing periods; only those from `after` on if given."""
        start = self.activation_at if after is None else after
        if after is None and self.trial_end_at is not None:
            yield Stretch(Period(self.start_at, self.trial_end_at), None)
        while True:
            period = self.paid_from(start)
            yield Stretch(period, period.end, self.schedule.containing(start))
            start = period.end

    def first_two(self) -> list[Stretch]:
        """What exists from the creation on: the first usage period and the one ahead."""
        return list(islice(self.stretches(), 2))

    def two_from(self, start: datetime) -> list[Stretch]:
        """The billing period that begins at `start` and the one ahead."""
        return list(islice(self.stretches(start), 2))
