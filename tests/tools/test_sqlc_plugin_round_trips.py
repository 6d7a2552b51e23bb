"""The generated functions against a real PostgreSQL: every type, every command, every row shape."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import json
import string
import uuid
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tools.sqlc_plugin import gen
from tests.tools.sqlc_plugin.gen import inbox, invoices, models, specimens
from tools.sqlc_gen_python_asyncpg import verify

SCHEMA: Final = Path(__file__).parent / "sqlc_plugin" / "schema.sql"
NOW: Final = datetime.datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=datetime.UTC)
TENANT, INVOICE, OTHER = (uuid.UUID(int=number) for number in (1, 2, 3))

Conn: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# NUL is the one character that PostgreSQL's text cannot hold; lone surrogates are no text at all.
TEXT: Final = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40
)
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TIMES: Final = st.datetimes(timezones=st.just(datetime.UTC))
NETWORKS: Final = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(
        lambda length: str(ipaddress.ip_network((address, length), strict=False))
    )
)


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


SPECIMENS: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    "id": st.uuids(),
    "flag": st.booleans(),
    "small": integers(16),
    "medium": integers(32),
    "large": integers(64),
    "ratio": st.floats(allow_nan=False),
    "amount": st.decimals(min_value=-(10**20), max_value=10**20, places=6),
    "note": TEXT,
    "code": st.text(string.printable, max_size=40),
    "currency": st.text(string.ascii_uppercase, min_size=3, max_size=3),
    "body": st.binary(max_size=40),
    "day": st.dates(),
    "at": TIMES,
    "span": st.timedeltas(datetime.timedelta(days=-99999), datetime.timedelta(days=99999)),
    "document": JSON.map(json.dumps),
    "raw": JSON.map(json.dumps),
    "address": st.ip_addresses().map(str),
    "network": NETWORKS,
    "mood": st.sampled_from(models.Mood),
}


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[Conn]:
    """A connection to a fresh database with the schema of the fixture."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(SCHEMA.read_text(encoding="utf-8"))
    yield connection
    await connection.close()


def plain(row: models.Specimen) -> dict[str, Any]:
    """The row as a dict; jsonb, which has no text of its own, as what it means."""
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return {**values, "document": json.loads(values["document"])}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.fixed_dictionaries(dict(SPECIMENS)))
async def test_a_value_of_every_type_comes_back_as_it_went(
    conn: Conn, values: dict[str, Any]
) -> None:
    await conn.execute("DELETE FROM specimens")

    inserted = await specimens.insert_specimen(conn, **values)

    assert inserted is not None
    assert plain(inserted) == {**values, "document": json.loads(values["document"])}
    for name, value in plain(inserted).items():
        assert name == "document" or isinstance(value, type(values[name])), name


async def test_nineteen_arrays_make_rows_in_one_statement(conn: Conn) -> None:
    ids = [uuid.UUID(int=number) for number in range(500)]
    count = await specimens.insert_specimens(
        conn,
        ids=ids,
        flags=[True] * 500,
        smalls=[-1] * 500,
        mediums=[2**31 - 1] * 500,
        larges=list(range(500)),
        ratios=[0.5] * 500,
        amounts=[Decimal("0.000001")] * 500,
        notes=["ü"] * 500,
        codes=["c"] * 500,
        currencies=["EUR"] * 500,
        bodies=[b"\x00\xff"] * 500,
        days=[NOW.date()] * 500,
        times=[NOW] * 500,
        spans=[datetime.timedelta(hours=1)] * 500,
        documents=["{}"] * 500,
        raws=["[ ]"] * 500,
        addresses=["::1"] * 500,
        networks=["10.0.0.0/8"] * 500,
        moods=[models.Mood.CALM, models.Mood.PAST_DUE] * 250,
    )

    rows = await specimens.list_specimens(conn, batch_max=1000)
    assert count == len(rows) == 500
    assert [(row.id, row.large) for row in rows] == list(zip(ids, range(500), strict=True))
    assert rows[1].mood is models.Mood.PAST_DUE
    moods = await specimens.moods_of(conn, moods=[models.Mood.PAST_DUE, models.Mood.N2ND])
    assert moods == [models.Mood.PAST_DUE] * 250


