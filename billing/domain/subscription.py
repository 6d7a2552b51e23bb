"""Subscription path: created -> trialing -> active -> canceled.

Invariant: a canceled subscription stays canceled, and none is active before its trial ended.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from billing.domain.lifecycle import Machine, StatusChanged


class SubscriptionStatus(StrEnum):
    """Where a subscription stands."""

    CREATED = "created"  # its start has not come
    TRIALING = "trialing"
    ACTIVE = "active"
    CANCELED = "canceled"


class SubscriptionAction(StrEnum):
    """What moves a subscription."""

    START_TRIAL = "start_trial"
    ACTIVATE = "activate"  # the start without a trial, or the trial's end
    CANCEL = "cancel"


MACHINE: Final = Machine(
    "subscription",
    SubscriptionStatus.CREATED,
    MappingProxyType(
        {
            (SubscriptionStatus.CREATED, SubscriptionAction.START_TRIAL): (
                SubscriptionStatus.TRIALING
            ),
            (SubscriptionStatus.CREATED, SubscriptionAction.ACTIVATE): SubscriptionStatus.ACTIVE,
            (SubscriptionStatus.CREATED, SubscriptionAction.CANCEL): SubscriptionStatus.CANCELED,
            (SubscriptionStatus.TRIALING, SubscriptionAction.ACTIVATE): SubscriptionStatus.ACTIVE,
            (SubscriptionStatus.TRIALING, SubscriptionAction.CANCEL): SubscriptionStatus.CANCELED,
            (SubscriptionStatus.ACTIVE, SubscriptionAction.CANCEL): SubscriptionStatus.CANCELED,
        }
    ),
)


def apply_lifecycle(
    status: SubscriptionStatus, action: SubscriptionAction, now: datetime
) -> tuple[SubscriptionStatus, StatusChanged]:
    """The next status and its event, or InvalidTransition."""
    return MACHINE.apply(status, action, now)
