"""Tenants never see each other: another tenant's ids are as unknown as ids that nobody has."""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf.message import Message
from tollway.catalog.v1 import catalog_service_pb2 as catalog_pb
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services.keys import Scope
from server.permissions import PERMISSIONS
from tests.server.rim import REQUESTS, REVOKE_KEY, Rim

CATALOG = "/tollway.catalog.v1.CatalogService"
EVERY_ID = re.compile(r"(.+)_id")

# The ids that name what a request works on, by field; those of others are free texts of the tenant.
PREFIXES = {
    "customer_id": Prefix.CUSTOMER,
    "meter_id": Prefix.METER,
    "plan_id": Prefix.PLAN,
    "subscription_id": Prefix.SUBSCRIPTION,
    "invoice_id": Prefix.INVOICE,
    "endpoint_id": Prefix.WEBHOOK_ENDPOINT,
    "event_id": Prefix.EVENT,
    "api_key_id": Prefix.API_KEY,
    "replay_id": Prefix.REPLAY,
    "price_id": Prefix.PRICE,
    "scheduled_change_id": Prefix.SCHEDULED_CHANGE,
    "backfill_id": Prefix.BACKFILL,
    "threshold_id": Prefix.THRESHOLD,
    "invoice_item_id": Prefix.INVOICE_ITEM,
    "credit_note_id": Prefix.CREDIT_NOTE,
    "discount_id": Prefix.DISCOUNT,
    "recovery_id": Prefix.RECOVERY,
    "dead_letter_id": Prefix.DEAD_LETTER,
}
# What else a request may name: texts of the tenant, tenants themselves, and what a list is filtered by.
OTHER_IDS = frozenset(
    {
        "request_id",
        "tenant_id",
        "external_id",
        "external_customer_id",
        "external_subscription_id",
        "resource_id",
        "correlation_id",
        "batch_id",
        "subscription_item_id",
    }
)


async def test_another_tenants_customer_meter_and_plan_are_not_found(rim: Rim) -> None:
    customer = await rim.customer()
    meter = (await rim.call(f"{CATALOG}/CreateMeter", _meter("minutes"))).meter
    plan = (await rim.call(f"{CATALOG}/CreatePlan", _plan("basic"))).plan
    requests: list[tuple[str, Any, str]] = [
        (
            "/tollway.customer.v1.CustomerService/GetCustomer",
            {"customer_id": customer.id},
            "CUSTOMER",
        ),
        ("/tollway.customer.v1.CustomerService/GetCustomer", {"external_id": "UA"}, "CUSTOMER"),
        (f"{CATALOG}/GetMeter", {"meter_id": meter.id}, "METER"),
        (f"{CATALOG}/GetMeter", {"key": "minutes"}, "METER"),
        (f"{CATALOG}/GetPlan", {"plan_id": plan.id}, "PLAN"),
        (f"{CATALOG}/GetPlan", {"key": "basic"}, "PLAN"),
    ]
    for method, fields, noun in requests:
        request = _request(method, fields)
        await rim.call(method, request)
        refused = await rim.refused(method, request, rim.other.keys[Scope.ADMIN])
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, f"{noun}_NOT_FOUND")


async def test_nothing_is_made_on_another_tenants_ids(rim: Rim) -> None:
    plan = (await rim.call(f"{CATALOG}/CreatePlan", _plan("basic"))).plan
    await rim.call(f"{CATALOG}/CreateMeter", _meter("minutes"))
    price = catalog_pb.CreatePriceRequest(plan_id=plan.id, display_name="Seat")
    price.flat.unit_amount = "5.00"
    theirs = rim.other.keys[Scope.ADMIN]
    assert (await rim.refused(f"{CATALOG}/CreatePrice", price, theirs)).reason == "PLAN_NOT_FOUND"

    await rim.call(f"{CATALOG}/CreatePlan", _plan("basic"), theirs)
    metered = catalog_pb.CreatePriceRequest(
        plan_key="basic", meter_key="minutes", display_name="Minute"
    )
    metered.per_unit.unit_amount = "0.10"
    refused = await rim.refused(f"{CATALOG}/CreatePrice", metered, theirs)
    assert refused.reason == "METER_NOT_FOUND"


