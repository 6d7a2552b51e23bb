"""Keys over their life: rotated with an overlap, used, shown, an operator's; and never in a log."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from datetime import UTC, timedelta
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.tenant.v1 import tenant_service_pb2 as pb

from billing.runtime.db import Connection, DatabaseSettings, Role, connect
from billing.services.keys import Scope
from server.authentication import Authenticator
from tests.cli.test_ops import run
from tests.conftest import Databases
from tests.server.rim import (
    CREATE_KEY,
    CREATE_TENANT,
    GET_CUSTOMER,
    LIST_KEYS,
    REVOKE_KEY,
    Rim,
    open_rim,
)

GET: Final = "/tollway.tenant.v1.TenantService/GetApiKey"
ROTATE: Final = "/tollway.tenant.v1.TenantService/RotateApiKey"
READ: Final = customer_pb.GetCustomerRequest(external_id="UA")
HOUR: Final = timedelta(hours=1)


async def test_a_rotated_key_works_on_for_the_overlap_beside_the_new_one(rim: Rim) -> None:
    await rim.customer("UA")
    old = await make(rim, pb.SCOPE_READ)
    new = await rim.call(ROTATE, rotation(old.api_key.id, HOUR))
    assert new.secret != old.secret
    assert (new.api_key.display_name, list(new.api_key.scopes)) == ("CI", [pb.SCOPE_READ])
    assert not new.api_key.HasField("expire_time")
    assert new.replaced_key.id == old.api_key.id
    ends = new.replaced_key.expire_time.ToDatetime(UTC) - rim.clock.now()
    assert HOUR - timedelta(minutes=1) < ends <= HOUR

    for secret in (old.secret, new.secret):
        await rim.call(GET_CUSTOMER, READ, secret)
    rim.clock.shift += HOUR
    assert (await rim.refused(GET_CUSTOMER, READ, old.secret)).reason == "KEY_INVALID"
    await rim.call(GET_CUSTOMER, READ, new.secret)
    told = await rim.value(
        "SELECT array_agg(resource_version ORDER BY resource_version) FROM billing_events WHERE resource = $1",
        old.api_key.id,
    )
    assert told == [1, 2]


async def test_a_repeated_rotation_makes_one_key_and_an_ended_key_is_not_rotated(rim: Rim) -> None:
    old = await make(rim, pb.SCOPE_READ)
    request = rotation(old.api_key.id, timedelta(), request_id="once")
    first = await rim.call(ROTATE, request)
    assert await rim.call(ROTATE, request) == first
    rim.clock.shift += timedelta(seconds=1)
    refused = await rim.refused(ROTATE, rotation(old.api_key.id, HOUR))
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "KEY_NOT_ACTIVE",
    )
    too_long = await rim.refused(ROTATE, rotation(first.api_key.id, timedelta(days=31)))
    assert list(too_long.fields) == ["overlap"]


async def test_a_rotation_never_makes_the_old_key_live_longer(rim: Rim) -> None:
    made = pb.CreateApiKeyRequest(display_name="CI", scopes=[pb.SCOPE_READ])
    made.expire_time.FromDatetime(rim.clock.now() + HOUR)
    old = await rim.call(CREATE_KEY, made)
    new = await rim.call(ROTATE, rotation(old.api_key.id, 2 * HOUR))
    assert new.replaced_key.expire_time == old.api_key.expire_time
    life = new.api_key.expire_time.ToDatetime(UTC) - new.api_key.create_time.ToDatetime(UTC)
    before = old.api_key.expire_time.ToDatetime(UTC) - old.api_key.create_time.ToDatetime(UTC)
    assert life == before  # as long as the old one was made for


async def test_uses_are_stored_together_at_most_once_a_minute(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    worker = await connect(databases.url, Role.WORKER, DatabaseSettings())
    begin = worker.transaction

    def counted() -> AbstractAsyncContextManager[Connection]:
        commits.append(1)
        return begin()

    monkeypatch.setattr(worker, "transaction", counted)
    async with open_rim(databases) as rim:
        made = [await make(rim, pb.SCOPE_READ) for _ in range(3)]
        authenticator = Authenticator(worker)
        start = rim.clock.now()
        await authenticator.store_uses(start)
        for second in range(60):
            now = start + timedelta(seconds=second)
            for one in made[:2]:
                await authenticator.principal(
                    GET_CUSTOMER, {"authorization": f"Bearer {one.secret}"}, now
                )
            await authenticator.store_uses(now)
        assert commits == []
        await authenticator.store_uses(start + timedelta(minutes=1))
        assert commits == [1]
        await authenticator.store_uses(start + timedelta(minutes=2))
        assert commits == [1]
        shown = [
            (await rim.call(GET, pb.GetApiKeyRequest(api_key_id=one.api_key.id))).api_key
            for one in made
        ]
        assert [key.HasField("last_used_time") for key in shown] == [True, True, False]
        assert shown[0].last_used_time.ToDatetime(UTC) == start + timedelta(seconds=59)
    await worker.close()


async def test_what_was_used_is_stored_when_the_server_stops(databases: Databases) -> None:
    async with open_rim(databases) as rim:
        await rim.customer("UA")
        assert await rim.value("SELECT count(last_used_at) FROM api_keys") == 0
    async with databases.worker.connection() as connection:
        assert await connection.fetchval("SELECT count(last_used_at) FROM api_keys") == 1


async def test_operators_make_rotate_list_and_revoke_operators_keys(rim: Rim) -> None:
    made = await make(rim, pb.SCOPE_OPERATOR, key=rim.operator)
    assert (made.api_key.id[:4], made.api_key.tenant_id) == ("opr_", "")
    named = (("tollway-tenant", rim.acme.name),)
    await rim.customer("UA", made.secret, metadata=named)
    listed = await rim.call(LIST_KEYS, None, made.secret)
    assert [key.display_name for key in listed.api_keys] == ["CI", "operator"]
    new = await rim.call(ROTATE, rotation(made.api_key.id, HOUR), rim.operator)
    revoke = pb.RevokeApiKeyRequest(api_key_id=made.api_key.id)
    await rim.call(REVOKE_KEY, revoke, new.secret)
    rim.clock.shift += timedelta(seconds=2)
    assert (await rim.refused(LIST_KEYS, None, made.secret)).reason == "KEY_INVALID"
    assert await rim.call(GET, pb.GetApiKeyRequest(api_key_id=made.api_key.id), new.secret)

    tenant = pb.CreateTenantRequest(display_name="New", mode=pb.TENANT_MODE_TEST)
    await rim.call(CREATE_TENANT, tenant, new.secret)
    both = pb.CreateApiKeyRequest(display_name="x", scopes=[pb.SCOPE_OPERATOR, pb.SCOPE_READ])
    assert list((await rim.refused(CREATE_KEY, both, rim.operator)).fields) == ["scopes"]


async def test_a_tenants_admin_makes_and_touches_no_operators_key(rim: Rim) -> None:
    made = await make(rim, pb.SCOPE_OPERATOR, key=rim.operator)
    create = pb.CreateApiKeyRequest(display_name="x", scopes=[pb.SCOPE_OPERATOR])
    calls: list[tuple[str, Any]] = [
        (CREATE_KEY, create),
        (GET, pb.GetApiKeyRequest(api_key_id=made.api_key.id)),
        (ROTATE, rotation(made.api_key.id, HOUR)),
        (REVOKE_KEY, pb.RevokeApiKeyRequest(api_key_id=made.api_key.id)),
    ]
    for method, request in calls:
        assert (await rim.refused(method, request)).reason == "OPERATOR_REQUIRED", method
    # By the prefix of a tenant's key, the id of an operator's is nobody's.
    disguised = "key_" + made.api_key.id.removeprefix("opr_")
    refused = await rim.refused(GET, pb.GetApiKeyRequest(api_key_id=disguised))
    assert refused.reason == "KEY_NOT_FOUND"


async def test_no_key_is_ever_logged(rim: Rim, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [rim.operator, *rim.acme.keys.values()]
    made = await make(rim, pb.SCOPE_READ)
    rotated = await rim.call(ROTATE, rotation(made.api_key.id, HOUR))
    secrets += [made.secret, rotated.secret, "twk_" + "B" * 43]
    for secret in secrets:
        for method in (GET_CUSTOMER, LIST_KEYS, CREATE_KEY):
            with pytest.raises(grpc.aio.AioRpcError):
                await rim.raw(method, b"\xff", secret)
    async with rim.owner() as owner:  # what is unexpected is logged with its stack
        await owner.execute("ALTER TABLE customers RENAME TO gone")
    refused = await rim.refused(GET_CUSTOMER, READ, made.secret)
    assert refused.reason == "INTERNAL"
    assert refused.metadata["reference_id"] in caplog.text
    assert [secret for secret in secrets if secret in caplog.text] == []


async def test_a_key_lives_its_life_at_a_terminal(rim: Rim) -> None:
    made = words(await keys(rim, "create", "--name", "CI", "--scope", "read"))
    rotated = words(await keys(rim, "rotate", made["key"], "--overlap-hours", "2"))
    assert rotated["secret"] != made["secret"]
    shown = await keys(rim, "show", rotated["key"])
    assert "state      active" in shown
    assert "last used  never" in shown
    assert "revoked" in await keys(rim, "revoke", made["key"])
    listed = (await keys(rim, "list")).splitlines()
    assert any(made["key"] in line and "revoked" in line for line in listed)
    assert any(rotated["key"] in line and "active" in line for line in listed)
    operators = words(await keys(rim, "create", "--operator", key=rim.operator))
    assert operators["key"].startswith("opr_")


async def make(rim: Rim, scope: Any, key: str = "") -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(display_name="CI", scopes=[scope])
    made: pb.CreateApiKeyResponse = await rim.call(CREATE_KEY, request, key)
    return made


def rotation(key_id: str, overlap: timedelta, request_id: str = "") -> pb.RotateApiKeyRequest:
    duration = Duration()
    duration.FromTimedelta(overlap)
    return pb.RotateApiKeyRequest(api_key_id=key_id, overlap=duration, request_id=request_id)


async def keys(rim: Rim, *arguments: str, key: str = "") -> str:
    """What `tollway keys …` prints."""
    result = await run(
        "keys",
        *arguments,
        TOLLWAY_ADDRESS=f"127.0.0.1:{rim.server.port}",
        TOLLWAY_API_KEY=key or rim.acme.keys[Scope.ADMIN],
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def words(printed: str) -> dict[str, str]:
    """The lines that have a name and a value."""
    return dict(line.split() for line in printed.splitlines() if len(line.split()) == 2)
