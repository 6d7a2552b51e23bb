"""A request keeps the rules of the contract, or the answer names each field that does not."""

from __future__ import annotations

import grpc
import pytest
from tollway.catalog.v1 import catalog_service_pb2 as catalog_pb
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb

from server.permissions import PERMISSIONS
from server.validation import VIOLATIONS_MAX
from tests.server.rim import (
    CREATE_CUSTOMER,
    CREATE_KEY,
    CREATE_TENANT,
    GET_CUSTOMER,
    Rim,
    refusal_of,
)

CREATE_PRICE = "/tollway.catalog.v1.CatalogService/CreatePrice"


async def test_each_wrong_field_is_named(rim: Rim) -> None:
    request = tenant_pb.CreateTenantRequest(request_id="x" * 65)
    refused = await rim.refused(CREATE_TENANT, request, rim.operator)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    )
    assert set(refused.fields) == {"request_id", "display_name", "mode"}
    assert all(refused.fields.values())
    assert refused.message.startswith("request_id: ")
    assert refused.message.endswith("(and 2 more)")


async def test_nested_and_repeated_fields_are_named_by_their_path(rim: Rim) -> None:
    scopes = tenant_pb.CreateApiKeyRequest(
        display_name="CI", scopes=[tenant_pb.SCOPE_READ, tenant_pb.SCOPE_UNSPECIFIED]
    )
    assert list((await rim.refused(CREATE_KEY, scopes)).fields) == ["scopes[1]"]

    price = catalog_pb.CreatePriceRequest(plan_key="basic", display_name="Tiers")
    price.graduated.tiers.add(up_to="10")
    price.graduated.tiers.add(unit_amount="1" * 41)
    fields = (await rim.refused(CREATE_PRICE, price)).fields
    assert list(fields) == ["graduated.tiers[1].unit_amount"]


async def test_a_missing_choice_is_named_by_the_choice(rim: Rim) -> None:
    refused = await rim.refused(GET_CUSTOMER, customer_pb.GetCustomerRequest())
    assert list(refused.fields) == ["name"]


async def test_rules_of_the_domain_name_their_fields_too(rim: Rim) -> None:
    request = customer_pb.CreateCustomerRequest(display_name="x", time_zone="Mars/Olympus")
    refused = await rim.refused(CREATE_CUSTOMER, request)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_TIME_ZONE",
    )


async def test_of_very_many_wrong_fields_the_first_are_told(rim: Rim) -> None:
    price = catalog_pb.CreatePriceRequest(plan_key="basic", display_name="Tiers")
    for _ in range(100):
        price.graduated.tiers.add(up_to="1" * 41, unit_amount="1" * 41)
    refused = await rim.refused(CREATE_PRICE, price)
    assert len(refused.fields) == VIOLATIONS_MAX
    assert list(refused.fields)[:2] == [
        "graduated.tiers[0].up_to",
        "graduated.tiers[0].unit_amount",
    ]
    assert refused.message.endswith("(and 199 more)")


@pytest.mark.parametrize("method", sorted(PERMISSIONS))
async def test_what_cannot_be_read_is_refused_with_a_reason(rim: Rim, method: str) -> None:
    metadata = (("tollway-tenant", rim.acme.name),)
    call = rim.raw(method, b"\xff\xff\xff", rim.operator, metadata=metadata)
    refused = await refusal_of(call)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    )
