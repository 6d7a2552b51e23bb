"""API keys: a secret is shown once, found by its hash, and stops when it should."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queries.models import ApiKey
from tollway.event.v1 import event_pb2
from tollway.tenant.v1 import tenant_events_pb2, tenant_service_pb2

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services import keys
from billing.services.actor import Cause
from billing.services.keys import KeyInvalid, KeyNotFound, NewKey, Principal, Scope, ScopeMissing
from tests.conftest import Databases
from tests.driver import Driver, house_of

RANKS = (Scope.READ, Scope.WRITE, Scope.ADMIN)


@pytest.fixture
async def house(databases: Databases) -> Driver:
    return await house_of(databases)


async def test_a_new_key_is_known_by_its_secret_and_by_nothing_else(house: Driver) -> None:
    key, secret = await _create(house, NewKey("CI", (Scope.WRITE, Scope.READ, Scope.READ)))
    assert key.scopes == ["read", "write"]
    assert key.secret_hash == keys.hash_secret(secret)
    assert len(secret) == keys.SECRET_LENGTH
    async with house.databases.worker.connection() as connection:
        found = await keys.authenticate(connection, secret, now=house.now)
        assert found == Principal(
            key.id, house.tenant_id, frozenset({Scope.READ, Scope.WRITE}), None
        )
        for wrong in (secret[:-1], secret + "A", secret.swapcase(), secret.upper(), ""):
            with pytest.raises(KeyInvalid):
                await keys.authenticate(connection, wrong, now=house.now)


async def test_a_key_works_until_the_instant_it_expires(house: Driver) -> None:
    end = house.now + timedelta(minutes=5)
    _, secret = await _create(house, NewKey("CI", (Scope.READ,), end))
    async with house.databases.worker.connection() as connection:
        before = end - timedelta(microseconds=1)
        assert (await keys.authenticate(connection, secret, now=before)).expires_at == end
        with pytest.raises(KeyInvalid):
            await keys.authenticate(connection, secret, now=end)


async def test_a_key_that_is_expired_already_is_not_made(house: Driver) -> None:
    with pytest.raises(Invalid) as raised:
        await _create(house, NewKey("CI", (Scope.READ,), house.now - timedelta(seconds=1)))
    assert [violation.path for violation in raised.value.violations] == ["expire_time"]


async def test_a_key_is_revoked_once_and_a_second_time_changes_nothing(house: Driver) -> None:
    key, secret = await _create(house, NewKey("CI", (Scope.READ,)))
    first = await _revoke(house, key.id)
    again = await _revoke(house, key.id)
    assert first.revoked_at is not None
    assert again == first
    assert first.version == key.version + 1
    async with house.databases.worker.connection() as connection:
        with pytest.raises(KeyInvalid):
            await keys.authenticate(connection, secret, now=house.now)
    assert await _subjects(house) == ["api_key.created", "api_key.revoked"]


async def test_a_key_of_nobody_or_of_another_tenant_is_not_found(house: Driver) -> None:
    other = await house_of(house.databases)
    key, _ = await _create(other, NewKey("CI", (Scope.READ,)))
    for identity in (key.id, new_id(house.now)):
        with pytest.raises(KeyNotFound):
            await _revoke(house, identity)
    assert await house.value("SELECT count(*) FROM api_keys WHERE revoked_at IS NOT NULL") == 0


async def test_the_event_of_a_key_tells_its_scopes_and_not_its_secret(house: Driver) -> None:
    key, secret = await _create(house, NewKey("CI", (Scope.ADMIN,)))
    envelope = await house.value(
        "SELECT envelope FROM billing_events WHERE subject = 'api_key.created'"
    )
    payload = tenant_events_pb2.ApiKeyCreated()
    assert event_pb2.Event.FromString(envelope).data.Unpack(payload)
    assert payload.api_key_id == encode(Prefix.API_KEY, key.id)
    assert list(payload.scopes) == [tenant_service_pb2.SCOPE_ADMIN]
    assert secret.encode() not in envelope


async def test_an_operators_key_belongs_to_no_tenant_and_tells_nobody(house: Driver) -> None:
    async with house.databases.worker.transaction() as tx:
        key, secret = await keys.create_operator_key(tx, "on call", now=house.now)
        principal = await keys.authenticate(tx, secret, now=house.now)
    assert (key.tenant_id, principal.tenant_id) == (None, None)
    assert principal.is_operator
    assert principal.actor == encode(Prefix.OPERATOR_KEY, key.id)
    assert await _subjects(house) == []


async def test_keys_are_listed_newest_first_from_where_the_last_page_ended(house: Driver) -> None:
    made = [(await _create(house, NewKey(str(n), (Scope.READ,))))[0].id for n in range(5)]
    async with house.databases.api.transaction(house.tenant_id) as tx:
        first = await keys.list_keys(tx, house.tenant_id, before=None, limit=3)
        rest = await keys.list_keys(tx, house.tenant_id, before=first[-1].id, limit=3)
    assert [key.id for key in (*first, *rest)] == made[::-1]


@given(st.frozensets(st.sampled_from(RANKS)), st.sampled_from(RANKS))
def test_each_scope_includes_those_before_it(held: frozenset[Scope], needed: Scope) -> None:
    principal = Principal(UUID(int=1), None, held)
    enough = any(RANKS.index(scope) >= RANKS.index(needed) for scope in held)
    if enough:
        principal.require(needed)
    else:
        with pytest.raises(ScopeMissing) as raised:
            principal.require(needed)
        assert raised.value.metadata == {"scope": needed.value}


def test_secrets_have_one_length_and_never_repeat() -> None:
    made = {keys.new_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(secret) for secret in made} == {keys.SECRET_LENGTH}
    assert all(secret.startswith(keys.SECRET_PREFIX) for secret in made)


async def _create(house: Driver, draft: NewKey) -> tuple[ApiKey, str]:
    async with house.databases.worker.transaction() as tx:
        return await keys.create_key(tx, house.tenant_id, draft, house.cause(), now=house.now)


async def _revoke(house: Driver, identity: UUID) -> ApiKey:
    async with house.databases.worker.transaction() as tx:
        cause = Cause("opr_test", new_id(house.now))
        return await keys.revoke_key(tx, house.tenant_id, identity, cause, now=house.now)


async def _subjects(house: Driver) -> list[str]:
    rows = await house.rows(
        "SELECT subject FROM billing_events WHERE subject LIKE 'api_key.%' AND tenant_id = $1"
        " ORDER BY id",
        house.tenant_id,
    )
    return [row["subject"] for row in rows]
