"""The rim, step 4: lists and summaries of usage between the wire and the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from tollway.usage.v1 import usage_service_pb2 as pb

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services.catalog import get_meter
from billing.services.customers import get_customer
from billing.services.rows import UnassignedUsage, UsageRevision
from billing.services.usage_checks import instant_of, instant_us
from billing.services.usage_lists import ListPlace, UsageFilter
from billing.services.usage_records import UsageState, state_of
from billing.services.usage_summary import Grain, Summary, SummaryRequest
from server.convert import from_timestamp, optional_id, to_decimal, to_range, to_timestamp
from server.paging import PageTokenInvalid, cut_keyed_page, read_key
from server.usage_messages import to_recorded

_INSTANT_BYTES: Final = 8
_ID_BYTES: Final = 16
_GRAINS: Final[Mapping[int, Grain]] = {
    pb.USAGE_GRAIN_HOUR: Grain.HOUR,
    pb.USAGE_GRAIN_DAY: Grain.DAY,
    pb.USAGE_GRAIN_MONTH: Grain.MONTH,
    pb.USAGE_GRAIN_PERIOD: Grain.PERIOD,
}


async def from_filter(tx: Connection, tenant_id: UUID, request: pb.ListUsageRequest) -> UsageFilter:
    """Which records. Raises CustomerNotFound and MeterNotFound for names of nobody."""
    customer_id = optional_id(Prefix.CUSTOMER, request.customer_id, path="customer_id")
    if request.external_customer_id:
        customer = await get_customer(
            tx, tenant_id, customer_id=None, external_id=request.external_customer_id
        )
        customer_id = customer.id
    meter_key, used = request.meter_key, request.used
    meter = await get_meter(tx, tenant_id, key=meter_key) if meter_key else None
    state = pb.UsageState.Name(request.state).removeprefix("USAGE_STATE_")
    start = from_timestamp(request.period_start, path="period_start")
    return UsageFilter(
        customer_id=customer_id,
        subscription_id=optional_id(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        ),
        meter_id=meter.id if meter else None,
        state=UsageState(state) if request.state else None,
        batch_id=optional_id(Prefix.USAGE_BATCH, request.batch_id, path="batch_id"),
        backfill_id=optional_id(Prefix.BACKFILL, request.backfill_id, path="backfill_id"),
        item_id=optional_id(
            Prefix.SUBSCRIPTION_ITEM, request.subscription_item_id, path="subscription_item_id"
        ),
        period_start=start if request.HasField("period_start") else None,
        since=from_timestamp(used.start, path="used.start") if used.HasField("start") else None,
        until=from_timestamp(used.end, path="used.end") if used.HasField("end") else None,
    )


def read_place(request: pb.ListUsageRequest) -> ListPlace | None:
    """Behind which record the page begins. Raises PageTokenInvalid."""
    raw = read_key(request, None)
    if raw is None:
        return None
    try:
        key = raw[_INSTANT_BYTES:].decode()
    except UnicodeDecodeError as error:
        raise PageTokenInvalid() from error
    return ListPlace(instant_of(int.from_bytes(raw[:_INSTANT_BYTES], signed=True)), key)


def to_page(request: pb.ListUsageRequest, rows: Sequence[UsageRevision]) -> pb.ListUsageResponse:
    """A page of records, from up to one row more than it holds."""

    def key_at(place: int) -> bytes:
        row = rows[place]
        key = row.root_key or row.idempotency_key
        return instant_us(row.used_at).to_bytes(_INSTANT_BYTES, signed=True) + key.encode()

    page, token = cut_keyed_page(request, rows, key_at)
    return pb.ListUsageResponse(
        records=[to_recorded(row, _state(row)) for row in page], next_page_token=token
    )


def _state(row: UsageRevision) -> UsageState:
    if not row.folded:
        return UsageState.PENDING
    return state_of(voided=row.voided, assigned=row.item_id is not None, status=row.period_status)


def from_summary(request: pb.SummarizeUsageRequest) -> SummaryRequest:
    """Of which usage."""
    return SummaryRequest(
        meter_key=request.meter_key,
        customer_id=optional_id(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
        external_customer_id=request.external_customer_id,
        subscription_id=optional_id(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        ),
        since=from_timestamp(request.range.start, path="range.start"),
        until=from_timestamp(request.range.end, path="range.end"),
        grain=_GRAINS[request.grain],
        zone=request.time_zone,
    )


def to_summary(summary: Summary) -> pb.SummarizeUsageResponse:
    """How much was used."""
    return pb.SummarizeUsageResponse(
        rows=[
            pb.UsageSummary(
                stretch=to_range(row.start, row.end),
                group=row.group,
                records=row.records,
                quantity=to_decimal(row.quantity),
            )
            for row in summary.rows
        ],
        time_zone=summary.zone,
        truncated=summary.truncated,
    )


def read_pair(request: pb.ListUnassignedUsageRequest) -> tuple[UUID, UUID] | None:
    """Behind which customer and meter the page begins. Raises PageTokenInvalid."""
    raw = read_key(request, 2 * _ID_BYTES)
    if raw is None:
        return None
    return UUID(bytes=raw[:_ID_BYTES]), UUID(bytes=raw[_ID_BYTES:])


def to_unassigned(
    request: pb.ListUnassignedUsageRequest, rows: Sequence[UnassignedUsage]
) -> pb.ListUnassignedUsageResponse:
    """A page of what belongs to nobody."""
    page, token = cut_keyed_page(
        request, rows, lambda place: rows[place].customer_id.bytes + rows[place].meter_id.bytes
    )
    return pb.ListUnassignedUsageResponse(
        usage=[
            pb.UnassignedUsage(
                customer_id=encode(Prefix.CUSTOMER, row.customer_id),
                external_customer_id=row.external_id or "",
                meter_key=row.meter_key,
                records=row.records,
                quantity=to_decimal(row.quantity),
                first_time=to_timestamp(row.first_at),
                last_time=to_timestamp(row.last_at),
            )
            for row in page
        ],
        next_page_token=token,
    )
