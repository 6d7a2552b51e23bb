"""The rim's UsageService. Invariant: convert, call, convert; no rule stands here.

What takes records in has no request id: each record has a key of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from tollway.usage.v1 import usage_service_pb2 as pb
from tollway.usage.v1 import usage_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services.subscriptions import get_subscription
from billing.services.usage_amendments import amend_usage, void_usage
from billing.services.usage_assignment import assign_usage, require_subscription
from billing.services.usage_batch import BatchAnswer, Outcome, UsageBatch
from billing.services.usage_group_commit import GroupCommit, Share
from billing.services.usage_ingest import record_usage
from billing.services.usage_lifecycle import move_usage_period
from billing.services.usage_lists import list_unassigned, list_usage
from billing.services.usage_records import get_history
from billing.services.usage_revisions import Author
from billing.services.usage_summary import summarize_usage
from server import usage_lists as lists
from server import usage_messages as messages
from server.call import Call, current_call
from server.convert import from_timestamp, optional_id
from server.house import House
from server.interceptor import Context
from server.paging import page_size


class UsageServicer(rpc.UsageServiceServicer):
    """Takes in a tenant's usage, corrects it, and shows it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._group = GroupCommit(house.api, house.clock, messages.from_records)

    async def BatchRecordUsage(
        self, request: pb.BatchRecordUsageRequest, context: Context
    ) -> pb.BatchRecordUsageResponse:
        """See the proto."""
        batch = messages.from_batch(request)
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
        async with call.records(1) as taken:
            taken.accepted = 1  # also when its caller leaves: the group goes on
            one = await self._group.record(call.tenant_id, request.record, share, call)
            taken.accepted = int(one.verdict is None)
        return pb.RecordUsageResponse(
            result=messages.to_result(one.verdict), batch_id=messages.to_batch_id(one.batch_id)
        )

    async def StreamUsage(
        self, request_iterator: AsyncIterator[pb.StreamUsageRequest], context: Context
    ) -> AsyncIterator[pb.StreamUsageResponse]:
        """See the proto."""
        async for request in request_iterator:
            batch = messages.from_batch(request)
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

    async def ListUsage(
        self, request: pb.ListUsageRequest, context: Context
    ) -> pb.ListUsageResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.ListUsageResponse:
            wanted = await lists.from_filter(tx, call.tenant_id, request)
            rows = await list_usage(
                tx,
                call.tenant_id,
                wanted,
                lists.read_place(request),
                limit=page_size(request.page_size) + 1,
            )
            return lists.to_page(request, rows)

        return await self._house.read(work)

    async def SummarizeUsage(
        self, request: pb.SummarizeUsageRequest, context: Context
    ) -> pb.SummarizeUsageResponse:
        """See the proto."""
        wanted = lists.from_summary(request)

        async def work(tx: Connection, call: Call) -> pb.SummarizeUsageResponse:
            return lists.to_summary(await summarize_usage(tx, call.tenant_id, wanted))

        return await self._house.read(work, snapshot=True)

    async def ListUnassignedUsage(
        self, request: pb.ListUnassignedUsageRequest, context: Context
    ) -> pb.ListUnassignedUsageResponse:
        """See the proto."""
        customer_id = optional_id(Prefix.CUSTOMER, request.customer_id, path="customer_id")

        async def work(tx: Connection, call: Call) -> pb.ListUnassignedUsageResponse:
            rows = await list_unassigned(
                tx,
                call.tenant_id,
                customer_id,
                lists.read_pair(request),
                limit=page_size(request.page_size) + 1,
            )
            return lists.to_unassigned(request, rows)

        return await self._house.read(work)

    async def AssignUsage(
        self, request: pb.AssignUsageRequest, context: Context
    ) -> pb.AssignUsageResponse:
        """See the proto."""
        subscription_id = decode(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        )

        async def work(tx: Connection, call: Call) -> pb.AssignUsageResponse:
            found = await get_subscription(tx, call.tenant_id, subscription_id=subscription_id)
            author = Author(call.cause, request.note)
            keys = list(request.idempotency_keys)
            count, more = await assign_usage(tx, found.row, keys, author, now=call.now)
            return pb.AssignUsageResponse(records=count, has_more=more)

        return await self._house.mutate(request, pb.AssignUsageResponse, work)

    async def RequireSubscription(
        self, request: pb.RequireSubscriptionRequest, context: Context
    ) -> pb.RequireSubscriptionResponse:
        """See the proto."""
        subscription_id = decode(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        )

        async def work(tx: Connection, call: Call) -> pb.RequireSubscriptionResponse:
            found = await get_subscription(tx, call.tenant_id, subscription_id=subscription_id)
            items = await require_subscription(tx, found.row)
            return pb.RequireSubscriptionResponse(items=items)

        return await self._house.mutate(request, pb.RequireSubscriptionResponse, work)

    async def ApplyLifecycle(
        self, request: pb.ApplyLifecycleRequest, context: Context
    ) -> pb.ApplyLifecycleResponse:
        """See the proto."""
        item_id = decode(
            Prefix.SUBSCRIPTION_ITEM, request.subscription_item_id, path="subscription_item_id"
        )
        start = from_timestamp(request.period_start_time, path="period_start_time")
        action = messages.ACTIONS[request.action]

        async def work(tx: Connection, call: Call) -> pb.ApplyLifecycleResponse:
            moved = await move_usage_period(
                tx, call.tenant_id, (item_id, start), action, call.cause, now=call.now
            )
            return pb.ApplyLifecycleResponse(usage_period=messages.to_usage_period(moved))

        return await self._house.mutate(request, pb.ApplyLifecycleResponse, work)

    async def _record(self, batch: UsageBatch) -> BatchAnswer:
        call = current_call()
        async with call.records(len(batch)) as taken:
            async with self._house.api.transaction(call.tenant_id) as tx:
                answer = await record_usage(tx, call.tenant_id, batch, call.cause, now=call.now)
            taken.accepted = answer.count(Outcome.ACCEPTED)
        return answer
