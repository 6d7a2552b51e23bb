"""The rim, step 4: final invoices and their lines as CSV, page by page.

Invariant: an export holds one page and, between pages, no connection, however slowly its client reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from billing.domain.spreadsheet import csv_text
from billing.runtime.db import Database
from billing.services.invoice_export import (
    INVOICE_COLUMNS,
    LINE_COLUMNS,
    ExportFilter,
    invoice_rows,
    line_rows,
)

# Invoices a page: with the lines of each, well below what a message may hold.
PAGE_INVOICES: Final = 100


async def export(
    database: Database, tenant_id: UUID, wanted: ExportFilter, *, lines: bool
) -> AsyncIterator[str]:
    """CSV in pieces, the names of the columns first."""
    yield csv_text([LINE_COLUMNS if lines else INVOICE_COLUMNS])
    read = line_rows if lines else invoice_rows
    after: UUID | None = None
    while True:
        async with database.transaction(tenant_id, read_only=True) as tx:
            page = await read(tx, tenant_id, wanted, after=after, limit=PAGE_INVOICES)
        if page.rows:
            yield csv_text(page.rows)
        after = page.last
        if after is None:
            return
