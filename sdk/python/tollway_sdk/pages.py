"""Python SDK: lists as one sequence, however many pages they have.

Invariant: every page is asked with the arguments of the first, as the server demands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message


async def pages(method: Any, request: Message) -> AsyncIterator[Any]:
    """Every answer of a list, page by page: `async for page in pages(tollway.invoices.ListInvoices, request)`."""
    asked = type(request)()
    asked.CopyFrom(request)
    while True:
        page = await method(asked)
        yield page
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token  # type: ignore[attr-defined] # every list request has one
