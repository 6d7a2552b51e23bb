"""The rim, step 1: the only place that turns an error into a gRPC status, and the only place that aborts.

Invariant: every error that leaves has exactly one google.rpc.ErrorInfo; nothing of the driver or of our insides does.
An unexpected one leaves as INTERNAL with a reference id, and the log has the same id beside the stack.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from billing.domain.errors import BillingError, Kind, Unavailable

log = logging.getLogger(__name__)

DOMAIN: Final = "tollway"
STATUS_DETAILS: Final = "grpc-status-details-bin"

_CODES: Final[Mapping[Kind, grpc.StatusCode]] = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.PERMISSION: grpc.StatusCode.PERMISSION_DENIED,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.OUT_OF_RANGE: grpc.StatusCode.OUT_OF_RANGE,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}

# The database is there but could not do it now: trying again helps.
_PASSING: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.CrashShutdownError,
    asyncpg.TransactionTimeoutError,
    ConnectionError,
    TimeoutError,
)


class InternalError(Exception):
    """A fault of the server; the reference id finds its log line."""


def status_code(error: BillingError) -> grpc.StatusCode:
    """The gRPC code of an error's kind."""
    return _CODES[error.kind]


def rich_status(error: BillingError) -> Status:
    """The google.rpc.Status of an expected error: ErrorInfo, then BadRequest and RetryInfo where they help."""
    details: list[Any] = [
        ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
    ]
    if error.violations:
        fields = [
            BadRequest.FieldViolation(field=violation.path, description=violation.description)
            for violation in error.violations
        ]
        details.append(BadRequest(field_violations=fields))
    if error.retry_after_s is not None:
        details.append(RetryInfo(retry_delay=duration_pb2.Duration(seconds=error.retry_after_s)))
    return _status(status_code(error), error.message, details)


def internal_status(reference_id: str) -> Status:
    """The google.rpc.Status of an unexpected error."""
    info = ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"reference_id": reference_id})
    text = f"Something went wrong on our side; the reference is {reference_id}."
    return _status(grpc.StatusCode.INTERNAL, text, [info])


def translate(error: Exception, method: str) -> Status:
    """What the caller is told of any error; logs what is not expected."""
    if isinstance(error, BillingError):
        return rich_status(error)
    if isinstance(error, _PASSING):
        log.warning("%s: %s: %s", method, type(error).__name__, error)
        return rich_status(Unavailable(retry_after_s=1))
    reference_id = secrets.token_hex(8)
    log.error("%s failed unexpectedly, reference %s", method, reference_id, exc_info=error)
    return internal_status(reference_id)


def _status(code: grpc.StatusCode, message: str, details: list[Any]) -> Status:
    status = Status(code=Code.Value(code.name), message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