MAYBE: Final[Mapping[str, Any]] = {
    "flag": False,
    "large": 0,
    "ratio": 0.0,
    "amount": Decimal(0),
    "class_": "",
    "uuid_": uuid.UUID(int=0),
    "body": b"",
    "datetime_": NOW,
    "span": datetime.timedelta(0),
    "document": "null",
    "address": "10.0.0.1/8",
    "mood": models.Mood.CALM,
    "words": [],
    "moods": [models.Mood.N2ND],
}


@pytest.mark.parametrize("values", [MAYBE, dict.fromkeys(MAYBE)], ids=["empty", "null"])
async def test_null_is_none_and_what_is_merely_empty_is_not(
    conn: Conn, values: Mapping[str, Any]
) -> None:
    row = await specimens.insert_maybe(conn, id=INVOICE, **values)

    assert row == models.Maybe(id=INVOICE, **values)
    assert await specimens.mood_of(conn, id=INVOICE) is values["mood"]
    assert await specimens.mood_of(conn, id=OTHER) is None


async def test_arrays_come_back_as_lists_whatever_sequence_went(conn: Conn) -> None:
    values: dict[str, Any] = {
        "flags": [True, False],
        "smalls": [-1, 1],
        "numbers": [2**31 - 1],
        "larges": [-(2**63)],
        "amounts": [Decimal("1.50"), Decimal("-3")],
        "words": ["a,b", '"', "", "NULL"],
        "bodies": [b"", b"\\\x00"],
        "ids": [TENANT, INVOICE],
        "times": [NOW],
        "addresses": ["127.0.0.1", "fe80::1/64"],
        "moods": list(models.Mood),
    }
    sequences = {name: tuple(value) for name, value in values.items()}

    row = await specimens.insert_batch(conn, id=INVOICE, **sequences)

    assert row == models.Batch(id=INVOICE, **values)


async def test_one_row_or_none(conn: Conn) -> None:
    made = await invoices.insert_invoice(conn, tenant_id=TENANT, id=INVOICE, total=7)
    assert made == models.Invoice(TENANT, INVOICE, "draft", 7, 14, 1, None)

    final = await invoices.finalize_invoice(conn, invoice_id=INVOICE, now=NOW)
    assert final == invoices.FinalizeInvoiceRow(id=INVOICE, total=7, finalized_at=NOW)
    assert await invoices.finalize_invoice(conn, invoice_id=INVOICE, now=NOW) is None


async def test_a_single_column_is_the_value_itself(conn: Conn) -> None:
    assert await inbox.consume_once(conn, consumer="rollup", event_id=INVOICE) is True
    assert await inbox.consume_once(conn, consumer="rollup", event_id=INVOICE) is None
    assert await invoices.next_position(conn) == 1
    assert await inbox.consumers(conn, row_="rollup", rows_="", conn_="", typing_="") == ["rollup"]


async def test_exec_says_nothing_and_works_in_the_callers_transaction(conn: Conn) -> None:
    async with conn.transaction():
        await invoices.set_tenant(conn, tenant_id=str(TENANT))
        await inbox.lock_key(conn, key=7)
        tenant = await conn.fetchval("SELECT current_setting('app.tenant')")
        locks = await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    assert (tenant, locks) == (str(TENANT), 1)


async def test_many_rows_of_a_claim_and_of_a_search_with_optional_parts(conn: Conn) -> None:
    for number in range(10, 14):
        await invoices.insert_invoice(
            conn, tenant_id=uuid.UUID(int=number), id=uuid.UUID(int=number), total=number
        )

    claimed = await invoices.claim_drafts(conn, lease_end=NOW, total_min=11, batch_max=2)
    assert sorted(row.total for row in claimed) == [11, 12]
    assert {row.finalized_at for row in claimed} == {NOW}

    async def search(status: str | None) -> list[int]:
        rows = await invoices.search_invoices(
            conn, status=status, total_min=10, after_position=1, after_id=OTHER, page_max=3
        )
        return [row.id.int for row in rows]

    assert await search(None) == [10, 11, 12]
    assert await search("draft") == [10, 11, 12]
    assert await search("final") == []