async def test_another_tenants_key_cannot_be_revoked(rim: Rim) -> None:
    listed = await rim.call("/tollway.tenant.v1.TenantService/ListApiKeys")
    request = tenant_pb.RevokeApiKeyRequest(api_key_id=listed.api_keys[0].id)
    refused = await rim.refused(REVOKE_KEY, request, rim.other.keys[Scope.ADMIN])
    assert refused.reason == "KEY_NOT_FOUND"
    assert await rim.value("SELECT count(*) FROM api_keys WHERE revoked_at IS NOT NULL") == 0


async def test_the_same_external_ids_and_keys_live_side_by_side(rim: Rim) -> None:
    ours = await rim.customer("UA")
    theirs = await rim.customer("UA", rim.other.keys[Scope.ADMIN])
    assert ours.id != theirs.id
    for key in (rim.acme.keys[Scope.WRITE], rim.other.keys[Scope.WRITE]):
        await rim.call(f"{CATALOG}/CreateMeter", _meter("minutes"), key)
        await rim.call(f"{CATALOG}/CreatePlan", _plan("basic"), key)


async def test_every_get_of_an_id_that_nobody_has_is_not_found(rim: Rim) -> None:
    """Walks the contract, so that a new Get cannot be forgotten."""
    walked = 0
    for method in PERMISSIONS:
        if "/Get" not in method:
            continue
        ids = [f.name for f in REQUESTS[method].DESCRIPTOR.fields if f.name in PREFIXES]
        unknown = {name: encode(PREFIXES[name], new_id(rim.clock.now())) for name in ids}
        for name in ids[:1]:
            key = _key(rim, method)
            refused = await rim.refused(method, _request(method, unknown), key)
            assert refused.code is grpc.StatusCode.NOT_FOUND, (method, refused)
            wrong_kind = encode(Prefix.CORRELATION, new_id(rim.clock.now()))
            refused = await rim.refused(method, _request(method, unknown | {name: wrong_kind}), key)
            assert refused.reason in ("INVALID_ID", "INVALID_ARGUMENT"), (method, refused)
            walked += 1
    assert walked >= 6


async def test_nothing_is_done_to_an_id_that_nobody_has(rim: Rim) -> None:
    """Walks the methods that need an id and nothing else, so that a new one cannot be forgotten."""
    walked = set()
    for method, permission in PERMISSIONS.items():
        fields = [field.name for field in REQUESTS[method].DESCRIPTOR.fields]
        ids = [name for name in fields if name.endswith("_id") and name not in OTHER_IDS]
        assert set(ids) <= set(PREFIXES), (method, "an id that this walk does not know")
        if permission.scope is Scope.READ or "/Get" in method or "/List" in method or not ids:
            continue
        unknown = encode(PREFIXES[ids[0]], new_id(rim.clock.now()))
        request = _request(method, {ids[0]: unknown})
        refused = await rim.refused(method, request, _key(rim, method))
        if refused.code is grpc.StatusCode.NOT_FOUND:
            walked.add(method)
        else:
            assert refused.code is grpc.StatusCode.INVALID_ARGUMENT, (method, refused)
    assert len(walked) >= 25, sorted(walked)


def _key(rim: Rim, method: str) -> str:
    return rim.operator if PERMISSIONS[method].scope is None else rim.acme.keys[Scope.ADMIN]


def _request(method: str, fields: dict[str, str]) -> Message:
    request = REQUESTS[method]()
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def _meter(key: str) -> catalog_pb.CreateMeterRequest:
    return catalog_pb.CreateMeterRequest(key=key, aggregation=catalog_pb.AGGREGATION_SUM)


def _plan(key: str) -> catalog_pb.CreatePlanRequest:
    return catalog_pb.CreatePlanRequest(
        key=key, currency_code="USD", interval=catalog_pb.INTERVAL_MONTH
    )
