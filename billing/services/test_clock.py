"""Business time, step 1: a test-mode tenant's own clock.

Invariant: a test clock only moves forward, and only a worker moves it; a call stores where it is to go and answers at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.clocks
from google.protobuf.message import Message
from queries.models import TestClock
from tollway.scheduler.v1 import scheduler_events_pb2 as payloads

from billing.domain.errors import AlreadyExists, Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.runtime.ids import first_id_at
from billing.services import events
from billing.services.actor import Cause

ADVANCE_MAX: Final = timedelta(days=731)  # two years, a leap year among them
TEST_MODE: Final = "test"
ADVANCING: Final = "advancing"


class NotInTestMode(Precondition):
    """Only a tenant in test mode may have a clock of its own."""

    reason = "NOT_IN_TEST_MODE"


class TestClockExists(AlreadyExists):
    """The tenant has a test clock; move it with AdvanceTestClock."""

    reason = "TEST_CLOCK_EXISTS"


class TestClockNotFound(NotFound):
    """The tenant has no test clock; create one with CreateTestClock."""

    reason = "TEST_CLOCK_NOT_FOUND"


class TestClockTargetInvalid(Invalid):
    """A test clock only moves forward, and at most two years at once."""

    reason = "TEST_CLOCK_TARGET_INVALID"


class TestClockAdvancing(Precondition):
    """The clock is still on its way to an earlier target; wait until it is ready."""

    reason = "TEST_CLOCK_ADVANCING"


async def create_test_clock(
    tx: Connection, tenant_id: UUID, start_time: datetime, cause: Cause, *, now: datetime
) -> TestClock:
    """The tenant's clock, standing at `start_time`; emits test_clock.created. Raises NotInTestMode, TestClockExists."""
    if await queries.clocks.get_tenant_mode(tx, tenant_id=tenant_id) != TEST_MODE:
        raise NotInTestMode()
    clock = await queries.clocks.insert_test_clock(
        tx, tenant_id=tenant_id, start_time=start_time, now=now
    )
    if clock is None:
        raise TestClockExists()
    payload = payloads.TestClockCreated()
    payload.start_time.FromDatetime(start_time)
    await _emit(tx, clock, payload, cause, now)
    return clock


async def advance_test_clock(
    tx: Connection, tenant_id: UUID, target_time: datetime, cause: Cause, *, now: datetime
) -> TestClock:
    """The clock on its way; emits test_clock.advanced.

    Raises TestClockNotFound, TestClockAdvancing, TestClockTargetInvalid. One that failed may be sent on again.
    """
    clock = await queries.clocks.lock_test_clock(tx, tenant_id=tenant_id)
    if clock is None:
        raise TestClockNotFound()
    if clock.status == ADVANCING:
        raise TestClockAdvancing(metadata={"target": clock.target_time.isoformat()})
    limit = clock.business_time + ADVANCE_MAX
    if not clock.business_time < target_time <= limit:
        raise TestClockTargetInvalid(
            f"target_time: must be later than {clock.business_time.isoformat()}"
            f" and not later than {limit.isoformat()}.",
            metadata={"now": clock.business_time.isoformat(), "limit": limit.isoformat()},
        )
    sent = await queries.clocks.send_test_clock(
        tx, tenant_id=tenant_id, target_time=target_time, now=now
    )
    assert sent is not None, "the row is locked and was looked at"
    await queries.clocks.retry_drafts(tx, tenant_id=tenant_id)
    hints.wake(hints.CLOCKS)
    payload = payloads.TestClockAdvanced()
    payload.from_time.FromDatetime(clock.business_time)
    payload.target_time.FromDatetime(target_time)
    await _emit(tx, sent, payload, cause, now)
    return sent


async def get_test_clock(tx: Connection, tenant_id: UUID) -> TestClock:
    """The tenant's clock. Raises TestClockNotFound."""
    clock = await queries.clocks.get_test_clock(tx, tenant_id=tenant_id)
    if clock is None:
        raise TestClockNotFound()
    return clock


@dataclass(frozen=True, slots=True)
class ClockReport:
    """A clock, and what its last advance has brought about so far: events by subject."""

    clock: TestClock
    happened: Mapping[str, int]


async def report_test_clock(tx: Connection, tenant_id: UUID) -> ClockReport:
    """The tenant's clock with what happened since it was last sent on. Raises TestClockNotFound."""
    clock = await get_test_clock(tx, tenant_id)
    if clock.advance_began_at is None:
        return ClockReport(clock, {})
    rows = await queries.clocks.count_events_since(
        tx, tenant_id=tenant_id, first_id=first_id_at(clock.advance_began_at)
    )
    return ClockReport(clock, {row.subject: row.events for row in rows})


async def _emit(
    tx: Connection, clock: TestClock, payload: Message, cause: Cause, now: datetime
) -> None:
    # A tenant has one clock at most, so the clock bears the tenant's id.
    resource = encode(Prefix.TEST_CLOCK, clock.tenant_id)
    event = events.NewEvent(
        clock.tenant_id, resource, clock.version, payload, clock.business_time, cause
    )
    await events.emit(tx, [event], now=now)
