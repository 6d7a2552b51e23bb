"""The rim, step 2: how many usage records a tenant had accepted today and this month, as this process knows it.

Invariant: what was accepted is fresh until it is stored; what is under way is reserved, so that calls beside each
other do not pass a quota together. What other processes accept is known after the next flush.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from math import ceil
from typing import Final
from uuid import UUID

from billing.domain.errors import Exhausted
from billing.services.tenant_limits import TenantLimits, Totals

_DAY: Final = timedelta(days=1)


class RecordQuotaExceeded(Exhausted):
    """The tenant's quota of usage records is used up; try again in the next period, or ask for a higher one."""

    reason = "RECORD_QUOTA_EXCEEDED"


class RecordCount:
    """The count of one tenant. Days and months are those of UTC, by machine time."""

    __slots__ = ("_day", "_of_day", "_of_month", "_reserved", "fresh", "is_known", "tenant_id")

    def __init__(self, tenant_id: UUID, today: date) -> None:
        self.tenant_id, self._day = tenant_id, today
        self._of_day = self._of_month = self._reserved = 0
        # Accepted and not yet stored, by day.
        self.fresh: dict[date, int] = {}
        self.is_known = False

    def reserve(self, count: int, limits: TenantLimits, now: datetime) -> None:
        """Reserves room for so many records. Raises RecordQuotaExceeded."""
        self._turn(now.date())
        for window, limit, used in (
            ("day", limits.records_per_day, self._of_day),
            ("month", limits.records_per_month, self._of_month),
        ):
            left = limit - used - self._reserved
            if limit and count > left:
                raise RecordQuotaExceeded(
                    f"The quota of {limit} usage records a {window} has {max(left, 0)} left.",
                    metadata={"window": window, "limit": str(limit), "left": str(max(left, 0))},
                    retry_after_s=_until_next(window, now),
                )
        self._reserved += count

    def settle(self, reserved: int, *, accepted: int) -> None:
        """Gives back what was reserved, and counts what was accepted of it."""
        self._reserved -= reserved
        if accepted:
            self._of_day += accepted
            self._of_month += accepted
            self.fresh[self._day] = self.fresh.get(self._day, 0) + accepted

    def learn(self, stored: Totals, day: date) -> None:
        """Takes over what is stored as of a day; what is fresh comes on top."""
        if day == self._day:
            self._of_day = stored.of_day + self.fresh.get(day, 0)
            self._of_month = stored.of_month + sum(self.fresh.values())
            self.is_known = True

    def _turn(self, today: date) -> None:
        if today > self._day:
            if (today.year, today.month) != (self._day.year, self._day.month):
                self._of_month = 0
            self._day, self._of_day = today, 0


def _until_next(window: str, now: datetime) -> int:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    following = (
        midnight + _DAY if window == "day" else (midnight.replace(day=28) + 4 * _DAY).replace(day=1)
    )
    return ceil((following - now).total_seconds())
