"""`tollway invoices html` and `export` against a real server: whole files, or none and a reason."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from billing.services.keys import Scope
from cli.commands.invoices import command
from tests.conftest import Databases
from tests.server.rim import Rim, open_rim
from tests.server.test_documents import HOSTILE, manual


@pytest.fixture
async def rim(databases: Databases) -> AsyncIterator[Rim]:
    async with open_rim(databases) as rim:
        yield rim


async def tollway(rim: Rim, name: str, *rest: str) -> Result:
    server = ["--address", f"127.0.0.1:{rim.server.port}", "--key", rim.acme.keys[Scope.READ]]
    return await asyncio.to_thread(CliRunner().invoke, command, [name, *server, *rest])


async def test_a_page_and_a_table_of_lines_are_written_whole(rim: Rim, tmp_path: Path) -> None:
    invoice = await manual(rim, (await rim.customer()).id)
    page, table = tmp_path / "invoice.html", tmp_path / "lines.csv"

    assert (await tollway(rim, "html", invoice.id, "--out", str(page))).exit_code == 0
    assert (await tollway(rim, "export", "--lines", "--out", str(table))).exit_code == 0

    assert invoice.number in page.read_text("utf-8")
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["description"] for row in csv.DictReader(file)] == [HOSTILE, "'=1+1"]
    printed = await tollway(rim, "export", "--until", "2000-01-01T00:00:00Z")
    assert printed.output.startswith("invoice_id,number,")
    assert printed.output.count("\n") == 1


async def test_an_invoice_is_named_by_its_number_and_a_customer_by_the_tenants_own_id(
    rim: Rim,
) -> None:
    customer = await rim.customer()
    invoice = await manual(rim, customer.id)

    shown = await tollway(rim, "show", invoice.number)
    assert shown.output.startswith(invoice.number), shown.exception
    assert invoice.number in (await tollway(rim, "html", invoice.number)).output
    listed = await tollway(rim, "list", "--customer", customer.external_id)
    # In a pipe: one whole line for the heading, one for the invoice.
    assert len(listed.output.splitlines()) == 2
    assert invoice.id in listed.output
    unknown = await tollway(rim, "show", "INV-999999")
    assert "no invoice has the number" in str(unknown.exception)


async def test_a_refused_call_leaves_no_file(rim: Rim, tmp_path: Path) -> None:
    page = tmp_path / "invoice.html"
    page.write_text("before")
    result = await tollway(rim, "html", "inv_nothing", "--out", str(page))
    assert result.exit_code != 0
    assert page.read_text() == "before"
    assert not page.with_name("invoice.html.part").exists()
