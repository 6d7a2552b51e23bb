"""`tollway ops` and `tollway migrate shards` as an operator meets them: tables, and one line for what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from cli.main import tollway
from tests.conftest import Databases
from tests.server.rim import Rim, open_rim


@pytest.fixture
async def rim(databases: Databases) -> AsyncIterator[Rim]:
    """A server with an operator's key."""
    async with open_rim(databases) as opened:
        yield opened


async def run(*arguments: str, **environment: str) -> Result:
    """A command, in a thread of its own: it brings its own event loop."""
    runner = CliRunner(env={"COLUMNS": "200", **environment})
    return await asyncio.to_thread(runner.invoke, tollway, list(arguments))


async def ops(rim: Rim, *arguments: str) -> str:
    """The output of a command that must succeed."""
    result = await run(
        "ops",
        *arguments,
        TOLLWAY_ADDRESS=f"127.0.0.1:{rim.server.port}",
        TOLLWAY_API_KEY=rim.operator,
    )
    assert result.exit_code == 0, result.output
    return result.output


async def test_an_operator_pauses_sees_why_it_waits_and_resumes(rim: Rim) -> None:
    event = new_id(rim.clock.now())
    async with rim.owner() as owner:
        await owner.execute("INSERT INTO router_positions (partition) VALUES (0)")
        await owner.execute(
            "INSERT INTO router_waiting (consumer, resource, resource_version, event_id, tenant_id, partition, subject,"
            " next_attempt_at, parked_at) VALUES ('invoice', 'cyc_1', 1, $1, $2, 0, 'billing.cycle.closed', now(),"
            " now() - interval '90 minutes')",
            event,
            rim.acme.id,
        )
    paused = await ops(rim, "pause", "--consumer", "invoice", "--reason", "wrong rates")
    assert paused == "paused: consumer invoice\n"
    waiting = await ops(rim, "waiting")
    assert encode(Prefix.EVENT, event) in waiting
    assert "paused" in waiting
    assert "1h 30m" in waiting
    status = await ops(rim, "status")
    assert "router.waiting" in status
    assert "wrong rates" in status
    lag = await ops(rim, "lag")
    assert "unknown" in lag  # there is no bus to ask
    assert "invoice" in lag
    resumed = await ops(rim, "resume", "--consumer", "invoice", "--reason", "mended")
    assert resumed == "resumed: consumer invoice\n"
    assert "being resumed" in await ops(rim, "status")


@pytest.mark.parametrize("targets", [(), ("--shard", "1", "--consumer", "feed")])
async def test_exactly_one_thing_is_paused_at_a_time(rim: Rim, targets: tuple[str, ...]) -> None:
    refused = await run("ops", "pause", *targets, "--reason", "?", TOLLWAY_API_KEY=rim.operator)
    assert refused.exit_code == 2
    assert "exactly one of --shard, --consumer and --paused-tenant" in refused.output


async def test_the_shard_count_is_not_changed_while_events_wait(
    rim: Rim, databases: Databases, nats_url: str
) -> None:
    refused = await run(
        "migrate", "shards", "32", TOLLWAY_DATABASE_URL=databases.url, TOLLWAY_BUS_URL=nats_url
    )
    assert refused.exit_code == 1
    assert "events wait to be published: stop what emits" in refused.output
    assert await rim.value("SELECT shards FROM topology") == 16
