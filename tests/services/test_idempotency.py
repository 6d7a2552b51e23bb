"""A request id is kept with its answer in the transaction of the effect, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from billing.runtime.ids import new_id
from billing.runtime.vault import Vault, VaultError
from billing.services.idempotency import RequestIdReused, RequestInProgress, RequestKey, once
from tests.conftest import Databases
from tests.driver import Driver, house_of


class Undone(Exception):
    """Ends a transaction on purpose."""


class Work:
    """Counts how often it was really done, and answers with the count."""

    def __init__(self) -> None:
        self.done = 0

    async def __call__(self) -> bytes:
        self.done += 1
        return b"answer %d" % self.done


@pytest.fixture
async def house(databases: Databases) -> Driver:
    return await house_of(databases)


@pytest.fixture
def key(house: Driver) -> RequestKey:
    return RequestKey(house.tenant_id, new_id(house.now), "/x/Y", "req-1", b"body")


async def ask(house: Driver, key: RequestKey, work: Work, vault: Vault | None = None) -> bytes:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        return await once(tx, key, work, now=house.now, vault=vault)


async def test_the_work_is_done_once_and_its_answer_is_given_again(
    house: Driver, key: RequestKey
) -> None:
    work = Work()
    assert [await ask(house, key, work) for _ in range(3)] == [b"answer 1"] * 3
    assert work.done == 1


async def test_another_method_key_or_id_is_another_request(house: Driver, key: RequestKey) -> None:
    work = Work()
    others = (
        key,
        replace(key, method="/x/Z"),
        replace(key, request_id="req-2"),
        replace(key, principal=new_id(house.now)),
    )
    assert len({await ask(house, other, work) for other in others}) == len(others)


async def test_another_body_under_the_same_id_is_refused(house: Driver, key: RequestKey) -> None:
    work = Work()
    await ask(house, key, work)
    with pytest.raises(RequestIdReused) as raised:
        await ask(house, replace(key, body=b"bodY"), work)
    assert raised.value.metadata == {"request_id": "req-1"}
    assert work.done == 1


async def test_a_rolled_back_request_is_as_if_it_had_never_been(
    house: Driver, key: RequestKey
) -> None:
    work = Work()
    with pytest.raises(Undone):
        async with house.databases.api.transaction(house.tenant_id) as tx:
            await once(tx, key, work, now=house.now)
            raise Undone
    assert await house.value("SELECT count(*) FROM idempotent_requests") == 0
    assert await ask(house, replace(key, body=b"other"), work) == b"answer 2"


async def test_a_twin_waits_for_the_first_and_takes_its_answer(
    house: Driver, key: RequestKey
) -> None:
    work = Work()
    async with house.databases.api.transaction(house.tenant_id) as tx:
        first = await once(tx, key, work, now=house.now)
        twin = asyncio.create_task(ask(house, key, work))
        await _someone_waits(house)
    assert await twin == first
    assert work.done == 1


async def test_a_twin_of_one_that_fails_does_the_work_itself(
    house: Driver, key: RequestKey
) -> None:
    work = Work()
    with pytest.raises(Undone):
        async with house.databases.api.transaction(house.tenant_id) as tx:
            await once(tx, key, work, now=house.now)
            twin = asyncio.create_task(ask(house, key, work))
            await _someone_waits(house)
            raise Undone
    assert await twin == b"answer 2"


async def test_a_twin_that_waits_too_long_is_told_to_come_again(
    house: Driver, key: RequestKey
) -> None:
    work = Work()
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await once(tx, key, work, now=house.now)
        with pytest.raises(RequestInProgress) as raised:
            async with house.databases.api.transaction(
                house.tenant_id, lock_timeout_s=0.01
            ) as second:
                await once(second, key, work, now=house.now)
    assert raised.value.retry_after_s == 1


async def test_an_answer_with_a_secret_is_stored_encrypted(house: Driver, key: RequestKey) -> None:
    work, vault = Work(), Vault(bytes(32))
    assert await ask(house, key, work, vault) == b"answer 1"
    stored = await house.value("SELECT answer FROM idempotent_requests")
    assert b"answer" not in stored
    assert await ask(house, key, work, vault) == b"answer 1"
    with pytest.raises(VaultError):
        await ask(house, key, work, Vault(bytes(31) + b"x"))


async def test_an_empty_answer_is_an_answer(house: Driver, key: RequestKey) -> None:
    async def nothing() -> bytes:
        return b""

    for _ in range(2):
        async with house.databases.api.transaction(house.tenant_id) as tx:
            assert await once(tx, key, nothing, now=house.now) == b""


async def _someone_waits(house: Driver) -> None:
    owner = await asyncpg.connect(house.databases.url)  # only the owner sees what others wait for
    try:
        async with asyncio.timeout(20):
            while not await owner.fetchval(  # noqa: ASYNC110 - nothing but the database can tell
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.005)
    finally:
        await owner.close()
