"""Subscription path, step 1, and invoice path, steps 1 and 4: which stretches of time a subscription has.

Invariant: everything here follows from what the subscription was made with, so a period that is opened late, or
twice, or by another worker is the same period: activation, anchor, and period n = anchor + n intervals in the
customer's zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Final

from queries.models import Subscription

from billing.domain.period import Interval, Period, Schedule, calendar_anchor

RESOLUTION: Final = timedelta(microseconds=1)  # of every stored instant


class Alignment(StrEnum):
    """Where billing periods begin: at the activation's own day and time, or at the calendar's."""

    ANNIVERSARY = "anniversary"
    CALENDAR = "calendar"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A usage period's time, and the full period that it is cut from.

    `billed_at` is the boundary of the invoice that bills it, None for what is shown only: a trial, unless the price
    bills it at its end, or what another system has billed.
    """

    period: Period
    nominal: Period
    billed_at: datetime | None

    @classmethod
    def unbilled(cls, start: datetime, end: datetime) -> Stretch:
        """A stretch that no invoice bills."""
        return cls(Period(start, end), Period(start, end), None)


@dataclass(frozen=True)
class Terms:
    """When a subscription starts, is activated and renews."""

    start_at: datetime
    trial_end_at: datetime | None
    alignment: Alignment
    zone: str
    interval: Interval
    anchor_at: datetime | None = None
    billed_until: datetime | None = None

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
            row.billed_until,
        )

    @property
    def activation_at(self) -> datetime:
        """The end of the trial, or the start without one."""
        return self.trial_end_at or self.start_at

    @property
    def billed_from(self) -> datetime:
        """From here on it is billed: the activation, or what another system has billed until."""
        return max(self.activation_at, self.billed_until or self.activation_at)

    @cached_property
    def schedule(self) -> Schedule:
        """The nominal periods, from the original anchor."""
        anchor = self.anchor_at or self.activation_at
        if self.anchor_at is None and self.alignment is Alignment.CALENDAR:
            anchor = calendar_anchor(anchor, self.zone, self.interval)
        return Schedule(anchor, self.zone, self.interval)

    def first_period(self) -> Period:
        """The billing period that it enters at its activation.

        With calendar alignment or a given anchor it is the part of a nominal period, and its fee is prorated. Of an
        imported subscription it is what is left of the period that another system has billed.
        """
        if self.billed_from == self.activation_at:
            return self.paid_from(self.activation_at)
        nominal = self.schedule.containing(self.billed_from - RESOLUTION)
        return Period(max(nominal.start, self.activation_at), self.billed_from)

    def paid_from(self, start: datetime) -> Period:
        """The billing period that begins at `start`, the activation or a boundary."""
        return Period(start, self.schedule.containing(start).end)

    def stretches(self, after: datetime | None = None) -> Iterator[Stretch]:
        """The usage periods in order: unbilled time, then the billing periods; only those from `after` on if given."""
        if after is None:
            yield from self._unbilled()
        start = self.billed_from if after is None else after
        while True:
            nominal = self.schedule.containing(start)
            yield Stretch(Period(start, nominal.end), nominal, nominal.end)
            start = nominal.end

    def first_ones(self) -> list[Stretch]:
        """What exists from the creation on: the first usage period and the one ahead, the first billed one at least."""
        return list(islice(self.stretches(), max(2, len(list(self._unbilled())) + 1)))

    def two_from(self, start: datetime) -> list[Stretch]:
        """The billing period that begins at `start` and the one ahead."""
        return list(islice(self.stretches(start), 2))

    def _unbilled(self) -> Iterator[Stretch]:
        if self.trial_end_at is not None:
            # What scales with time does as it would from a first day on: by the full period that begins there.
            nominal = Schedule(self.start_at, self.zone, self.interval).containing(self.start_at)
            yield Stretch(Period(self.start_at, self.trial_end_at), nominal, None)
        if self.billed_from > self.activation_at:
            yield Stretch.unbilled(self.activation_at, self.billed_from)
