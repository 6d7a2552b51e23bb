"""The rim's UsageService. Invariant: convert, call, convert; no rule stands here.

What takes records in has no request id: each record has a key of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from tollway.usage.v1 import usage_service_pb2 as pb
from tollway.usage.v1 import usage_service_pb2_grpc as rpc

from billing.runtime.db import Connection
from billing.services.usage_amendments import amend_usage, void_usage
from billing.services.usage_batch import BatchAnswer, UsageBatch
from billing.services.usage_group_commit import GroupCommit, Share
from billing.services.usage_ingest import record_usage
from billing.services.usage_records import get_history
from billing.services.usage_revisions import Author
from server import usage_messages as messages
from server.call import Call, current_call
from server.house import House
from server.interceptor import Context


class UsageServicer(rpc.UsageServiceServicer):
    """Takes in a tenant's usage, corrects it, and shows it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._group = GroupCommit(house.api, house.clock, messages.from_records)

    async def BatchRecordUsage(
        self, request: pb.BatchRecordUsageRequest, context: Context
    ) -> pb.BatchRecordUsageResponse:
        """See the proto."""
        batch = messages.from_records(request.records, request.allow_backfill)
        answer = await self._record(batch)
        return pb.BatchRecordUsageResponse(
            results=messages.to_results(answer),
            batch_id=messages.to_batch_id(answer.batch_id),
            **messages.to_counts(answer),
        )

    async def RecordUsage(
        self, request: pb.RecordUsageRequest, context: Context
    ) -> pb.RecordUsageResponse:
        """See the proto."""
        call = current_call()
        share = Share(call.principal.actor, call.correlation, request.allow_backfill)
        one = await self._group.record(call.tenant_id, request.record, share, call.cause)
        return pb.RecordUsageResponse(
            result=messages.to_result(one.verdict), batch_id=messages.to_batch_id(one.batch_id)
        )

    async def StreamUsage(
        self, request_iterator: AsyncIterator[pb.StreamUsageRequest], context: Context
    ) -> AsyncIterator[pb.StreamUsageResponse]:
        """See the proto."""
        async for request in request_iterator:
            batch = messages.from_records(request.records, request.allow_backfill)
            answer = await self._record(batch)
            yield pb.StreamUsageResponse(
                results=messages.to_results(answer),
                batch_id=messages.to_batch_id(answer.batch_id),
                **messages.to_counts(answer),
            )

    async def GetUsageRecord(
        self, request: pb.GetUsageRecordRequest, context: Context
    ) -> pb.GetUsageRecordResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.GetUsageRecordResponse:
            history = await get_history(tx, call.tenant_id, request.idempotency_key)
            return messages.to_history(history)

        return await self._house.read(work)

    async def AmendUsage(
        self, request: pb.AmendUsageRequest, context: Context
    ) -> pb.AmendUsageResponse:
        """See the proto."""
        amendment = messages.from_amendment(request)

        async def work(tx: Connection, call: Call) -> pb.AmendUsageResponse:
            history = await amend_usage(
                tx,
                call.tenant_id,
                request.idempotency_key,
                amendment,
                Author(call.cause, request.note, request.allow_backfill),
                now=call.now,
            )
            return pb.AmendUsageResponse(record=messages.to_latest(history))

        return await self._house.mutate(request, pb.AmendUsageResponse, work)

    async def VoidUsage(
        self, request: pb.VoidUsageRequest, context: Context
    ) -> pb.VoidUsageResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.VoidUsageResponse:
            history = await void_usage(
                tx,
                call.tenant_id,
                request.idempotency_key,
                Author(call.cause, request.note, request.allow_backfill),
                now=call.now,
            )
            return pb.VoidUsageResponse(record=messages.to_latest(history))

        return await self._house.mutate(request, pb.VoidUsageResponse, work)

    async def _record(self, batch: UsageBatch) -> BatchAnswer:
        call = current_call()
        async with self._house.api.transaction(call.tenant_id) as tx:
            return await record_usage(tx, call.tenant_id, batch, call.cause, now=call.now)
