"""The rim, steps 0 to 3: what every call passes: telemetry, errors, admission, authentication, rate limits,
validation.

Invariant: a method runs only for a caller who may call it, with a valid request, inside a call context; and whatever it
raises leaves as one rich status. Calls of the standard services (health, reflection, channelz) pass through untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from billing.domain.errors import Invalid, Unavailable
from billing.runtime.clock import Clock
from server.admission import Admission, Held, Overloaded
from server.allowance import Allowances
from server.authentication import AUTHORIZATION_METADATA, TENANT_METADATA, Authenticator
from server.call import Call, current_call, enter_call
from server.deadlines import Deadlines, Within, longest, until
from server.errors import CODE_NAMES, CODES, STATUS_DETAILS, MethodNotFound, rich_status, translate
from server.metrics import RpcMetrics
from server.permissions import PERMISSIONS
from server.validation import refuse_nul, validate

CORRELATION_METADATA: Final = "tollway-correlation-id"
TRACEPARENT_METADATA: Final = "traceparent"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Method = Callable[[Any, Context], Awaitable[Message]]
Stream = Callable[[Any, Context], AsyncIterator[Message]]
Dialogue = Callable[[AsyncIterator[Any], Context], AsyncIterator[Message]]
# What a call is handed: its request, or how to read it, which happens when its caller is known.
Body: TypeAlias = bytes | Callable[[Held], Awaitable[bytes]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_WANTED_METADATA: Final = frozenset(
    {AUTHORIZATION_METADATA, TENANT_METADATA, CORRELATION_METADATA, TRACEPARENT_METADATA}
)


@dataclass(frozen=True, slots=True)
class RimLimits:
    """What a process has in hand, what each tenant may do, and how long a call may take."""

    admission: Admission
    allowances: Allowances
    deadlines: Deadlines


class Rim(grpc.aio.ServerInterceptor):
    """Wraps each of our methods once, and remembers it."""

    def __init__(
        self,
        authenticator: Authenticator,
        clock: Clock,
        metrics: RpcMetrics,
        limits: RimLimits,
    ) -> None:
        self._authenticator, self._clock, self._metrics = authenticator, clock, metrics
        self.limits = limits
        self._admission, self._deadlines = limits.admission, limits.deadlines
        self._allowances = limits.allowances
        self._wrapped: dict[str, Handler] = {}
        # As a stream, so that nothing of the request is read.
        self._refusing: Handler = grpc.stream_stream_rpc_method_handler(self._refuse)
        self._unknown: Handler = grpc.stream_stream_rpc_method_handler(_refuse_unknown)

    async def store_counts(self, *, at_once: bool = False) -> None:
        """Stores what was counted of calls and not written by them: accepted records, and when keys were used."""
        await self._allowances.flush()
        await self._authenticator.store_uses(self._clock.now(), at_once=at_once)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of a method, wrapped if it is one of ours; of one that nobody has, a refusal."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if method not in PERMISSIONS:
                return handler or self._unknown  # left to itself, the library tells no reason
            assert handler is not None, f"{method} is not registered"
            wrapped = self.guarded(method, handler)
        return self._refusing if self._admission.is_full else wrapped

    def guarded(self, method: str, handler: Handler) -> Handler:
        """The method behind the rim, between bytes and bytes: what every transport calls."""
        if method not in self._wrapped:
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        """The method between bytes and bytes, so that an unreadable request is refused here, after its caller."""
        parse = cast(Callable[[bytes], Message], handler.request_deserializer)
        if handler.unary_stream is not None:
            return self._wrap_stream(method, cast(Stream, handler.unary_stream), parse)
        if handler.stream_stream is not None:
            return self._wrap_dialogue(method, cast(Dialogue, handler.stream_stream), parse)
        inner = cast(Method, handler.unary_unary)
        assert inner is not None, f"{method}: streams in and one answer need a wrapper of their own"

        async def guarded(body: Body, context: Context) -> bytes:
            size = len(body) if isinstance(body, bytes) else 0
            async with self._guard(method, context, size) as held:
                read = body if isinstance(body, bytes) else await body(held)
                answer = await inner(_read(parse, read), context)
                # Deterministic: the answer to a repeated request equals the first one byte for byte.
                return answer.SerializeToString(deterministic=True)

        return grpc.unary_unary_rpc_method_handler(guarded)

    def _wrap_stream(
        self, method: str, inner: Stream, parse: Callable[[bytes], Message]
    ) -> Handler:
        """The same for a method that answers with a stream, whatever ends it."""

        async def guarded(body: Body, context: Context) -> AsyncIterator[bytes]:
            async with self._guard(method, context):
                if not isinstance(body, bytes):
                    with self._admission.held(0) as held:
                        body = await body(held)
                answers = inner(_read(parse, body), context)
                async with self._answers(answers, context) as bounded:
                    async for answer in bounded:
                        yield answer.SerializeToString()

        return grpc.unary_stream_rpc_method_handler(guarded)

    def _wrap_dialogue(
        self, method: str, inner: Dialogue, parse: Callable[[bytes], Message]
    ) -> Handler:
        """The same for streams both ways. Each message is a call of its own: a revoked key ends the stream."""

        async def guarded(bodies: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async def requests() -> AsyncIterator[Message]:
                async for body in bodies:
                    with self._admission.held(len(body)):
                        await self._enter(method, context)
                        yield _read(parse, body)

            async with self._guard(method, context):
                answers = inner(requests(), context)
                async with self._answers(answers, context) as bounded:
                    async for answer in bounded:
                        yield answer.SerializeToString()

        return grpc.stream_stream_rpc_method_handler(guarded)

    @contextlib.asynccontextmanager
    async def _answers(
        self, answers: AsyncIterator[Message], context: Context
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """The answers of a stream for as long as it may last; the method is closed at the end, whatever ends it."""
        seconds = longest(context, self._deadlines.stream_s_max)
        call = current_call()
        with call.allowance.stream(limited=not call.principal.is_operator):
            async with contextlib.aclosing(cast(AsyncGenerator[Message, None], answers)):
                yield until(answers, seconds)

    @contextlib.asynccontextmanager
    async def _guard(
        self, method: str, context: Context, size: int | None = None
    ) -> AsyncIterator[Held]:
        """Admits and enters a call whose request has this size, or a stream, which has none; its place in hand.

        What is raised inside leaves as one rich status, and how it ended is counted.
        """
        began = time.perf_counter()
        code = "OK"
        most_s = None if size is None else longest(context, self._deadlines.call_s_max)
        try:
            with self._admission.held(size) as held, Within(most_s):
                await self._enter(method, context)
                yield held
        except GeneratorExit:
            code = "CANCELLED"
            raise
        except asyncio.CancelledError as error:
            code = "CANCELLED"
            if _was_cancelled():
                raise
            # Something within was cancelled, and nobody cancelled the call: without a status it would never end.
            await _abort(context, translate(_cut_off(error), method))
        except Exception as error:
            status = translate(error, method)
            code = CODE_NAMES[status.code]
            await _abort(context, status)
        finally:
            self._metrics.observe(method, code, time.perf_counter() - began)

    async def _refuse(self, bodies: AsyncIterator[bytes], context: Context) -> None:
        """Refuses a call before anything of it is read."""
        try:
            self._admission.refuse()
        except Overloaded as error:
            await _abort(context, rich_status(error))

    async def _enter(self, method: str, context: Context) -> None:
        metadata = {
            key: str(value)
            for key, value in context.invocation_metadata() or ()
            if key in _WANTED_METADATA
        }
        now = self._clock.now()
        principal = await self._authenticator.principal(method, metadata, now)
        allowance = self._allowances.of(principal, now)
        if not principal.is_operator:
            allowance.request(principal.overrides, now)
        call = Call(
            method,
            principal,
            allowance,
            now,
            context.time_remaining(),
            metadata.get(CORRELATION_METADATA, ""),
            metadata.get(TRACEPARENT_METADATA, ""),
        )
        enter_call(call)


async def _refuse_unknown(bodies: AsyncIterator[bytes], context: Context) -> None:
    await _abort(context, rich_status(MethodNotFound()))


async def _abort(context: Context, status: Status) -> NoReturn:
    details = (STATUS_DETAILS, status.SerializeToString())
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), details))
    await context.abort(CODES[status.code], status.message)


def _cut_off(error: BaseException) -> Unavailable:
    unavailable = Unavailable("The call was cut off on our side; try again.", retry_after_s=1)
    unavailable.__cause__ = error
    return unavailable


def _was_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _read(parse: Callable[[bytes], Message], body: bytes) -> Message:
    try:
        request = parse(body)
    except DecodeError as error:
        raise Invalid("The request is not an encoded message of this method.") from error
    if b"\0" in body:  # seldom, and in most of these it is a number's
        refuse_nul(request)
    validate(request)
    return request
