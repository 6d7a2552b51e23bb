"""Whose key it is: what is no key, no longer one, or an operator's."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.ids import new_id
from billing.services.keys import SECRET_LENGTH, Scope
from tests.server.rim import CREATE_CUSTOMER, CREATE_KEY, GET_CUSTOMER, LIST_KEYS, REVOKE_KEY, Rim

READ = customer_pb.GetCustomerRequest(external_id="UA")


async def test_a_call_without_a_key_is_told_how_to_send_one(rim: Rim) -> None:
    refused = await rim.refused(GET_CUSTOMER, READ, key=None)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_MISSING")
    assert "authorization: Bearer" in refused.message


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "twk_" + "A" * 43,
        "Bearer twk_" + "A" * 43,  # well-formed and unknown
        "Bearer twk_",
        "Bearer " + "A" * 47,
        "Bearer twk_" + "A" * 6000,
        "Bearer twk_' OR 1=1 --",
    ],
)
async def test_what_is_no_key_of_ours_is_refused(rim: Rim, authorization: str) -> None:
    refused = await rim.refused(
        GET_CUSTOMER, READ, key=None, metadata=(("authorization", authorization),)
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_INVALID")
    assert "AAAA" not in refused.message


async def test_bearer_is_read_in_any_case_and_binary_metadata_does_no_harm(rim: Rim) -> None:
    await rim.customer("UA")
    for kind in ("bearer", "BEARER", "Bearer "):
        metadata = (
            ("authorization", f"{kind} {rim.acme.keys[Scope.READ]}"),
            ("something-bin", b"\x00\xff"),
        )
        answer = await rim.call(GET_CUSTOMER, READ, key=None, metadata=metadata)
        assert answer.customer.external_id == "UA"


async def test_a_revoked_key_is_refused_within_the_time_of_the_cache(rim: Rim) -> None:
    await rim.customer("UA")
    made = await rim.call(
        CREATE_KEY, tenant_pb.CreateApiKeyRequest(display_name="CI", scopes=[tenant_pb.SCOPE_READ])
    )
    await rim.call(GET_CUSTOMER, READ, made.secret)
    await rim.call(REVOKE_KEY, tenant_pb.RevokeApiKeyRequest(api_key_id=made.api_key.id))
    rim.clock.shift += timedelta(seconds=2)
    assert (await rim.refused(GET_CUSTOMER, READ, made.secret)).reason == "KEY_INVALID"


async def test_an_expired_key_is_refused_at_once_though_it_is_remembered(rim: Rim) -> None:
    await rim.customer("UA")
    request = tenant_pb.CreateApiKeyRequest(display_name="CI", scopes=[tenant_pb.SCOPE_READ])
    request.expire_time.FromDatetime(rim.clock.now() + timedelta(seconds=30))
    made = await rim.call(CREATE_KEY, request)
    rim.clock.shift += timedelta(seconds=29)
    await rim.call(GET_CUSTOMER, READ, made.secret)
    rim.clock.shift += timedelta(seconds=1.5)
    assert (await rim.refused(GET_CUSTOMER, READ, made.secret)).reason == "KEY_INVALID"


async def test_a_key_that_would_be_dead_on_arrival_is_not_made(rim: Rim) -> None:
    request = tenant_pb.CreateApiKeyRequest(display_name="CI", scopes=[tenant_pb.SCOPE_READ])
    request.expire_time.FromDatetime(rim.clock.now() - timedelta(seconds=1))
    refused = await rim.refused(CREATE_KEY, request)
    assert (refused.reason, list(refused.fields)) == ("INVALID_ARGUMENT", ["expire_time"])


async def test_an_operator_names_the_tenant_it_acts_for(rim: Rim) -> None:
    refused = await rim.refused(GET_CUSTOMER, READ, rim.operator)
    assert (refused.reason, list(refused.fields)) == ("INVALID_ARGUMENT", ["tollway-tenant"])
    metadata = (("tollway-tenant", rim.acme.name),)
    made = await rim.customer("UA", rim.operator, metadata=metadata)
    read = await rim.call(GET_CUSTOMER, READ, rim.operator, metadata=metadata)
    assert read.customer == made
    actor = await rim.value("SELECT tenant_id FROM customers WHERE id = $1", _uuid(made.id))
    assert actor == rim.acme.id


async def test_an_operator_who_names_no_tenant_of_ours_is_told_so(rim: Rim) -> None:
    refused = await rim.refused(
        GET_CUSTOMER, READ, rim.operator, metadata=(("tollway-tenant", "acme"),)
    )
    assert (refused.reason, list(refused.fields)) == ("INVALID_ID", ["tollway-tenant"])
    nobody = encode(Prefix.TENANT, new_id(rim.clock.now()))
    request = customer_pb.CreateCustomerRequest(display_name="x", time_zone="UTC")
    refused = await rim.refused(
        CREATE_CUSTOMER, request, rim.operator, metadata=(("tollway-tenant", nobody),)
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")


async def test_a_tenants_key_stays_its_own_whatever_tenant_the_metadata_names(rim: Rim) -> None:
    metadata = (("tollway-tenant", rim.other.name),)
    made = await rim.customer("UA", metadata=metadata)
    owner = await rim.value("SELECT tenant_id FROM customers WHERE id = $1", _uuid(made.id))
    assert owner == rim.acme.id


async def test_a_tenants_admin_manages_its_own_keys_only(rim: Rim) -> None:
    nobody = encode(Prefix.TENANT, new_id(rim.clock.now()))
    for tenant in (rim.other.name, nobody):  # the answer does not tell which of them exists
        refused = await rim.refused(LIST_KEYS, tenant_pb.ListApiKeysRequest(tenant_id=tenant))
        assert refused.reason == "OPERATOR_REQUIRED"
    listed = await rim.call(
        LIST_KEYS, tenant_pb.ListApiKeysRequest(tenant_id=rim.other.name), rim.operator
    )
    assert [key.display_name for key in listed.api_keys] == ["admin", "write", "read"]
    missing = await rim.refused(
        LIST_KEYS, tenant_pb.ListApiKeysRequest(tenant_id=nobody), rim.operator
    )
    assert missing.reason == "TENANT_NOT_FOUND"


async def test_a_key_is_shown_once_and_kept_as_its_hash(rim: Rim) -> None:
    made = await rim.call(
        CREATE_KEY, tenant_pb.CreateApiKeyRequest(display_name="CI", scopes=[tenant_pb.SCOPE_READ])
    )
    assert len(made.secret) == SECRET_LENGTH
    async with rim.owner() as owner:
        tables = await owner.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
        for table in tables:
            # As text and as the hexadecimal digits of bytea.
            found = await owner.fetchval(
                f"SELECT count(*) FROM {table['name']} t WHERE t::text LIKE ANY ($1)",
                [f"%{made.secret}%", f"%{made.secret.encode().hex()}%"],
            )
            assert found == 0, table["name"]


def _uuid(text: str) -> object:
    return decode(Prefix.CUSTOMER, text)
