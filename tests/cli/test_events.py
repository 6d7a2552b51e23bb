"""`tollway events` against a real server: what was published is listed, shown, and watched from where one stopped."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result

from billing.services.keys import Scope
from cli.main import tollway
from tests.server.conftest import rim
from tests.server.rim import Rim
from tests.server.test_watch_events import feed

__all__ = ["rim"]


async def run(rim: Rim, *arguments: str) -> Result:
    """A command in a thread of its own, since it brings its own event loop."""
    key = rim.acme.keys[Scope.WRITE]
    where = ["--address", f"127.0.0.1:{rim.server.port}", "--key", key]
    command = ["events", arguments[0], *where, *arguments[1:]]
    return await asyncio.to_thread(CliRunner().invoke, tollway, command)


async def test_what_is_published_is_listed_and_shown(rim: Rim) -> None:
    data = '{"gate": "B12"}'
    told = await run(
        rim, "publish", "custom.flight.landed", "flight-1", data, "--note", "source=tower"
    )
    assert told.exit_code == 0, told.output
    event_id = told.output.split()[0]
    after = await run(rim, "publish", "custom.flight.left", "flight-1", "--after", event_id)
    assert after.output.split()[1] == "v2"

    lines = (await run(rim, "list", "--resource", "flight-1")).output.splitlines()
    assert [line.split()[1] for line in lines] == ["custom.flight.left", "custom.flight.landed"]
    assert "pending" in lines[0]
    as_json = await run(rim, "list", "--json", "--subject", "custom.flight.landed")
    assert json.loads(as_json.output)["data"]["value"] == {"gate": "B12"}

    shown = json.loads((await run(rim, "get", event_id)).output)
    assert shown["metadata"] == {"source": "tower"}
    assert shown["dispatch_status"] == "pending"
    trail = (await run(rim, "trail", event_id)).output
    assert "custom.flight.left" in trail


async def test_a_list_longer_than_a_page_is_printed_up_to_its_limit(rim: Rim) -> None:
    await feed(rim, rim.acme, 450)
    lines = await run(rim, "list", "--subject", "tenant.created", "--limit", "430")
    assert len(lines.output.splitlines()) == 430


async def test_a_watch_prints_lines_and_goes_on_where_it_stopped(rim: Rim, tmp_path: Path) -> None:
    expected = await feed(rim, rim.acme, 7)
    file = tmp_path / "cursor"
    first = await run(rim, "watch", "--from-beginning", "--count", "3", "--cursor-file", str(file))
    assert first.exit_code == 0, first.output
    assert [line.split()[-1] for line in first.stdout.splitlines()] == expected[:3]
    assert file.read_text().strip() in first.stderr

    rest = await run(rim, "watch", "--json", "--count", "4", "--cursor-file", str(file))
    told = [json.loads(line) for line in rest.stdout.splitlines()]
    assert [event["id"] for event in told] == expected[3:]
    one_more = await run(rim, "watch", "--cursor", told[-2]["cursor"], "--count", "1")
    assert one_more.stdout.split()[-1] == expected[-1]


async def test_mistakes_are_told_in_a_line(rim: Rim) -> None:
    not_json = await run(rim, "publish", "custom.a", "flight-1", "{")
    assert not_json.exit_code == 2
    assert "not JSON" in not_json.output
    refused = await run(rim, "publish", "invoice.generated", "flight-1")
    assert "SUBJECT_INVALID" in str(refused.exception)
    too_old = await run(rim, "watch", "--cursor", "xyz")
    assert "CURSOR_INVALID" in str(too_old.exception)
