"""Every path: a commit wakes those whom it has something for, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from billing.runtime import hints
from billing.runtime.db import Database, DatabaseSettings, Role, connect
from tests.conftest import Databases


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def database(databases: Databases, told: list[str]) -> AsyncIterator[Database]:
    """A pool that tells `told` of its hints."""
    database = await connect(databases.url, Role.WORKER, DatabaseSettings(), told.append)
    yield database
    await database.close()


async def test_a_commit_tells_each_topic_once_and_after_the_commit(
    database: Database, told: list[str]
) -> None:
    async with database.transaction():
        hints.wake(hints.OUTBOX)
        hints.wake(hints.OUTBOX)
        await asyncio.gather(_wake_in_a_task())
        assert told == []

    assert sorted(told) == sorted([hints.OUTBOX, hints.DELIVERIES])


async def test_what_writes_nothing_of_the_kind_or_rolls_back_wakes_nobody(
    database: Database, told: list[str]
) -> None:
    async with database.transaction():
        pass
    with pytest.raises(LookupError):
        async with database.transaction():
            hints.wake(hints.OUTBOX)
            raise LookupError
    hints.wake(hints.OUTBOX)
    async with database.transaction():
        pass

    assert told == []


async def test_a_transaction_within_anothers_block_tells_its_own(
    database: Database, told: list[str]
) -> None:
    async with database.transaction():
        async with database.transaction():
            hints.wake(hints.DELIVERIES)
        assert told == [hints.DELIVERIES]
        hints.wake(hints.OUTBOX)

    assert told == [hints.DELIVERIES, hints.OUTBOX]


async def _wake_in_a_task() -> None:
    hints.wake(hints.DELIVERIES)
