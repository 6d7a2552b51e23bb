"""`tollway usage …` against a real server: each command says what the call answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from billing.domain.ids import Prefix, encode
from cli.commands.usage import command
from tests.conftest import Databases
from tests.services.test_usage_fold_revisions import fold_until_done
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world

DAY = timedelta(days=1)


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


async def tollway(client: Client, *words: str) -> Result:
    server = ["--address", f"127.0.0.1:{client.port}", "--key", client.key]
    name, *rest = words
    return await asyncio.to_thread(
        CliRunner().invoke, command, [name, *server, *rest], env={"COLUMNS": "200"}
    )


async def test_a_record_is_made_shown_corrected_listed_and_voided(
    world: World, client: Client
) -> None:
    sub = await world.served()
    use = ("record", "a", "--meter", "minutes", "--customer", "UA", "--quantity", "5")
    first = await tollway(client, *use, "--property", "route=EWR")
    assert first.output.startswith("accepted bat_"), first.exception
    other = await tollway(client, *use[:-1], "6")
    assert other.exit_code == 1
    assert "conflict: Another record has this key" in other.output
    await fold_until_done(world)
    made = await tollway(client, "amend", "a", "--quantity", "7", "--note", "read again")
    assert made.output == "revision 1: 7\n"
    await fold_until_done(world)
    shown = await tollway(client, "get", "a")
    assert "superseded" in shown.output
    assert "read again" in shown.output
    listed = await tollway(client, "list", "--customer", "UA", "--state", "assigned", "--json")
    (row,) = json.loads(listed.output)["records"]
    assert (row["quantity"], row["subscription_id"]) == ("7", world.subscription_text(sub))
    since = (world.now - DAY).isoformat()
    summary = await tollway(
        client, "summarize", "--customer", "UA", "--meter", "minutes", "--since", since
    )
    assert summary.output.rstrip().endswith("7")
    assert (await tollway(client, "void", "a")).output == "revision 2: voided\n"
    nothing = await tollway(client, "amend", "a")
    assert nothing.exit_code == 1


async def test_usage_is_recorded_at_the_test_clocks_now_for_a_customer_by_either_id(
    world: World, client: Client
) -> None:
    await world.served()
    start = world.now + 2 * DAY
    async with world.databases.worker.transaction() as tx:
        await tx.execute("UPDATE tenants SET mode = 'test' WHERE id = $1", world.tenant_id)
        await tx.execute(
            "INSERT INTO test_clocks (tenant_id, business_time, target_time, status, created_at)"
            " VALUES ($1, $2, $2, 'ready', $3)",
            world.tenant_id,
            start,
            world.now,
        )
    customer = encode(Prefix.CUSTOMER, world.customers["UA"])
    use = ("record", "a", "--meter", "minutes", "--customer", customer, "--quantity", "5")
    assert (await tollway(client, *use)).output.startswith("accepted bat_")
    assert await world.value("SELECT used_at FROM usage_records") == start
    await fold_until_done(world)
    since = (start - DAY).isoformat()
    summary = await tollway(
        client, "summarize", "--customer", customer, "--meter", "minutes", "--since", since
    )
    assert summary.output.rstrip().endswith("5"), summary.output


async def test_unassigned_usage_is_shown_and_assigned(world: World, client: Client) -> None:
    await world.record({"key": "a"}, {"key": "b"})
    await world.fold()
    shown = await tollway(client, "unassigned")
    assert shown.output.splitlines()[1].split()[:4] == ["UA", "minutes", "2", "2"]
    sub = await world.served()
    assigned = await tollway(client, "assign", world.subscription_text(sub))
    assert assigned.output == "2 records are on their way\n"


async def test_an_import_under_a_backfill_can_be_listed(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "old.csv"
    old = (world.now - 60 * DAY).isoformat()
    file.write_text(f"id,at,calls\na,{old},1\nb,{old},2\n")
    words = ["--map=idempotency_key=id", "--map=timestamp=at", "--map=quantity=calls"]
    words += ["--set=meter=minutes", "--set=customer=UA", "--backfill=2012"]
    for accepted in (2, 0):
        done = await tollway(client, "import", str(file), *words)
        assert f"{accepted} accepted" in done.output, done.output
    job = await world.value("SELECT count(*) FROM usage_backfills WHERE name = '2012'")
    assert job == 1
    assert await world.value("SELECT sum(records) FROM usage_backfill_batches") == 2
