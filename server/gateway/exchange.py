"""The rim over HTTP, steps 1 to 3: a request in JSON becomes a call of a guarded method, and its answer JSON again.

Invariant: everything that holds for a call over gRPC holds here, since `LocalContext` calls the same guarded method,
which reads path, query and body when it knows its caller. A client that leaves cancels its call. Answers of streams are
lines of JSON: `{"result": …}` each, and at the end `{"error": …}` if there was one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from billing.domain.errors import BillingError, Invalid
from server.admission import MESSAGE_BYTES_MAX, Held
from server.deadlines import Deadlines, TookTooLong
from server.gateway.errors import (
    JSON,
    BodyTooLarge,
    NotJson,
    refusal,
    status_json,
    told,
)
from server.gateway.local_call import LocalContext, Refused
from server.gateway.routes import Route
from server.gateway.transcoding import (
    fields_of_body,
    fields_of_query,
    json_of,
    message_of,
    with_path,
)

NDJSON: Final = "application/x-ndjson"

# Headers that are metadata of the call.
_METADATA: Final = ("authorization", "tollway-tenant", "tollway-correlation-id", "traceparent")
_TIMEOUT: Final = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS_OF: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One route and the guarded method behind it, between bytes and bytes.

    A client over HTTP has no deadline that the server knows; Grpc-Timeout can shorten ours.
    """

    route: Route
    method: Any
    deadlines: Deadlines

    async def unary(self, request: web.Request) -> web.StreamResponse:
        """The answer, or the error under its HTTP code."""
        seconds = time_left(request, self.deadlines.call_s_max)
        context = LocalContext(metadata_of(request), seconds)
        try:
            async with asyncio.timeout(seconds):
                if self.route.streams_in:
                    body = await self.method.stream_unary(self._messages(request), context)
                else:
                    body = await self.method.unary_unary(partial(self._read, request), context)
        except (Refused, BillingError) as error:
            return refusal(error)
        except TimeoutError:
            return refusal(TookTooLong(retry_after_s=1))
        return web.Response(text=self._json(body), content_type=JSON)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The answers line by line. Nothing is sent before the first, so a refused call has the code of its error."""
        seconds = time_left(request, self.deadlines.stream_s_max)
        response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
        try:
            async with (
                asyncio.timeout(seconds),
                contextlib.aclosing(self._answers(request, seconds)) as answers,
            ):
                async for body in answers:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(f'{{"result":{self._json(body)}}}\n'.encode())
        except (Refused, BillingError) as error:
            return await _end(response, error)
        except ConnectionError:  # the client has left
            return response
        except TimeoutError:  # the longest that a stream lasts; the client goes on from its cursor
            return await _end(response, TookTooLong(retry_after_s=1))
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _answers(self, request: web.Request, seconds: float) -> AsyncGenerator[bytes, None]:
        context = LocalContext(metadata_of(request), seconds)
        if self.route.streams_in:
            answers = self.method.stream_stream(self._messages(request), context)
        else:
            answers = self.method.unary_stream(partial(self._read, request), context)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    async def _read(self, request: web.Request, held: Held) -> bytes:
        """The request's message; read when the caller is known, so that nobody else learns what it should be."""
        route, kind = self.route, self.route.kind
        if route.has_body:
            if request.query:
                raise Invalid("This method takes its fields from the body, and none from a query.")
            fields = fields_of_body(await _body(request, held))
        else:
            fields = fields_of_query(kind, request.query.items())
        if (key := request.headers.get("Idempotency-Key")) and "request_id" in kind.fields_by_name:
            fields.setdefault("request_id", key)
        path = {name: request.match_info[name] for name in route.variables}
        return message_of(route.request, with_path(fields, kind, path)).SerializeToString()

    async def _messages(self, request: web.Request) -> AsyncIterator[bytes]:
        """The messages of a client's stream, one JSON object a line; no line is longer than a message may be."""
        if request.content_type not in {JSON, NDJSON}:
            raise NotJson()
        while line := await _line(request):
            if line.strip():
                message = message_of(self.route.request, fields_of_body(line))
                yield message.SerializeToString()

    def _json(self, body: bytes) -> str:
        return json_of(self.route.answer.FromString(body))


async def _end(response: web.StreamResponse, error: Refused | BillingError) -> web.StreamResponse:
    """The error as the answer, or as the last line when lines were sent already."""
    if not response.prepared:
        return refusal(error)
    await response.write(f'{{"error":{status_json(told(error))}}}\n'.encode())
    await response.write_eof()
    return response


async def _line(request: web.Request) -> bytes:
    try:
        return await request.content.readline()
    except LineTooLong as error:
        raise BodyTooLarge() from error


async def _body(request: web.Request, held: Held) -> bytes:
    """The body, counted as it comes: what a slow client has not sent yet costs nobody a place."""
    if request.can_read_body and request.content_type not in {JSON, "application/octet-stream"}:
        raise NotJson()
    body = bytearray()
    async for chunk in request.content.iter_any():
        if len(body) + len(chunk) > MESSAGE_BYTES_MAX:
            raise BodyTooLarge()
        held.grow(len(chunk))
        body += chunk
    return bytes(body)


def metadata_of(request: web.Request) -> dict[str, str]:
    """The headers that are metadata of the call."""
    return {name: request.headers[name] for name in _METADATA if name in request.headers}


def time_left(request: web.Request, most_s: float) -> float:
    """Seconds that the call may take: the caller's Grpc-Timeout (`500m`, `10S`), within the limit."""
    found = _TIMEOUT.fullmatch(request.headers.get("Grpc-Timeout", ""))
    return min(int(found[1]) * _SECONDS_OF[found[2]], most_s) if found else most_s