async def test_new_lines_come_back_in_the_order_given_and_elements_may_be_null(conn: Conn) -> None:
    async def insert(numbers: list[int], labels: list[str | None]) -> list[int]:
        return await invoices.insert_lines(
            conn,
            numbers=numbers,
            labels=labels,
            amounts=[1] * len(numbers),
            tenant_id=TENANT,
            invoice_id=INVOICE,
        )

    assert await insert([3, 1], ["c", None]) == [3, 1]
    assert await insert([2, 1, 0], [None, "again", None]) == [2, 0]
    labels = await conn.fetch("SELECT label FROM invoice_lines ORDER BY number")
    assert [label for (label,) in labels] == [None, None, None, "c"]


async def test_embedded_tables_and_left_joins_keep_their_places(conn: Conn) -> None:
    await invoices.insert_invoice(conn, tenant_id=TENANT, id=INVOICE, total=5)
    await invoices.insert_invoice(conn, tenant_id=OTHER, id=OTHER, total=6)
    assert await invoices.totals(conn) == invoices.TotalsRow(
        2, 11, None, None, has_lines=False, positive=True, odd='a\\b "quoted"'
    )
    await invoices.copy_lines(conn, params=[(TENANT, INVOICE, 1, None, 5)])

    [row] = await invoices.lines_with_invoice(conn)
    assert row.invoice == models.Invoice(TENANT, INVOICE, "draft", 5, 10, 1, None)
    assert (row.number, row.label) == (1, None)
    assert row.invoice_line == models.InvoiceLine(TENANT, INVOICE, 1, None, 5)
    assert sorted((pair.id.int, pair.amount) for pair in await _pairs(conn)) == [(2, 5), (3, None)]


async def _pairs(conn: Conn) -> list[invoices.InvoicesWithMaybeLinesRow]:
    return await invoices.invoices_with_maybe_lines(conn)


async def test_copy_and_execrows_count_what_they_did(database_url: str, conn: Conn) -> None:
    lines = [invoices.CopyLinesParams(TENANT, INVOICE, number, "l", 1) for number in range(1000)]
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    usage = [(start + datetime.timedelta(days=10 * n), uuid.UUID(int=n), n) for n in range(6)]

    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=1)
    async with pool, pool.acquire() as proxy:
        assert await invoices.copy_lines(proxy, params=lines) == 1000
        assert await invoices.copy_lines(proxy, params=[]) == 0
        assert await inbox.copy_usage(proxy, params=usage) == 6
        assert await invoices.delete_lines(proxy, invoice_id=INVOICE) == 1000
        assert await invoices.delete_lines(proxy, invoice_id=INVOICE) == 0
        listed = await inbox.list_usage(proxy, start=start, until=NOW)

    # The first four are in the partition of January, the others in the rest.
    assert [row.quantity for row in listed] == [0, 1, 2, 3]


async def test_postgresql_agrees_with_every_generated_type(conn: Conn) -> None:
    assert await verify.differences(conn, gen) == []
    assert len(list(verify.statements(gen))) == 22


async def test_the_proof_finds_a_schema_that_moved_on(conn: Conn) -> None:
    await conn.execute(
        """
        ALTER TABLE invoices ALTER COLUMN finalized_at SET NOT NULL;
        ALTER TABLE batches ALTER COLUMN numbers TYPE numeric[];
        ALTER TABLE inbox ALTER COLUMN consumer TYPE bytea USING consumer::bytea;
        ALTER TABLE invoice_lines RENAME COLUMN label TO title;
        """
    )

    found = "\n".join(await verify.differences(conn, gen))

    assert "models.Invoice: differs in [('finalized_at', False), ('finalized_at', True)]" in found
    assert "insert_batch: parameter 4 is collections.abc.Sequence[int] in Python, numeric" in found
    assert "insert_batch: column 4 is list[int] in Python, numeric[] in PostgreSQL" in found
    assert "inbox.consume_once: parameter 1 is <class 'str'> in Python, bytea" in found
    assert "lines_with_invoice: does not prepare: column l.label does not exist" in found
    assert "models.InvoiceLine: differs in [('label', True), ('title', True)]" in found
