"""The rim, steps 0 to 3: what every call passes: telemetry, errors, authentication, validation.

Invariant: a method runs only for a caller who may call it, with a valid request, inside a call context; and whatever it
raises leaves as one rich status. Calls of the standard services (health, reflection, channelz) pass through untouched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from billing.domain.errors import InvalidId
from billing.domain.ids import Prefix, decode
from billing.runtime.clock import Clock
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.keys import Principal
from server.authentication import Authenticator
from server.call import Call, enter_call
from server.errors import STATUS_DETAILS, translate
from server.metrics import RpcMetrics
from server.permissions import PERMISSIONS
from server.validation import validate

CORRELATION_METADATA: Final = "tollway-correlation-id"
TRACEPARENT_LENGTH_MAX: Final = 64

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Method = Callable[[Any, Context], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Rim(grpc.aio.ServerInterceptor):
    """Wraps each of our methods once, and remembers it."""

    def __init__(self, authenticator: Authenticator, clock: Clock, metrics: RpcMetrics) -> None:
        self._authenticator, self._clock, self._metrics = authenticator, clock, metrics
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of a method, wrapped if it is one of ours."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or method not in PERMISSIONS:
                return handler
            wrapped = self._wrap(method, handler)
            self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        inner = cast(Method, handler.unary_unary)

        async def guarded(request: Message, context: Context) -> Any:
            began = time.perf_counter()
            code = "OK"
            try:
                await self._enter(method, request, context)
                return await inner(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:
                status = translate(error, method)
                code = _CODE_NAMES[status.code]
                context.set_trailing_metadata(
                    (
                        *(context.trailing_metadata() or ()),
                        (STATUS_DETAILS, status.SerializeToString()),
                    )
                )
                await context.abort(_CODES[status.code], status.message)
            finally:
                self._metrics.observe(method, code, time.perf_counter() - began)

        return grpc.unary_unary_rpc_method_handler(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _enter(self, method: str, request: Message, context: Context) -> None:
        metadata = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        now = self._clock.now()
        principal = await self._authenticator.principal(method, metadata, now)
        call = Call(method, principal, self._cause(principal, metadata), now)
        enter_call(call)
        validate(request)

    def _cause(self, principal: Principal, metadata: Mapping[str, str]) -> Cause:
        traceparent = metadata.get("traceparent", "")[:TRACEPARENT_LENGTH_MAX]
        given = metadata.get(CORRELATION_METADATA, "")
        try:
            correlation_id = decode(Prefix.CORRELATION, given)
        except InvalidId:
            correlation_id = new_id(self._clock.now())
        return Cause(principal.actor, correlation_id, traceparent=traceparent)


_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
_CODE_NAMES: Final[Mapping[int, str]] = {value: code.name for value, code in _CODES.items()}
