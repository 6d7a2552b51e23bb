"""Usage path: usage periods (reported -> rated -> billed), and the time a record may carry.

Invariant: a record belongs to the period of its own timestamp. A billed period goes back only
when its invoice is voided with a reissue; late usage is a mark and an adjustment, not a state.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from billing.domain.lifecycle import Machine, StatusChanged

BACKDATING_LIMIT: Final = timedelta(days=35)
FUTURE_LIMIT: Final = timedelta(minutes=5)


class UsagePeriodStatus(StrEnum):
    """How far a usage period has come."""

    REPORTED = "reported"
    RATED = "rated"
    BILLED = "billed"


class UsagePeriodAction(StrEnum):
    """What moves a usage period."""

    RATE = "rate"
    BILL = "bill"
    REOPEN = "reopen"


MACHINE: Final = Machine(
    "usage period",
    UsagePeriodStatus.REPORTED,
    MappingProxyType(
        {
            (UsagePeriodStatus.REPORTED, UsagePeriodAction.RATE): UsagePeriodStatus.RATED,
            # Finalization computes from the records and waits for no running charge.
            (UsagePeriodStatus.REPORTED, UsagePeriodAction.BILL): UsagePeriodStatus.BILLED,
            (UsagePeriodStatus.RATED, UsagePeriodAction.BILL): UsagePeriodStatus.BILLED,
            (UsagePeriodStatus.BILLED, UsagePeriodAction.REOPEN): UsagePeriodStatus.REPORTED,
        }
    ),
)


class TimestampRefusal(StrEnum):
    """Why a record's timestamp is not accepted; a per-record answer, never an error of a batch."""

    TOO_OLD = "too_old"
    IN_FUTURE = "in_future"


def apply_lifecycle(
    status: UsagePeriodStatus, action: UsagePeriodAction, now: datetime
) -> tuple[UsagePeriodStatus, StatusChanged]:
    """The next status and its event, or InvalidTransition."""
    return MACHINE.apply(status, action, now)


def refuse_timestamp(
    timestamp: datetime,
    now: datetime,
    *,
    allow_backfill: bool = False,
    backdating_limit: timedelta = BACKDATING_LIMIT,
) -> TimestampRefusal | None:
    """None when the record may be taken: at most 35 days old, or backfilled, and at most 5
    minutes ahead of the tenant's clock `now`."""
    if timestamp - now > FUTURE_LIMIT:
        return TimestampRefusal.IN_FUTURE
    if now - timestamp > backdating_limit and not allow_backfill:
        return TimestampRefusal.TOO_OLD
    return None
