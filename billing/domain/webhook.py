"""Webhook path: the states of an endpoint and of one delivery.

Invariant: each delivery is in exactly one state, so that per endpoint matched = pending + parked +
delivered + dead + canceled. A disabled endpoint parks its deliveries, it never discards them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from billing.domain.lifecycle import Machine, StatusChanged

# Only failures for so long disable an endpoint; one success starts the count again.
FAILING_LIMIT: Final = timedelta(days=5)
# An endpoint that was disabled for it is tried this often with one of its parked deliveries.
PROBE_EVERY: Final = timedelta(hours=1)
# So many failures one after the other open the breaker: nothing is sent to the endpoint for a while, then one attempt
# at a time; each that fails doubles the pause.
BREAKER_FAILURES: Final = 10
BREAKER_PAUSE: Final = timedelta(seconds=5)
BREAKER_PAUSE_MAX: Final = timedelta(minutes=1)
_GONE: Final = 410


class EndpointStatus(StrEnum):
    """Whether an endpoint is posted to."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


class EndpointAction(StrEnum):
    """What moves an endpoint."""

    DISABLE = "disable"  # by the tenant, a 410, or 5 days of only failures
    ENABLE = "enable"  # by the tenant, or a half-open probe that was answered
    DELETE = "delete"


class DeliveryStatus(StrEnum):
    """What became of one event for one endpoint."""

    PENDING = "pending"
    PARKED = "parked"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELED = "canceled"


class DeliveryAction(StrEnum):
    """What moves a delivery. A failed attempt that will be retried leaves it pending."""

    SUCCEED = "succeed"
    EXHAUST = "exhaust"
    PARK = "park"
    UNPARK = "unpark"
    REDRIVE = "redrive"
    CANCEL = "cancel"


ENDPOINT: Final = Machine(
    "webhook endpoint",
    EndpointStatus.ENABLED,
    MappingProxyType(
        {
            (EndpointStatus.ENABLED, EndpointAction.DISABLE): EndpointStatus.DISABLED,
            (EndpointStatus.DISABLED, EndpointAction.ENABLE): EndpointStatus.ENABLED,
            (EndpointStatus.ENABLED, EndpointAction.DELETE): EndpointStatus.DELETED,
            (EndpointStatus.DISABLED, EndpointAction.DELETE): EndpointStatus.DELETED,
        }
    ),
)

DELIVERY: Final = Machine(
    "webhook delivery",
    DeliveryStatus.PENDING,
    MappingProxyType(
        {
            (DeliveryStatus.PENDING, DeliveryAction.SUCCEED): DeliveryStatus.DELIVERED,
            (DeliveryStatus.PENDING, DeliveryAction.EXHAUST): DeliveryStatus.DEAD,
            (DeliveryStatus.PENDING, DeliveryAction.PARK): DeliveryStatus.PARKED,
            (DeliveryStatus.PENDING, DeliveryAction.CANCEL): DeliveryStatus.CANCELED,
            # The probe of a disabled endpoint is one of its parked deliveries.
            (DeliveryStatus.PARKED, DeliveryAction.SUCCEED): DeliveryStatus.DELIVERED,
            (DeliveryStatus.PARKED, DeliveryAction.UNPARK): DeliveryStatus.PENDING,
            (DeliveryStatus.PARKED, DeliveryAction.CANCEL): DeliveryStatus.CANCELED,
            (DeliveryStatus.DEAD, DeliveryAction.REDRIVE): DeliveryStatus.PENDING,
            (DeliveryStatus.DEAD, DeliveryAction.CANCEL): DeliveryStatus.CANCELED,
        }
    ),
)


def apply_endpoint_lifecycle(
    status: EndpointStatus, action: EndpointAction, now: datetime
) -> tuple[EndpointStatus, StatusChanged]:
    """The endpoint's next status and its event, or InvalidTransition."""
    return ENDPOINT.apply(status, action, now)


def apply_delivery_lifecycle(
    status: DeliveryStatus, action: DeliveryAction, now: datetime
) -> tuple[DeliveryStatus, StatusChanged]:
    """The delivery's next status and its event, or InvalidTransition."""
    return DELIVERY.apply(status, action, now)


def is_success(status_code: int | None) -> bool:
    """2xx and nothing else: a redirect is never followed, and None is no answer at all."""
    return status_code is not None and 200 <= status_code <= 299


class BreakerState(StrEnum):
    """Whether an endpoint's breaker lets attempts through: all, one at a time, or none."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


def breaker_pause(failures: int) -> timedelta:
    """For how long so many failures one after the other open the breaker; zero leaves it closed."""
    over = failures - BREAKER_FAILURES
    if over < 0:
        return timedelta(0)
    # Doubling ends before it could grow without bound.
    return min(BREAKER_PAUSE * (1 << min(over, 10)), BREAKER_PAUSE_MAX)


def breaker_state(failures: int, open_until: datetime | None, now: datetime) -> BreakerState:
    """What the breaker of an endpoint is now."""
    if failures < BREAKER_FAILURES:
        return BreakerState.CLOSED
    return BreakerState.OPEN if open_until and open_until > now else BreakerState.HALF_OPEN


def should_disable(status_code: int | None, failing_since: datetime | None, now: datetime) -> bool:
    """Whether an attempt's answer disables its endpoint: 410, or 5 days of only failures."""
    if is_success(status_code):
        return False
    return status_code == _GONE or (
        failing_since is not None and now - failing_since >= FAILING_LIMIT
    )
