"""The rim's SchedulerService: test clocks. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.scheduler.v1 import scheduler_service_pb2 as pb
from tollway.scheduler.v1 import scheduler_service_pb2_grpc as rpc

from billing.runtime.db import Connection
from billing.services import test_clock
from billing.services.rows import TestClock
from server.call import Call
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
            clock = await test_clock.get_test_clock(tx, call.tenant_id)
            return pb.GetTestClockResponse(test_clock=to_clock(clock))

        return await self._house.read(work)


def to_clock(clock: TestClock) -> pb.TestClock:
    """A stored clock for the wire."""
    return pb.TestClock(
        current_time=to_timestamp(clock.business_time),
        target_time=to_timestamp(clock.target_time),
        status=pb.TestClockStatus.Value(f"TEST_CLOCK_STATUS_{clock.status.upper()}"),
        waiting_for=clock.waiting_for,
    )
