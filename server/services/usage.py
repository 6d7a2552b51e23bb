"""The rim's UsageService. Invariant: convert, call, convert; no rule stands here.

Usage RPCs take no request id: each record has a key of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tollway.error.v1 import error_reason_pb2
from tollway.usage.v1 import usage_service_pb2 as pb
from tollway.usage.v1 import usage_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, encode
from billing.services.usage_batch import BatchAnswer, Outcome, UsageBatch
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

    async def BatchRecordUsage(
        self, request: pb.BatchRecordUsageRequest, context: Context
    ) -> pb.BatchRecordUsageResponse:
        """See the proto."""
        batch = from_records(request.records, allow_backfill=request.allow_backfill)
        call = current_call()
        async with self._house.api.transaction(call.tenant_id) as tx:
            answer = await record_usage(tx, call.tenant_id, batch, call.cause, now=call.now)
        return to_answer(answer)


def from_records(records: Iterable[pb.UsageRecord], *, allow_backfill: bool) -> UsageBatch:
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


def to_answer(answer: BatchAnswer) -> pb.BatchRecordUsageResponse:
    """The answers, in the order of the records."""
    results = [_ACCEPTED] * answer.size
    for place, verdict in answer.verdicts.items():
        results[place] = pb.RecordResult(
            outcome=pb.RecordOutcome.Value(f"RECORD_OUTCOME_{verdict.outcome}"),
            reason=error_reason_pb2.ErrorReason.Value(
                f"ERROR_REASON_{verdict.reason or 'UNSPECIFIED'}"
            ),
            message=verdict.message,
        )
    return pb.BatchRecordUsageResponse(
        results=results,
        accepted=answer.count(Outcome.ACCEPTED),
        duplicate=answer.count(Outcome.DUPLICATE),
        conflict=answer.count(Outcome.CONFLICT),
        rejected=answer.count(Outcome.REJECTED),
        batch_id=encode(Prefix.USAGE_BATCH, answer.batch_id) if answer.batch_id else "",
    )
