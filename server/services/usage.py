"""The rim's UsageService. Invariant: convert, call, convert; no rule stands here.

Usage RPCs take no request id: each record has a key of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final
from uuid import UUID

from tollway.error.v1 import error_reason_pb2
from tollway.usage.v1 import usage_service_pb2 as pb
from tollway.usage.v1 import usage_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, encode
from billing.services.usage_batch import BatchAnswer, Outcome, UsageBatch, Verdict
from billing.services.usage_group_commit import GroupCommit, Share
from billing.services.usage_ingest import record_usage
from server.call import current_call
from server.house import House
from server.interceptor import Context

_NANOS: Final = range(1_000_000_000)
_ACCEPTED: Final = pb.RecordResult(outcome=pb.RECORD_OUTCOME_ACCEPTED)


class UsageServicer(rpc.UsageServiceServicer):
    """Takes in a tenant's usage."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._group = GroupCommit(house.api, house.clock, from_records)

    async def BatchRecordUsage(
        self, request: pb.BatchRecordUsageRequest, context: Context
    ) -> pb.BatchRecordUsageResponse:
        """See the proto."""
        answer = await self._record(from_records(request.records, request.allow_backfill))
        return pb.BatchRecordUsageResponse(
            results=_results(answer), batch_id=_batch_id(answer.batch_id), **_counts(answer)
        )

    async def RecordUsage(
        self, request: pb.RecordUsageRequest, context: Context
    ) -> pb.RecordUsageResponse:
        """See the proto."""
        call = current_call()
        share = Share(call.principal.actor, call.correlation, request.allow_backfill)
        one = await self._group.record(call.tenant_id, request.record, share, call.cause)
        return pb.RecordUsageResponse(
            result=_result(one.verdict) if one.verdict else _ACCEPTED,
            batch_id=_batch_id(one.batch_id),
        )

    async def StreamUsage(
        self, request_iterator: AsyncIterator[pb.StreamUsageRequest], context: Context
    ) -> AsyncIterator[pb.StreamUsageResponse]:
        """See the proto."""
        async for request in request_iterator:
            answer = await self._record(from_records(request.records, request.allow_backfill))
            yield pb.StreamUsageResponse(
                results=_results(answer), batch_id=_batch_id(answer.batch_id), **_counts(answer)
            )

    async def _record(self, batch: UsageBatch) -> BatchAnswer:
        call = current_call()
        async with self._house.api.transaction(call.tenant_id) as tx:
            return await record_usage(tx, call.tenant_id, batch, call.cause, now=call.now)


def from_records(records: Iterable[pb.UsageRecord], allow_backfill: bool) -> UsageBatch:
    """Records as columns: one pass per column costs a third of one object per record."""
    records = list(records)
    stamps = [record.timestamp for record in records]
    nanos = [stamp.nanos for stamp in stamps]
    used_at_us: Sequence[int | None] = [
        stamp.seconds * 1_000_000 + nano // 1000 for stamp, nano in zip(stamps, nanos, strict=True)
    ]
    if 0 in used_at_us or min(nanos, default=0) < 0 or max(nanos, default=0) not in _NANOS:
        used_at_us = [
            us if record.HasField("timestamp") and nano in _NANOS else None
            for record, us, nano in zip(records, used_at_us, nanos, strict=True)
        ]
    subscription_ids = [record.subscription_id for record in records]
    properties = [record.properties for record in records]
    return UsageBatch(
        idempotency_keys=[record.idempotency_key for record in records],
        meter_keys=[record.meter_key for record in records],
        customer_ids=[record.customer_id for record in records],
        external_customer_ids=[record.external_customer_id for record in records],
        used_at_us=used_at_us,
        quantities=[record.quantity for record in records],
        subscription_ids=subscription_ids if any(subscription_ids) else None,
        properties=properties if any(map(len, properties)) else None,
        allow_backfill=allow_backfill,
    )


def _results(answer: BatchAnswer) -> Sequence[pb.RecordResult]:
    """The answers, in the order of the records."""
    results = [_ACCEPTED] * answer.size
    for place, verdict in answer.verdicts.items():
        results[place] = _result(verdict)
    return results


def _result(verdict: Verdict) -> pb.RecordResult:
    return pb.RecordResult(
        outcome=pb.RecordOutcome.Value(f"RECORD_OUTCOME_{verdict.outcome}"),
        reason=error_reason_pb2.ErrorReason.Value(
            f"ERROR_REASON_{verdict.reason or 'UNSPECIFIED'}"
        ),
        message=verdict.message,
    )


def _counts(answer: BatchAnswer) -> dict[str, int]:
    return {outcome.lower(): answer.count(outcome) for outcome in Outcome}


def _batch_id(batch_id: UUID | None) -> str:
    return encode(Prefix.USAGE_BATCH, batch_id) if batch_id else ""
