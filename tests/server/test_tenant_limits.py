"""What a tenant may do: rates, quotas and streams, refused with their own reasons, and set by operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry
from tollway.catalog.v1 import catalog_service_pb2 as catalog_pb
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.event.v1 import event_service_pb2 as event_pb
from tollway.tenant.v1 import tenant_service_pb2 as pb
from tollway.usage.v1 import usage_service_pb2 as usage_pb

from billing.domain.errors import BillingError
from billing.services.keys import Scope
from billing.services.tenant_limits import TenantLimits, Totals
from server.app import start_grpc
from server.record_count import RecordCount, RecordQuotaExceeded
from tests.server.rim import GET_CUSTOMER, SETTINGS, Rim, read_refusal
from tests.server.test_gateway import open_web

GET: Any = "/tollway.tenant.v1.TenantService/GetTenantLimits"
UPDATE = "/tollway.tenant.v1.TenantService/UpdateTenantLimits"
CREATE_METER = "/tollway.catalog.v1.CatalogService/CreateMeter"
BATCH = "/tollway.usage.v1.UsageService/BatchRecordUsage"
RECORD = "/tollway.usage.v1.UsageService/RecordUsage"
STREAM = "/tollway.usage.v1.UsageService/StreamUsage"
WATCH = "/tollway.event.v1.EventService/WatchEvents"
READ = customer_pb.GetCustomerRequest(external_id="UA")
KEY_CACHE_S = 3


@dataclass(slots=True)
class Stopped:
    """Machine time that stands still, but for the shift of the rim's own clock."""

    at: datetime

    def now(self) -> datetime:
        return self.at


async def limit(rim: Rim, **values: int) -> pb.TenantLimits:
    """Sets limits of acme, and lets the servers hear of it; from then on time stands still."""
    request = pb.UpdateTenantLimitsRequest(tenant_id=rim.acme.name, reason="a test", **values)  # type: ignore[arg-type] # by their names
    request.update_mask.paths.extend(values)
    answer = await rim.call(UPDATE, request, rim.operator)
    rim.clock.clock = Stopped(rim.databases.clock.now())
    rim.clock.shift += timedelta(seconds=KEY_CACHE_S)
    limits: pb.TenantLimits = answer.limits
    return limits


async def usable(rim: Rim) -> None:
    """A meter and a customer for usage."""
    await rim.call(
        CREATE_METER,
        catalog_pb.CreateMeterRequest(
            key="calls", display_name="Calls", aggregation=catalog_pb.AGGREGATION_SUM
        ),
    )
    await rim.customer("UA")


def batch(rim: Rim, *keys: str) -> usage_pb.BatchRecordUsageRequest:
    request = usage_pb.BatchRecordUsageRequest()
    for key in keys:
        record = request.records.add(
            idempotency_key=key, meter_key="calls", external_customer_id="UA", quantity="1"
        )
        record.timestamp.FromDatetime(rim.databases.clock.now())
    return request


def named(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{n}" for n in range(count)]


async def test_calls_above_the_rate_are_refused_by_grpc_and_http_and_wait_as_told(rim: Rim) -> None:
    await rim.customer("UA")
    await limit(rim, requests_per_second=1)
    for _ in range(2):
        await rim.call(GET_CUSTOMER, READ)
    refused = await rim.refused(GET_CUSTOMER, READ)
    assert (refused.code, refused.reason, refused.retry_s, refused.metadata) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "REQUEST_RATE_EXCEEDED",
        1,
        {"limit": "1"},
    )
    async with open_web(rim) as web:
        over_http = await web.ask("GET", "/v1/customers")
        assert (over_http.status, over_http.info["reason"]) == (429, "REQUEST_RATE_EXCEEDED")
        assert over_http.headers["Retry-After"] == "1"
        await rim.call(
            GET_CUSTOMER, READ, rim.operator, metadata=(("tollway-tenant", rim.acme.name),)
        )
        other = await rim.refused(GET_CUSTOMER, READ, rim.other.keys[Scope.READ])
        assert other.reason == "CUSTOMER_NOT_FOUND"
        rim.clock.shift += timedelta(seconds=1)
        assert (await web.ask("GET", "/v1/customers")).status == 200
    counted = rim.registry.get_sample_value(
        "tollway_refused_calls_total", {"reason": "REQUEST_RATE_EXCEEDED"}
    )
    assert counted == 2


