"""Usage from files: every row is recorded once or refused with its reason, through a real server."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.commands.usage import command, told
from cli.usage_import import ImportFailed, ImportOptions, ImportSummary, import_usage
from cli.usage_import.mapping import RowMapper, Unmapped
from tests.conftest import Databases
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world

COLUMNS = {
    "idempotency_key": "hour+carrier+flight",
    "customer": "carrier",
    "timestamp": "hour",
    "quantity": "minutes",
}
HEADER = ("hour", "carrier", "flight", "minutes", "month")


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


def flights(world: World, count: int) -> list[tuple[str, ...]]:
    hour = f"{world.now - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    return [(hour, "UA", str(n), str(n % 7 + 1), str(n % 2)) for n in range(count)]


def table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
    return path


async def imported(client: Client, file: Path, **options: Any) -> ImportSummary:
    given = {"columns": COLUMNS, "constants": {"meter": "minutes"}, **options}
    chosen = ImportOptions(file=file, **given)
    return await import_usage(client.channel, client.metadata, chosen, Console(file=io.StringIO()))


async def test_a_table_is_imported_in_batches_and_again_without_a_second_count(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = table(tmp_path / "flights.csv", flights(world, 2500))
    first = await imported(client, file)
    assert (first.accepted, first.sent) == (2500, 2500)
    second = await imported(client, file)
    assert (second.accepted, second.duplicate) == (0, 2500)
    total = await world.value("SELECT sum(quantity) FROM usage_records")
    assert total == sum(Decimal(row[3]) for row in flights(world, 2500))
    assert len(await world.reported()) == 3


async def test_the_command_imports_and_says_what_became_of_the_rows(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = table(tmp_path / "flights.csv", [*flights(world, 3), ("x", "UA", "9", "1", "1")])
    options = [f"--map={name}={column}" for name, column in COLUMNS.items()]
    server = ["--address", f"127.0.0.1:{client.port}", "--key", client.key]
    arguments = ["import", str(file), *options, "--set", "meter=minutes", *server]
    result = await asyncio.to_thread(CliRunner().invoke, command, arguments)
    assert result.exit_code == 1, result.output
    assert "3 accepted, 0 duplicate, 0 in conflict, 1 rejected" in result.output
    assert "Error: 1 of 4 rows were not recorded; correct them" in result.output
    assert (tmp_path / "flights.csv.rejects.csv").exists()
    missing = await asyncio.to_thread(CliRunner().invoke, command, arguments[:2] + server)
    assert (missing.exit_code, "--map idempotency_key=COLUMN" in missing.output) == (1, True)
    again = [*arguments, "--where", "carrier=UA", "--where", f"hour={flights(world, 1)[0][0]}"]
    clean = await asyncio.to_thread(CliRunner().invoke, command, again)
    assert clean.exit_code == 0, clean.output


async def test_only_the_rows_that_the_filters_let_pass_are_sent(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = table(tmp_path / "flights.csv", flights(world, 10))
    summary = await imported(client, file, where={"month": "1", "carrier": "UA"})
    assert (summary.accepted, summary.skipped) == (5, 5)


async def test_refused_rows_are_kept_with_their_columns_and_the_reason(
    world: World, client: Client, tmp_path: Path
) -> None:
    good, *rest = flights(world, 6)
    hour = good[0]
    rows = [
        good,
        (hour, "UA", "x1", "NA", "1"),
        (hour, "XX", "x2", "5", "1"),
        ("yesterday", "UA", "x3", "5", "1"),
        (hour, "UA", "", "5", "1"),
        (hour, "UA"),
        (hour, "UA", "0", "99", "1"),
        *rest,
    ]
    rejects = tmp_path / "rejects.csv"
    file = table(tmp_path / "flights.csv", rows)
    summary = await imported(client, file, rejects=rejects)
    assert (summary.accepted, summary.conflict, summary.rejected) == (6, 1, 5)
    with rejects.open(newline="") as kept:
        found = sorted(csv.DictReader(kept), key=lambda row: int(row["row_number"]))
    assert [(row["row_number"], row["outcome"], row["reason"]) for row in found] == [
        ("2", "rejected", "QUANTITY_INVALID"),
        ("3", "rejected", "CUSTOMER_NOT_FOUND"),
        ("4", "rejected", "TIMESTAMP_INVALID"),
        ("5", "rejected", "IDEMPOTENCY_KEY_INVALID"),
        ("6", "rejected", "INVALID_ARGUMENT"),
        ("7", "conflict", "IDEMPOTENCY_KEY_REUSED"),
    ]
    assert found[0]["minutes"] == "NA"
    assert all(row["message"] for row in found)
    assert str(rejects) in told(summary)[-1]


async def test_nothing_is_written_when_every_row_is_recorded(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = table(tmp_path / "flights.csv", flights(world, 3))
    summary = await imported(client, file, rejects=tmp_path / "rejects.csv")
    assert summary.rejects is None
    assert not (tmp_path / "rejects.csv").exists()


async def test_json_lines_keep_their_numbers_exact(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "usage.jsonl"
    at = (world.now - timedelta(hours=1)).timestamp()
    lines = [
        '{"id": "a", "at": %d, "who": "UA", "n": 0.100000000001, "tier": "gold"}' % at,  # noqa: UP031 - braces of JSON
        '{"id": 2, "at": %d, "who": "UA", "n": 123456789012345.678901}' % at,  # noqa: UP031 - braces of JSON
        "{broken",
        "[1]",
        "",
    ]
    file.write_text("\n".join(lines))
    columns = {"idempotency_key": "id", "timestamp": "at", "customer": "who", "quantity": "n"}
    summary = await imported(
        client,
        file,
        columns=columns,
        properties={"tier": "tier"},
        timestamp_format="unix",
        rejects=tmp_path / "rejects.csv",
    )
    assert (summary.accepted, summary.rejected) == (2, 2)
    rows = await world.rows("SELECT * FROM usage_records ORDER BY quantity")
    assert [str(row["quantity"]) for row in rows] == ["0.100000000001", "123456789012345.678901"]
    assert [json.loads(row["properties"] or "{}") for row in rows] == [{"tier": "gold"}, {}]
    with (tmp_path / "rejects.csv").open(newline="") as kept:
        assert [row["line"] for row in csv.DictReader(kept)] == ["{broken", "[1]"]


async def test_one_spoilt_row_does_not_end_an_import(
    world: World, client: Client, tmp_path: Path
) -> None:
    file, rejects = tmp_path / "usage.csv", tmp_path / "rejects.csv"
    at = (world.now - timedelta(hours=1)).isoformat()
    rows = [
        b"id,at,who,n",
        b"a,%s,UA,1",
        b"b\xe9,%s,UA,1",
        b"x" * 200_000 + b",%s,UA,1",
        b"d,%s,UA,1",
    ]
    file.write_bytes(b"\n".join(row.replace(b"%s", at.encode()) for row in rows))
    columns = {"idempotency_key": "id", "timestamp": "at", "customer": "who", "quantity": "n"}
    summary = await imported(client, file, columns=columns, rejects=rejects)
    assert (summary.accepted, summary.rejected) == (2, 2)
    assert b"b\xe9," in rejects.read_bytes()


async def test_an_empty_file_is_refused(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_bytes(b"")
    columns = {"idempotency_key": "id", "timestamp": "at", "customer": "who", "quantity": "n"}
    with pytest.raises(ImportFailed, match="is empty"):
        await imported(client, file, columns=columns)


async def test_the_one_file_in_an_archive_is_imported(
    world: World, client: Client, tmp_path: Path
) -> None:
    plain = table(tmp_path / "flights.csv", flights(world, 5))
    packed = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, "data/flights.csv")
        archive.writestr("README.txt", "what this is")
    assert (await imported(client, packed)).accepted == 5
    with zipfile.ZipFile(packed, "a") as archive:
        archive.write(plain, "data/more.csv")
    with pytest.raises(ImportFailed, match="one CSV or JSON lines file, not 2"):
        await imported(client, packed)


async def test_a_column_that_the_file_lacks_is_named_before_anything_is_sent(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = table(tmp_path / "flights.csv", flights(world, 1))
    with pytest.raises(ImportFailed, match="no column 'tailnum'"):
        await imported(client, file, where={"tailnum": "N1"})
    assert await world.value("SELECT count(*) FROM usage_records") == 0


async def test_a_file_that_is_not_text_ends_the_import_with_its_name(
    client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "flights.csv"
    file.write_bytes(b"hour,carrier\n\xff\xfe\x00")
    with pytest.raises(ImportFailed, match=r"flights\.csv"):
        await imported(client, file)


async def test_a_refused_call_ends_the_import_with_the_servers_words(
    world: World, client: Client, tmp_path: Path
) -> None:
    file = table(tmp_path / "flights.csv", flights(world, 5000))
    wrong = Client(client.channel, (("authorization", "Bearer nothing"),), client.port, "")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await imported(wrong, file)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("shape", "text", "instant"),
    [
        ("iso", "2013-01-01T10:00:00Z", "2013-01-01T10:00:00+00:00"),
        ("iso", "2013-01-01T10:00:00-05:00", "2013-01-01T15:00:00+00:00"),
        ("iso", "2013-01-01 10:00", "2013-01-01T15:00:00+00:00"),
        ("%d.%m.%Y %H:%M", "01.07.2013 10:00", "2013-07-01T14:00:00+00:00"),
        ("unix", "1357034400.000001", "2013-01-01T10:00:00.000001+00:00"),
        ("unix_ms", "1357034400001", "2013-01-01T10:00:00.001000+00:00"),
    ],
)
def test_timestamps_are_read_as_they_are_written(shape: str, text: str, instant: str) -> None:
    mapper = RowMapper(
        ImportOptions(
            Path("x.csv"),
            COLUMNS,
            {"meter": "m"},
            timestamp_format=shape,
            time_zone="America/New_York",
        )
    )
    record = mapper.record({"hour": text, "carrier": "UA", "flight": "1", "minutes": "1"})
    assert (
        record.timestamp.ToDatetime(datetime.fromisoformat(instant).tzinfo).isoformat() == instant
    )


@pytest.mark.parametrize("text", ["", "NaN", "Infinity", "1e400", "99999999999999999999"])
def test_a_number_that_is_no_instant_refuses_its_row(text: str) -> None:
    mapper = RowMapper(
        ImportOptions(Path("x.csv"), COLUMNS, {"meter": "m"}, timestamp_format="unix")
    )
    with pytest.raises(Unmapped) as refused:
        mapper.record({"hour": text, "carrier": "UA", "flight": "1", "minutes": "1"})
    assert refused.value.reason in ("TIMESTAMP_INVALID", "IDEMPOTENCY_KEY_INVALID")


@pytest.mark.parametrize(
    ("columns", "constants", "message"),
    [
        ({}, {"meter": "m"}, "idempotency_key"),
        (COLUMNS, {}, "meter"),
        (COLUMNS, {"meter": "m", "color": "red"}, "'color' is no field"),
        (COLUMNS, {"meter": "m", "quantity": "1"}, "by --map and by --set"),
        (COLUMNS | {"customer_id": "x"}, {"meter": "m"}, "whose usage"),
    ],
)
def test_options_that_could_not_import_a_row_are_refused(
    columns: dict[str, str], constants: dict[str, str], message: str
) -> None:
    with pytest.raises(ImportFailed, match=message):
        ImportOptions(Path("x.csv"), columns, constants)
