"""The rim over HTTP: papers and spreadsheets as a browser or a download takes them.

Invariant: each is the answer of a method of the contract, called through the same rim as over gRPC; a page may load
nothing and run nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from google.protobuf.message import Message
from tollway.invoice.v1 import document_service_pb2 as pb

from billing.domain.errors import BillingError
from server.admission import Held
from server.deadlines import Deadlines, TookTooLong
from server.gateway.errors import refusal
from server.gateway.exchange import metadata_of, time_left
from server.gateway.local_call import LocalContext, Refused
from server.gateway.transcoding import fields_of_query, message_of

_SERVICE: Final = "/tollway.invoice.v1.DocumentService/"
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_CONTENTS: Final = {
    "invoices": pb.EXPORT_CONTENT_INVOICES,
    "invoice_lines": pb.EXPORT_CONTENT_LINES,
}


class Documents:
    """The pages and downloads, over the guarded methods by name."""

    def __init__(self, methods: Mapping[str, Any], deadlines: Deadlines) -> None:
        self._methods, self._deadlines = methods, deadlines

    def routes(self) -> list[web.RouteDef]:
        """GET only; the key is in the authorization header, as for every call."""
        return [
            web.get("/v1/invoices/{id:[^/:]+}/html", self.invoice),
            web.get("/v1/credit_notes/{id:[^/:]+}/html", self.credit_note),
            web.get("/v1/exports/{content:invoices|invoice_lines}.csv", self.export),
        ]

    async def invoice(self, request: web.Request) -> web.StreamResponse:
        """An invoice as a page."""
        asked = pb.RenderInvoiceRequest(invoice_id=request.match_info["id"])
        return await self._page(
            request, _SERVICE + "RenderInvoice", asked, pb.RenderInvoiceResponse
        )

    async def credit_note(self, request: web.Request) -> web.StreamResponse:
        """A credit note as a page."""
        asked = pb.RenderCreditNoteRequest(credit_note_id=request.match_info["id"])
        return await self._page(
            request, _SERVICE + "RenderCreditNote", asked, pb.RenderCreditNoteResponse
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Final invoices or their lines as CSV; the query holds the other fields of ExportInvoicesRequest."""
        content = request.match_info["content"]
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/csv; charset=utf-8",
                "Content-Disposition": f'attachment; filename="{content}.csv"',
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }
        )
        seconds = time_left(request, self._deadlines.stream_s_max)
        context = LocalContext(metadata_of(request), seconds)
        kind = pb.ExportInvoicesRequest

        async def read(_: Held) -> bytes:
            asked = message_of(kind, fields_of_query(kind.DESCRIPTOR, request.query.items()))
            asked.content = _CONTENTS[content]
            return asked.SerializeToString()

        try:
            answers = self._methods[_SERVICE + "ExportInvoices"].unary_stream(read, context)
            async with asyncio.timeout(seconds), contextlib.aclosing(answers):
                async for body in answers:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(pb.ExportInvoicesResponse.FromString(body).csv.encode())
        except (Refused, BillingError) as error:
            if response.prepared:
                raise  # a download that breaks off must not look whole
            return refusal(error)
        except TimeoutError:
            if response.prepared:
                raise
            return refusal(TookTooLong(retry_after_s=1))
        await response.write_eof()
        return response

    async def _page(
        self, request: web.Request, name: str, asked: Message, answer: type[Any]
    ) -> web.StreamResponse:
        seconds = time_left(request, self._deadlines.call_s_max)
        context = LocalContext(metadata_of(request), seconds)
        try:
            async with asyncio.timeout(seconds):
                body = await self._methods[name].unary_unary(asked.SerializeToString(), context)
        except (Refused, BillingError) as error:
            return refusal(error)
        except TimeoutError:
            return refusal(TookTooLong(retry_after_s=1))
        return web.Response(
            text=answer.FromString(body).html,
            content_type="text/html",
            charset="utf-8",
            headers=_PAGE_HEADERS,
        )
