"""Webhook path under faults: senders that die, come back, or are cut off from the database, lose and hide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import asyncpg
import pytest

from billing.domain.backoff import WEBHOOK_ATTEMPTS_MAX
from billing.domain.signature import Secret
from billing.services import webhook_deliveries
from billing.services.leases import Lease
from billing.services.webhook_deliveries import Attempt, Claimed, Outcome
from tests.conftest import Databases
from tests.webhook_world import USUAL, WebhookWorld, hang, send_all, webhook_world


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


END_WAITING_SESSIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


async def expire_leases(world: WebhookWorld) -> None:
    """What time does to the leases and the membership of a process that was killed."""
    await world.rows("UPDATE leases SET expires_at = now() - interval '1 second'")
    await world.rows("DELETE FROM lease_members")


async def kill_while_posting(world: WebhookWorld, path: str) -> None:
    """A sender that has committed its claim, has posted, and dies before it knows the answer."""

    async def live() -> None:
        async with world.sender() as sender:
            while True:
                await sender.step()
                await asyncio.sleep(0)

    life = asyncio.create_task(live())
    await world.receiver.arrived(path)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    await expire_leases(world)


async def test_what_a_killed_sender_had_posted_is_lost_and_posted_again_by_the_next(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", answer=hang)
    [event_id] = await world.deliverable()
    await kill_while_posting(world, "/hook")
    [before] = await world.rows("SELECT * FROM webhook_deliveries")
    assert (before["status"], before["attempts"]) == ("pending", 1)
    assert before["due_at"] > world.databases.clock.now() + timedelta(seconds=30)

    del world.receiver.answers["/hook"]
    async with world.sender() as sender:
        assert await send_all(sender) == 1
    assert world.receiver.ids("/hook") == [event_id, event_id]
    assert [(a["attempt_number"], a["outcome"]) for a in await world.attempts()] == [
        (1, "lost"),
        (2, "delivered"),
    ]
    assert await world.statuses() == {"delivered": 1}
    assert not await world.rows("SELECT 1 FROM webhook_claims")
    await world.check_balance()


async def test_a_sender_killed_at_its_last_attempt_leaves_a_dead_delivery(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", answer=hang)
    await world.deliverable()
    await world.rows("UPDATE webhook_deliveries SET attempts = $1", WEBHOOK_ATTEMPTS_MAX - 1)
    await kill_while_posting(world, "/hook")
    async with world.sender() as sender:
        assert await send_all(sender) == 0
    assert await world.statuses() == {"dead": 1}
    [dead] = await world.rows("SELECT attempts, last_error FROM webhook_dlq")
    assert tuple(dead) == (WEBHOOK_ATTEMPTS_MAX, webhook_deliveries.LOST)
    await world.check_balance()


async def leases_of(world: WebhookWorld) -> list[Lease]:
    keeper = world.keeper()
    await keeper.step()
    return keeper.usable()


async def claim(world: WebhookWorld, leases: Sequence[Lease], count: int = 1) -> list[Claimed]:
    [row] = await world.rows("SELECT id FROM webhooks")
    async with world.databases.worker.connection() as connection:
        return await webhook_deliveries.claim(
            connection,
            leases,
            rooms={row["id"]: count},
            now=world.databases.clock.now(),
            claim_lease_s=USUAL.claim_lease_s,
        )


async def record(world: WebhookWorld, claimed: Claimed, outcome: Outcome) -> int:
    now = world.databases.clock.now()
    attempt = Attempt(claimed, outcome, now, 7, 0, response_status=200, error="")
    async with world.databases.worker.connection() as connection:
        return await webhook_deliveries.record(connection, [attempt], [claimed.claim_id], now=now)


async def recover(world: WebhookWorld, leases: Sequence[Lease]) -> int:
    async with world.databases.worker.transaction() as connection:
        recovered = await webhook_deliveries.recover(
            connection, leases, now=world.databases.clock.now()
        )
    return recovered.deliveries


async def test_a_zombie_claims_nothing_under_its_old_term(world: WebhookWorld) -> None:
    await world.endpoint("/hook")
    await world.deliverable()
    old = await leases_of(world)
    await expire_leases(world)
    new = await leases_of(world)
    assert not await claim(world, old)
    assert len(await claim(world, new)) == 1


async def test_a_zombies_result_corrects_its_own_attempt_and_moves_nothing_claimed_since(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook")
    await world.deliverable()
    [zombies] = await claim(world, await leases_of(world))
    await expire_leases(world)
    new = await leases_of(world)
    assert await recover(world, new) == 1
    [ours] = await claim(world, new)
    assert (zombies.attempt_number, ours.attempt_number) == (1, 2)

    assert await record(world, zombies, Outcome.REFUSED) == 0
    assert await world.statuses() == {"pending": 1}
    assert await record(world, ours, Outcome.DELIVERED) == 1
    assert await record(world, zombies, Outcome.FAILED) == 0
    assert await world.statuses() == {"delivered": 1}
    assert [a["outcome"] for a in await world.attempts()] == ["refused", "delivered"]
    await world.check_balance()


async def test_a_zombies_success_before_the_next_claim_spares_the_second_post(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook")
    await world.deliverable()
    [zombies] = await claim(world, await leases_of(world))
    await expire_leases(world)
    new = await leases_of(world)
    await recover(world, new)
    assert await record(world, zombies, Outcome.DELIVERED) == 1
    assert not await claim(world, new)
    assert await world.statuses() == {"delivered": 1}


async def test_results_of_a_claim_that_never_came_are_lost_when_it_has_run_out(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook")
    await world.deliverable(3)
    leases = await leases_of(world)
    claimed = await claim(world, leases, 3)
    assert len(claimed) == 3
    now = world.databases.clock.now()
    async with world.databases.worker.connection() as connection:
        attempt = Attempt(claimed[0], Outcome.DELIVERED, now, 1, 0)
        await webhook_deliveries.record(connection, [attempt], [], now=now)
    assert await recover(world, leases) == 0
    await world.rows("UPDATE webhook_claims SET expires_at = now() - interval '1 second'")
    assert await recover(world, leases) == 2
    assert sorted(a["outcome"] for a in await world.attempts()) == ["delivered", "lost", "lost"]
    assert len(await claim(world, leases, 3)) == 2
    await world.check_balance()


async def test_results_whose_commit_is_cut_off_are_kept_and_committed(world: WebhookWorld) -> None:
    await world.endpoint("/hook")
    owner = await asyncpg.connect(world.databases.url)
    async with world.sender() as sender:
        await sender.step()
        await world.deliverable(5)
        hold = owner.transaction()
        await hold.start()
        await owner.execute("LOCK TABLE webhook_delivery_attempts IN EXCLUSIVE MODE")
        assert await sender.step() == 1
        # The commit waits for the lock; its session is ended there, as by a server that stops.
        while not await owner.fetchval(END_WAITING_SESSIONS):  # noqa: ASYNC110 - PostgreSQL has no such event
            await asyncio.sleep(0)
        await hold.rollback()
        await sender.settled()
        assert await send_all(sender) == 4
    await owner.close()
    assert len(world.receiver.got) == len(await world.attempts()) == 5
    assert await world.statuses() == {"delivered": 5}
    await world.check_balance()


async def test_a_secret_that_cannot_be_read_harms_only_its_own_endpoint(
    world: WebhookWorld,
) -> None:
    broken = await world.endpoint("/broken")
    await world.endpoint("/hook")
    await world.rows(
        "UPDATE webhook_secrets SET ciphertext = $1 WHERE webhook_id = $2",
        Secret(b"x" * 32).key,
        broken.id,
    )
    await world.deliverable()
    async with world.sender() as sender:
        assert await send_all(sender) == 2
    assert [path for path, _, _ in world.receiver.got] == ["/hook"]
    assert await world.statuses() == {"delivered": 1, "pending": 1}
    [error] = [a["error"] for a in await world.attempts() if a["outcome"] == "failed"]
    assert error.startswith("not_sent")
