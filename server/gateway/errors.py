"""The rim over HTTP, step 3: an error as google.rpc.Status in JSON, under the HTTP code that says the same.

Invariant: the body of every error under /v1/ is a Status with exactly one ErrorInfo, also of those that never reached a
method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from google.protobuf import json_format
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from billing.domain.errors import (
    BillingError,
    Exhausted,
    Invalid,
    NotFound,
    Unauthenticated,
)
from server.deadlines import TookTooLong
from server.errors import rich_status
from server.gateway.local_call import Refused

JSON: Final = "application/json"

# As google/rpc/code.proto maps them.
_HTTP_OF: Final[Mapping[int, int]] = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.UNAUTHENTICATED: 401,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
}


class RouteNotFound(NotFound):
    """No method has this path; /openapi.json lists them all."""

    reason = "ROUTE_NOT_FOUND"


class MethodNotAllowed(Invalid):
    """The path is there, but not with this HTTP method; the Allow header lists those that it has."""

    reason = "METHOD_NOT_ALLOWED"


class BodyTooLarge(Exhausted):
    """The body of the request is larger than a message may be; send less at once."""

    reason = "BODY_TOO_LARGE"


class NotJson(Invalid):
    """The body of a request is JSON; send it with `Content-Type: application/json`."""

    reason = "NOT_JSON"


class CertificateMissing(Unauthenticated):
    """This server demands a client certificate of its authority; connect with one."""

    reason = "CERTIFICATE_MISSING"


# Where HTTP has a code of its own for what happened.
_HTTP_OF_REASON: Final[Mapping[str, int]] = {
    MethodNotAllowed.reason: 405,
    BodyTooLarge.reason: 413,
    NotJson.reason: 415,
    TookTooLong.reason: 504,
}


def http_code(status: Status, reason: str = "") -> int:
    """The HTTP code of a status; some reasons have one of their own."""
    return _HTTP_OF_REASON.get(reason) or _HTTP_OF.get(status.code, 500)


def status_json(status: Status) -> str:
    """The status as one line of JSON."""
    return json_format.MessageToJson(
        status, preserving_proto_field_name=True, indent=None, ensure_ascii=False
    )


def told(error: Refused | BillingError) -> Status:
    """What the caller is told of an error, whether a method ended with it or it never came to one."""
    return error.status if isinstance(error, Refused) else rich_status(error)


def refusal(error: Refused | BillingError) -> web.Response:
    """The answer that an error is."""
    return error_response(told(error))


def error_response(status: Status) -> web.Response:
    """The whole answer: code, body, and the headers by which HTTP clients know what to do."""
    headers, reason = {}, ""
    for detail in status.details:
        retry, info = RetryInfo(), ErrorInfo()
        if detail.Unpack(info):
            reason = (
                info.reason
            )  # also of what the gateway refused within a method that reads its stream
        if detail.Unpack(retry):
            # Whole seconds, and rounded up: an earlier retry is refused again.
            headers["Retry-After"] = str(retry.retry_delay.seconds + (retry.retry_delay.nanos > 0))
    code = http_code(status, reason)
    if code == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tollway"'
    return web.Response(text=status_json(status), status=code, headers=headers, content_type=JSON)
