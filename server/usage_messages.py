"""The rim, step 4: usage records between the wire and the services."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from tollway.error.v1 import error_reason_pb2
from tollway.usage.v1 import usage_service_pb2 as pb

from billing.domain.ids import Prefix, decode, encode
from billing.domain.usage import UsagePeriodAction
from billing.services.rows import UsagePeriod, UsageRevision
from billing.services.usage_amendments import Amendment
from billing.services.usage_batch import BatchAnswer, Outcome, UsageBatch, Verdict
from billing.services.usage_records import RecordHistory, UsageState
from server.convert import to_decimal, to_range, to_timestamp

_NANOS: Final = range(1_000_000_000)
ACTIONS: Final = {
    pb.USAGE_PERIOD_ACTION_RATE: UsagePeriodAction.RATE,
    pb.USAGE_PERIOD_ACTION_BILL: UsagePeriodAction.BILL,
    pb.USAGE_PERIOD_ACTION_REOPEN: UsagePeriodAction.REOPEN,
}
ACCEPTED: Final = pb.RecordResult(outcome=pb.RECORD_OUTCOME_ACCEPTED)


def from_batch(request: pb.BatchRecordUsageRequest | pb.StreamUsageRequest) -> UsageBatch:
    """A batch as columns."""
    batch = from_records(request.records, request.allow_backfill)
    if not request.backfill_id:
        return batch
    backfill_id = decode(Prefix.BACKFILL, request.backfill_id, path="backfill_id")
    return replace(batch, backfill_id=backfill_id)


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
            _microseconds(record.timestamp) if record.HasField("timestamp") else None
            for record in records
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


def from_amendment(request: pb.AmendUsageRequest) -> Amendment:
    """What a record is to say."""
    return Amendment(
        changed=set(request.update_mask.paths),
        quantity=request.quantity,
        used_at_us=_microseconds(request.timestamp) if request.HasField("timestamp") else None,
        properties=dict(request.properties),
        subscription_id=request.subscription_id,
    )


def _microseconds(stamp: Timestamp) -> int | None:
    """Microseconds since 1970; None for what is no instant."""
    if stamp.nanos not in _NANOS:
        return None
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


def to_results(answer: BatchAnswer) -> Sequence[pb.RecordResult]:
    """The answers, in the order of the records."""
    results = [ACCEPTED] * answer.size
    for place, verdict in answer.verdicts.items():
        results[place] = to_result(verdict)
    return results


def to_result(verdict: Verdict | None) -> pb.RecordResult:
    """The answer for one record; accepted without a verdict."""
    if verdict is None:
        return ACCEPTED
    return pb.RecordResult(
        outcome=pb.RecordOutcome.Value(f"RECORD_OUTCOME_{verdict.outcome}"),
        reason=error_reason_pb2.ErrorReason.Value(
            f"ERROR_REASON_{verdict.reason or 'UNSPECIFIED'}"
        ),
        message=verdict.message,
    )


def to_counts(answer: BatchAnswer) -> dict[str, int]:
    """How many records have each outcome, by the field's name."""
    return {outcome.lower(): answer.count(outcome) for outcome in Outcome}


@lru_cache(maxsize=256)
def to_batch_id(batch_id: UUID | None) -> str:
    """The batch for the wire; empty when there is none. Remembered, since many calls may share one."""
    return encode(Prefix.USAGE_BATCH, batch_id) if batch_id else ""


def to_history(history: RecordHistory) -> pb.GetUsageRecordResponse:
    """A record with its revisions."""
    return pb.GetUsageRecordResponse(
        record=to_recorded(history.effective, history.state(history.effective)),
        revisions=[to_recorded(row, history.state(row)) for row in history.revisions],
    )


def to_latest(history: RecordHistory) -> pb.RecordedUsage:
    """The last revision of a record."""
    return to_recorded(history.latest, history.state(history.latest))


def to_recorded(row: UsageRevision, state: UsageState) -> pb.RecordedUsage:
    """A stored record or revision."""
    owner, item, named = row.owner_subscription_id, row.item_id, row.subscription_id
    return pb.RecordedUsage(
        idempotency_key=row.root_key or row.idempotency_key,
        meter_id=encode(Prefix.METER, row.meter_id),
        meter_key=row.meter_key,
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        timestamp=to_timestamp(row.used_at),
        quantity=to_decimal(row.quantity),
        properties=json.loads(row.properties) if row.properties else {},
        named_subscription_id=encode(Prefix.SUBSCRIPTION, named) if named else "",
        state=pb.UsageState.Value(f"USAGE_STATE_{state}"),
        subscription_id=encode(Prefix.SUBSCRIPTION, owner) if owner else "",
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, item) if item else "",
        period=to_range(row.period_start, row.period_end),
        revision=row.revision,
        batch_id=encode(Prefix.USAGE_BATCH, row.batch_id),
        accept_time=to_timestamp(row.accepted_at),
        note=row.note or "",
    )


def to_usage_period(row: UsagePeriod) -> pb.UsagePeriod:
    """A usage period for the wire."""
    return pb.UsagePeriod(
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, row.item_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, row.subscription_id),
        meter_id=encode(Prefix.METER, row.meter_id),
        price_id=encode(Prefix.PRICE, row.price_id),
        period=to_range(row.period_start, row.period_end),
        status=pb.UsagePeriodStatus.Value(f"USAGE_PERIOD_STATUS_{row.status.upper()}"),
        billable=row.bill_kind is not None,
    )
