"""The rim's SchedulerService: test clocks. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tollway.scheduler.v1 import scheduler_service_pb2 as pb
from tollway.scheduler.v1 import scheduler_service_pb2_grpc as rpc

from billing.runtime.db import Connection
from billing.services import test_clock
from billing.services.rows import TestClock
from billing.services.test_clock import ClockReport
from server.call import Call, current_call
from server.clock_watch import watch_clock
from server.convert import from_timestamp, to_timestamp
from server.house import House
from server.interceptor import Context


class SchedulerServicer(rpc.SchedulerServiceServicer):
    """A tenant's own business time."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateTestClock(
        self, request: pb.CreateTestClockRequest, context: Context
    ) -> pb.CreateTestClockResponse:
        """See the proto."""
        start = from_timestamp(request.start_time, path="start_time")

        async def work(tx: Connection, call: Call) -> pb.CreateTestClockResponse:
            clock = await test_clock.create_test_clock(
                tx, call.tenant_id, start, call.cause, now=call.now
            )
            return pb.CreateTestClockResponse(test_clock=to_clock(clock))

        return await self._house.mutate(request, pb.CreateTestClockResponse, work)

    async def AdvanceTestClock(
        self, request: pb.AdvanceTestClockRequest, context: Context
    ) -> pb.AdvanceTestClockResponse:
        """See the proto."""
        target = from_timestamp(request.target_time, path="target_time")

        async def work(tx: Connection, call: Call) -> pb.AdvanceTestClockResponse:
            clock = await test_clock.advance_test_clock(
                tx, call.tenant_id, target, call.cause, now=call.now
            )
            return pb.AdvanceTestClockResponse(test_clock=to_clock(clock))

        return await self._house.mutate(request, pb.AdvanceTestClockResponse, work)

    async def GetTestClock(
        self, request: pb.GetTestClockRequest, context: Context
    ) -> pb.GetTestClockResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.GetTestClockResponse:
            report = await test_clock.report_test_clock(tx, call.tenant_id)
            return pb.GetTestClockResponse(test_clock=to_report(report))

        return await self._house.read(work)

    async def WatchTestClock(
        self, request: pb.WatchTestClockRequest, context: Context
    ) -> AsyncIterator[pb.WatchTestClockResponse]:
        """See the proto."""
        async for report in watch_clock(self._house, current_call().tenant_id):
            yield pb.WatchTestClockResponse(test_clock=to_report(report))


def to_report(report: ClockReport) -> pb.TestClock:
    """A stored clock with what its last advance brought about, for the wire."""
    clock = to_clock(report.clock)
    for subject, count in report.happened.items():
        clock.happened.add(subject=subject, count=count)
    return clock


def to_clock(clock: TestClock) -> pb.TestClock:
    """A stored clock for the wire."""
    return pb.TestClock(
        current_time=to_timestamp(clock.business_time),
        target_time=to_timestamp(clock.target_time),
        status=pb.TestClockStatus.Value(f"TEST_CLOCK_STATUS_{clock.status.upper()}"),
        waiting_for=clock.waiting_for,
        from_time=to_timestamp(clock.from_time),
    )