async def test_records_above_the_rate_are_refused_by_each_way_in_and_nothing_of_them_is_kept(
    rim: Rim,
) -> None:
    await usable(rim)
    await limit(rim, records_per_second=10)
    await rim.call(BATCH, batch(rim, *named("a", 20)))
    refused = await rim.refused(BATCH, batch(rim, "b"))
    assert (refused.code, refused.reason, refused.retry_s, refused.metadata) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RECORD_RATE_EXCEEDED",
        1,
        {"limit": "10"},
    )
    single = usage_pb.RecordUsageRequest(record=batch(rim, "c").records[0])
    assert (await rim.refused(RECORD, single)).reason == "RECORD_RATE_EXCEEDED"
    stream: Any = rim.channel.stream_stream(STREAM)
    message = usage_pb.StreamUsageRequest(records=batch(rim, "d").records).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        metadata = (("authorization", f"Bearer {rim.acme.keys[Scope.WRITE]}"),)
        async for _ in stream(iter([message]), metadata=metadata):
            pass
    assert read_refusal(raised.value).reason == "RECORD_RATE_EXCEEDED"
    rim.clock.shift += timedelta(seconds=1)
    await rim.call(BATCH, batch(rim, "b"))
    assert await rim.value("SELECT count(*) FROM usage_records") == 21


async def test_a_quota_counts_what_was_accepted_and_holds_in_every_process(rim: Rim) -> None:
    await usable(rim)
    await limit(rim, records_per_day=5, records_per_month=1000)
    await rim.call(BATCH, batch(rim, *named("a", 3)))
    await rim.call(RECORD, usage_pb.RecordUsageRequest(record=batch(rim, "a-0").records[0]))
    refused = await rim.refused(BATCH, batch(rim, *named("b", 3)))
    midnight = (rim.clock.now() + timedelta(days=1)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    assert (refused.code, refused.reason, refused.metadata) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RECORD_QUOTA_EXCEEDED",
        {"window": "day", "limit": "5", "left": "2"},
    )
    assert refused.retry_s is not None
    assert 0 <= refused.retry_s - (midnight - rim.clock.now()).total_seconds() < 1
    assert await rim.server.limits.allowances.flush() == 1

    async with another_process(rim) as other:
        assert (await other.refused(BATCH, batch(rim, *named("b", 3)))).metadata["left"] == "2"
        await other.call(BATCH, batch(rim, *named("b", 2)))
        assert await other.server.limits.allowances.flush() == 1
        assert (await other.refused(BATCH, batch(rim, "c"))).metadata["left"] == "0"
        # An operator's own records count, and are never refused.
        acting = (("tollway-tenant", rim.acme.name),)
        await other.call(BATCH, batch(rim, "d"), rim.operator, metadata=acting)
        assert await other.server.limits.allowances.flush() == 1
    limits = (await rim.call(GET)).limits
    assert (limits.records_today, limits.records_this_month) == (6, 6)
    # This process has not heard of the other's before it has something to store itself.
    await rim.call(BATCH, batch(rim, "e"), rim.operator, metadata=acting)
    await rim.server.limits.allowances.flush()
    assert (await rim.refused(BATCH, batch(rim, "f"))).reason == "RECORD_QUOTA_EXCEEDED"
    assert await rim.value("SELECT sum(records) FROM usage_record_counts") == 7
    assert await rim.value("SELECT count(*) FROM usage_records") == 7


async def test_counts_that_could_not_be_stored_are_stored_by_the_next_flush(rim: Rim) -> None:
    await usable(rim)
    await rim.call(BATCH, batch(rim, *named("a", 3)))
    async with rim.owner() as owner:
        await owner.execute("ALTER TABLE usage_record_counts RENAME TO elsewhere")
        with pytest.raises(Exception, match="usage_record_counts"):
            await rim.server.limits.allowances.flush()
        await owner.execute("ALTER TABLE elsewhere RENAME TO usage_record_counts")
    await rim.call(BATCH, batch(rim, "b"))
    await rim.server.limits.allowances.flush()
    assert await rim.value("SELECT sum(records) FROM usage_record_counts") == 4
    assert await rim.server.limits.allowances.flush() == 0


async def test_a_tenant_has_so_many_open_streams_and_no_more(rim: Rim) -> None:
    await limit(rim, streams=1)
    body = event_pb.WatchEventsRequest().SerializeToString()
    watch: Any = rim.channel.unary_stream(WATCH)
    first = watch(body, metadata=(("authorization", f"Bearer {rim.acme.keys[Scope.READ]}"),))
    await first.read()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rim.raw(WATCH, body)
    refused = read_refusal(raised.value)
    assert (refused.reason, refused.metadata) == ("TOO_MANY_STREAMS", {"limit": "1"})
    assert await rim.raw(WATCH, body, rim.other.keys[Scope.READ])
    first.cancel()


