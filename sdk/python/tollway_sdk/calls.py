"""Python SDK: what every call gets: the key, a deadline, a request id, and an error of a type.

Invariant: the request id is made once per call, above grpc's own retries, so every try of a call has the same.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from tollway_sdk.errors import typed

REQUEST_ID: Final = "request_id"
_Details = grpc.aio.ClientCallDetails


class _Caller:
    """What the four kinds of calls share. A stream may last, so only calls with one answer get a deadline."""

    def __init__(self, metadata: tuple[tuple[str, str], ...], timeout_s: float) -> None:
        self._metadata, self._timeout_s = metadata, timeout_s

    def details(self, given: _Details, *, timed: bool = False) -> _Details:
        """The call with the key and, if it is to be `timed`, with a deadline: its own or else the client's."""
        timeout = self._timeout_s if timed and given.timeout is None else given.timeout
        metadata = grpc.aio.Metadata(*(given.metadata or ()), *self._metadata)
        return _Details(given.method, timeout, metadata, given.credentials, given.wait_for_ready)


def with_request_id(request: Message) -> Message:
    """The request with a request id of its own, where its message has one and the caller gave none."""
    if REQUEST_ID not in request.DESCRIPTOR.fields_by_name or getattr(request, REQUEST_ID):
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    setattr(copy, REQUEST_ID, str(uuid.uuid4()))
    return copy


async def _typed_answers(answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        async for answer in answers:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise typed(error) from None


class UnaryUnary(_Caller, grpc.aio.UnaryUnaryClientInterceptor):
    """One request, one answer."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: _Details, request: Any
    ) -> Any:
        """Makes the call."""
        details = self.details(client_call_details, timed=True)
        call = await continuation(details, with_request_id(request))
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise typed(error) from None
        return call


class UnaryStream(_Caller, grpc.aio.UnaryStreamClientInterceptor):
    """One request, many answers."""

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: _Details, request: Any
    ) -> Any:
        """Makes the call."""
        call = await continuation(self.details(client_call_details), with_request_id(request))
        return _typed_answers(call)


class StreamStream(_Caller, grpc.aio.StreamStreamClientInterceptor):
    """Many requests, many answers."""

    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: _Details, request_iterator: Any
    ) -> Any:
        """Makes the call."""
        call = await continuation(self.details(client_call_details), request_iterator)
        return _typed_answers(call)


def interceptors(key: str, tenant: str, timeout_s: float) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors of a client's channel. `tenant` is for operators' keys."""
    metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {key}"),)
    if tenant:
        metadata += (("tollway-tenant", tenant),)
    return [kind(metadata, timeout_s) for kind in (UnaryUnary, UnaryStream, StreamStream)]
