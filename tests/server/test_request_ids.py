"""The same request id gives the same answer: one effect, byte for byte, whatever dies in between."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb

from billing.runtime.db import DatabaseSettings, Role, connect
from billing.services.keys import Scope, hash_secret
from tests.conftest import Databases
from tests.server.rim import CREATE_CUSTOMER, CREATE_KEY, CREATE_TENANT, Rim, open_rim

CUSTOMER = customer_pb.CreateCustomerRequest(
    request_id="req-1", external_id="UA", display_name="United"
)
TWINS = 12


async def test_a_repeated_request_gets_the_first_answer_byte_for_byte(rim: Rim) -> None:
    body = CUSTOMER.SerializeToString()
    first = await rim.raw(CREATE_CUSTOMER, body)
    again = await rim.raw(CREATE_CUSTOMER, body)
    assert first == again
    assert await _effects(rim) == (1, 1)


async def test_another_body_under_the_same_id_is_refused(rim: Rim) -> None:
    await rim.call(CREATE_CUSTOMER, CUSTOMER)
    other = customer_pb.CreateCustomerRequest(
        request_id="req-1", external_id="UA", display_name="Delta"
    )
    refused = await rim.refused(CREATE_CUSTOMER, other)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )
    assert refused.metadata == {"request_id": "req-1"}


async def test_an_id_is_remembered_by_tenant_key_and_method(rim: Rim) -> None:
    await rim.call(CREATE_CUSTOMER, CUSTOMER)
    refused = await rim.refused(CREATE_CUSTOMER, CUSTOMER, rim.acme.keys[Scope.WRITE])
    assert refused.reason == "ALREADY_EXISTS"  # another key: another request
    await rim.call(CREATE_CUSTOMER, CUSTOMER, rim.other.keys[Scope.WRITE])
    key = tenant_pb.CreateApiKeyRequest(
        request_id="req-1", display_name="CI", scopes=[tenant_pb.SCOPE_READ]
    )
    await rim.call(CREATE_KEY, key)
    assert await rim.value("SELECT count(*) FROM idempotent_requests") == 3


async def test_an_error_is_not_remembered(rim: Rim) -> None:
    wrong = customer_pb.CreateCustomerRequest(
        request_id="req-1", external_id="UA", display_name="United", time_zone="Mars/Olympus"
    )
    assert (await rim.refused(CREATE_CUSTOMER, wrong)).reason == "INVALID_TIME_ZONE"
    assert await rim.value("SELECT count(*) FROM idempotent_requests") == 0
    await rim.call(CREATE_CUSTOMER, CUSTOMER)
    assert await _effects(rim) == (1, 1)


async def test_twins_at_the_same_time_have_one_effect_and_one_answer(rim: Rim) -> None:
    body = CUSTOMER.SerializeToString()
    answers = await asyncio.gather(*(rim.raw(CREATE_CUSTOMER, body) for _ in range(TWINS)))
    assert len(set(answers)) == 1
    assert await _effects(rim) == (1, 1)


async def test_a_twin_that_takes_too_long_is_told_before_the_deadline(rim: Rim) -> None:
    """Two seconds of deadline, of which the lock may take a part; the database's clock ends the wait."""
    async with rim.owner() as owner:
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(
            "INSERT INTO idempotent_requests"
            " SELECT tenant_id, id, $1, 'req-1', '', NULL, false, now() FROM api_keys"
            " WHERE secret_hash = $2",
            CREATE_CUSTOMER,
            hash_secret(rim.acme.keys[Scope.ADMIN]),
        )
        refused = await rim.refused(CREATE_CUSTOMER, CUSTOMER, timeout=2.5)
        await transaction.rollback()
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "REQUEST_IN_PROGRESS")
    assert refused.retry_s == 1
    await rim.call(CREATE_CUSTOMER, CUSTOMER)
    assert await _effects(rim) == (1, 1)


async def test_a_secret_in_a_stored_answer_is_encrypted_and_answered_again(rim: Rim) -> None:
    request = tenant_pb.CreateApiKeyRequest(
        request_id="req-1", display_name="CI", scopes=[tenant_pb.SCOPE_READ]
    )
    body = request.SerializeToString()
    first = await rim.raw(CREATE_KEY, body)
    assert await rim.raw(CREATE_KEY, body) == first
    secret = tenant_pb.CreateApiKeyResponse.FromString(first).secret
    async with rim.owner() as owner:
        row = await owner.fetchrow("SELECT answer, encrypted FROM idempotent_requests")
    assert row is not None
    assert row["encrypted"] is True
    assert secret.encode() not in row["answer"]


async def test_an_operators_request_is_remembered_too(rim: Rim) -> None:
    request = tenant_pb.CreateTenantRequest(
        request_id="req-1", display_name="New", mode=tenant_pb.TENANT_MODE_LIVE
    )
    body = request.SerializeToString()
    first = await rim.raw(CREATE_TENANT, body, rim.operator)
    assert await rim.raw(CREATE_TENANT, body, rim.operator) == first
    assert await rim.value("SELECT count(*) FROM tenants WHERE display_name = 'New'") == 1


@pytest.mark.parametrize("death", ["given up", "cut off", "broken"])
async def test_a_call_that_dies_after_its_commit_is_answered_by_the_retry(
    databases: Databases, death: str
) -> None:
    """The answer never arrived, so the client asks again, and there must not be a second effect."""
    first: list[Any] = []

    def after_commit(_topic: str) -> None:
        if first:
            call = first.pop()
            if death == "given up":
                call.cancel()
            else:
                raise asyncio.CancelledError if death == "cut off" else RuntimeError(death)

    api = await connect(databases.url, Role.API, DatabaseSettings(), after_commit)
    async with open_rim(databases, api) as rim:
        body = CUSTOMER.SerializeToString()
        call = rim.raw(CREATE_CUSTOMER, body)
        first.append(call)
        code = await call.code()
        assert (
            code
            is {
                "given up": grpc.StatusCode.CANCELLED,
                "cut off": grpc.StatusCode.UNAVAILABLE,
                "broken": grpc.StatusCode.INTERNAL,
            }[death]
        )
        assert await _effects(rim) == (1, 1)
        assert await rim.raw(CREATE_CUSTOMER, body) == await rim.raw(CREATE_CUSTOMER, body)
        assert await _effects(rim) == (1, 1)
    await api.close()


async def _effects(rim: Rim) -> tuple[Any, Any]:
    """Customers and their events, of acme."""
    return (
        await rim.value("SELECT count(*) FROM customers WHERE tenant_id = $1", rim.acme.id),
        await rim.value(
            "SELECT count(*) FROM billing_events"
            " WHERE tenant_id = $1 AND subject = 'customer.created'",
            rim.acme.id,
        ),
    )
