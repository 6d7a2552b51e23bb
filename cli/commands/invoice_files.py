"""The door: `tollway invoices html` and `export`. Invariant: a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Final

import click
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.invoice.v1 import document_service_pb2 as documents
from tollway.invoice.v1.document_service_pb2_grpc import DocumentServiceStub

from cli.client import Connection, channel_to, connection_options, run
from cli.commands.usage_records import Instant
from cli.references import customer_id, invoice_id

_OUT: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@connection_options
@click.argument("document")
@click.option("--out", type=_OUT, help="Write to this file; without it to standard output.")
def html(connection: Connection, document: str, out: Path | None) -> None:
    """Write DOCUMENT, an invoice (inv_… or its number) or a credit note (crn_…), as a page that prints on A4."""

    async def work() -> str:
        async with channel_to(connection) as channel:
            stub = DocumentServiceStub(channel)
            if document.startswith("crn_"):
                note = documents.RenderCreditNoteRequest(credit_note_id=document)
                return (await stub.RenderCreditNote(note, metadata=connection.metadata)).html
            invoice = documents.RenderInvoiceRequest(
                invoice_id=await invoice_id(channel, connection, document)
            )
            return (await stub.RenderInvoice(invoice, metadata=connection.metadata)).html

    with _written(out) as file:
        file.write(run(work()))


@click.command()
@connection_options
@click.option("--lines", is_flag=True, help="A row per line instead of a row per invoice.")
@click.option("--customer", default="", help="Only of this customer: cus_… or your own id.")
@click.option(
    "--from", "since", type=Instant(), help="Only those final from this instant on (UTC)."
)
@click.option("--until", type=Instant(), help="Only those final before this instant (UTC).")
@click.option("--out", type=_OUT, help="Write to this file; without it to standard output.")
def export(
    connection: Connection,
    lines: bool,
    customer: str,
    since: Timestamp | None,
    until: Timestamp | None,
    out: Path | None,
) -> None:
    """Write final invoices as CSV, oldest first."""
    request = documents.ExportInvoicesRequest(
        content=documents.EXPORT_CONTENT_LINES if lines else documents.EXPORT_CONTENT_INVOICES,
        finalized_from=since,
        finalized_until=until,
    )

    async def pieces() -> AsyncIterator[str]:
        async with channel_to(connection) as channel:
            request.customer_id = await customer_id(channel, connection, customer)
            answers = DocumentServiceStub(channel).ExportInvoices(
                request, metadata=connection.metadata
            )
            async for answer in answers:
                yield answer.csv

    async def work(file: IO[str]) -> None:
        async for piece in pieces():
            file.write(piece)

    with _written(out) as file:
        run(work(file))


@contextlib.contextmanager
def _written(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file beside `out` that takes its place at the end."""
    if out is None:
        yield sys.stdout
        return
    part = out.with_name(out.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(part, out)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
