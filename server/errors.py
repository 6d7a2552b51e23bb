"""The rim, step 1: the only place that turns an error into a gRPC status, and the only place that aborts.

Invariant: every error that leaves has exactly one google.rpc.ErrorInfo; nothing of the driver or of our insides does.
An unexpected one leaves as INTERNAL with a reference id, and the log has the same id beside the stack.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from billing.domain.errors import BillingError, Kind, Unavailable, Violation
from billing.runtime.faults import Fault, fault_of

log = logging.getLogger(__name__)

DOMAIN: Final = "tollway"
STATUS_DETAILS: Final = "grpc-status-details-bin"

_CODE_OF: Final[Mapping[Kind, grpc.StatusCode]] = {
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
    Kind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
}

CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
CODE_NAMES: Final[Mapping[int, str]] = {number: code.name for number, code in CODES.items()}

# What is raised when trying again helps, beside the states that billing.runtime.faults knows.
_LOST: Final = (
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    asyncpg.InvalidCachedStatementError,  # a migration ran since the statement was prepared
)

# Clients refuse trailers above 8 KiB, and then the error is not told at all.
MESSAGE_CHARACTERS_MAX: Final = 400
DESCRIPTION_CHARACTERS_MAX: Final = 200
DETAILS_BYTES_MAX: Final = 4096


class MethodNotFound(BillingError):
    """This server has no such method; `grpcurl … list` shows those that it has."""

    kind = Kind.UNIMPLEMENTED
    reason = "METHOD_NOT_FOUND"


class InternalError(Exception):
    """A fault of the server; the reference id finds its log line."""


def status_code(error: BillingError) -> grpc.StatusCode:
    """The gRPC code of an error's kind."""
    return _CODE_OF[error.kind]


def rich_status(error: BillingError) -> Status:
    """The google.rpc.Status of an expected error: ErrorInfo, then RetryInfo and BadRequest where they help.

    Of very many violations the first are told, as many as a client can receive.
    """
    status = _status(status_code(error), error.message)
    metadata = {key: _cut(value) for key, value in error.metadata.items()}
    _add(status, ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.retry_after_s is not None:
        _add(status, RetryInfo(retry_delay=duration_pb2.Duration(seconds=error.retry_after_s)))
    if error.violations:
        _add(status, _bad_request(error.violations, DETAILS_BYTES_MAX - status.ByteSize()))
    return status


def internal_status(reference_id: str) -> Status:
    """The google.rpc.Status of an unexpected error."""
    text = f"Something went wrong on our side; the reference is {reference_id}."
    status = _status(grpc.StatusCode.INTERNAL, text)
    metadata = {"reference_id": reference_id}
    _add(status, ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata=metadata))
    return status


def translate(error: Exception, method: str) -> Status:
    """What the caller is told of any error; logs what is not expected."""
    if isinstance(error, BillingError):
        if isinstance(error, Unavailable):
            log.warning("%s: %s (%r)", method, error.message, error.__cause__)
        return rich_status(error)
    if _passes(error):
        log.warning("%s: %s: %s", method, type(error).__name__, error)
        return rich_status(Unavailable(retry_after_s=1))
    reference_id = secrets.token_hex(8)
    log.error("%s failed unexpectedly, reference %s", method, reference_id, exc_info=error)
    return internal_status(reference_id)


def _passes(error: Exception) -> bool:
    """Whether the database was away, busy or changing, so that the same call may succeed in a second."""
    if isinstance(error, asyncpg.InterfaceError):
        # The driver's own complaints: a closed connection or pool passes, a wrong use of it does not.
        return "clos" in str(error)
    if isinstance(error, asyncpg.PostgresError) and fault_of(error) is not Fault.DATA:
        return True
    return isinstance(error, _LOST)


def _bad_request(violations: Sequence[Violation], bytes_max: int) -> BadRequest:
    told = BadRequest()
    for violation in violations:
        told.field_violations.add(
            field=_cut(violation.path), description=_cut(violation.description)
        )
        if told.ByteSize() > bytes_max and len(told.field_violations) > 1:
            del told.field_violations[-1]
            break
    return told


def _cut(text: str) -> str:
    return text[:DESCRIPTION_CHARACTERS_MAX]


def _status(code: grpc.StatusCode, message: str) -> Status:
    return Status(code=Code.Value(code.name), message=message[:MESSAGE_CHARACTERS_MAX])


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)