async def test_operators_set_limits_and_tenants_see_their_own(rim: Rim) -> None:
    defaults = TenantLimits()
    seen = (await rim.call(GET, key=rim.acme.keys[Scope.READ])).limits
    assert (seen.requests_per_second, list(seen.overridden)) == (defaults.requests_per_second, [])

    changed = await limit(rim, requests_per_second=50, records_per_month=9)
    assert (changed.requests_per_second, changed.records_per_month) == (50, 9)
    assert list(changed.overridden) == ["records_per_month", "requests_per_second"]
    assert (await rim.call(GET, key=rim.acme.keys[Scope.READ])).limits == changed
    named_by_operator = pb.GetTenantLimitsRequest(tenant_id=rim.acme.name)
    assert (await rim.call(GET, named_by_operator, rim.operator)).limits == changed

    back = pb.UpdateTenantLimitsRequest(tenant_id=rim.acme.name, reason="as before")
    back.update_mask.paths.append("requests_per_second")
    assert list((await rim.call(UPDATE, back, rim.operator)).limits.overridden) == [
        "records_per_month"
    ]
    assert await rim.value(
        "SELECT array_agg(note ORDER BY id) FROM audit_log WHERE method = $1", UPDATE
    ) == ["a test", "as before"]
    told = await rim.value(
        "SELECT count(*) FROM billing_events WHERE subject = 'tenant.limits.updated'"
    )
    assert told == 2


async def test_tenants_change_no_limits_and_see_no_others(rim: Rim) -> None:
    request = pb.UpdateTenantLimitsRequest(tenant_id=rim.acme.name, reason="more")
    request.update_mask.paths.append("streams")
    assert (await rim.refused(UPDATE, request)).reason == "OPERATOR_REQUIRED"
    other = pb.GetTenantLimitsRequest(tenant_id=rim.other.name)
    assert (await rim.refused(GET, other)).reason == "OPERATOR_REQUIRED"
    request.update_mask.paths[:] = ["version"]
    assert set((await rim.refused(UPDATE, request, rim.operator)).fields) == {"update_mask"}


def test_a_count_begins_anew_with_the_day_and_the_month_of_utc() -> None:
    night = datetime(2026, 1, 30, 23, 59, 30, tzinfo=UTC)
    count = RecordCount(UUID(int=1), night.date())
    limits = TenantLimits(records_per_day=10, records_per_month=15)

    def accept(records: int, at: datetime) -> None:
        count.reserve(records, limits, at)
        count.settle(records, accepted=records)

    def refusal(records: int, at: datetime) -> tuple[str, str, int | None]:
        with pytest.raises(RecordQuotaExceeded) as raised:
            count.reserve(records, limits, at)
        error: BillingError = raised.value
        return error.metadata["window"], error.metadata["left"], error.retry_after_s

    accept(10, night)
    assert refusal(1, night) == ("day", "0", 30)
    next_day = night + timedelta(minutes=1)
    assert refusal(6, next_day) == ("month", "5", 86400 - 30)
    accept(5, next_day)
    next_month = next_day + timedelta(days=1)
    accept(10, next_month)
    assert refusal(1, next_month)[:2] == ("day", "0")
    assert count.fresh == {date(2026, 1, 30): 10, date(2026, 1, 31): 5, date(2026, 2, 1): 10}
    count.fresh = {}
    count.learn(Totals(of_day=4, of_month=4), date(2026, 2, 1))
    accept(6, next_month)


def test_what_is_under_way_is_reserved_and_what_fails_is_given_back() -> None:
    now = datetime(2026, 1, 30, 12, tzinfo=UTC)
    count = RecordCount(UUID(int=1), now.date())
    limits = TenantLimits(records_per_day=10)
    count.reserve(6, limits, now)
    with pytest.raises(RecordQuotaExceeded):
        count.reserve(5, limits, now)
    count.settle(6, accepted=0)
    count.reserve(10, limits, now)


@asynccontextmanager
async def another_process(rim: Rim) -> AsyncIterator[Rim]:
    """A second server on the same database, as another process would be."""
    registry = CollectorRegistry()
    server = await start_grpc(rim.house, SETTINGS, registry)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Rim(
                rim.databases, rim.house, rim.clock, registry, server, channel, rim.acme, rim.other,
                rim.operator,
            )  # fmt: skip
    finally:
        await server.stop()
