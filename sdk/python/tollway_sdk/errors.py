"""Python SDK: what a failed call raises, by what a caller can do about it.

Invariant: each is still a grpc.aio.AioRpcError, so code that knows only that one goes on to work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from tollway.error.v1 import error_reason_pb2 as pb

STATUS_DETAILS: Final = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its path in the request, and what to write instead."""

    field: str
    description: str


class TollwayError(grpc.aio.AioRpcError):
    """A call failed.

    `reason` is a value of ErrorReason: unspecified when none came, or one that is newer than this package. The text
    in `reason_name`, such as "CUSTOMER_NOT_FOUND", is always what the server sent.
    """

    reason: pb.ErrorReason.ValueType
    reason_name: str
    metadata: Mapping[str, str]
    violations: tuple[Violation, ...]
    retry_after_s: float | None

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(
            error.code(),
            error.initial_metadata(),
            error.trailing_metadata(),
            error.details(),
            error.debug_error_string(),
        )
        info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
        for detail in _status(error).details:
            # Each has one detail of a kind, and no other kind is filled from it.
            _ = detail.Unpack(info) or detail.Unpack(retry) or detail.Unpack(bad)
        self.reason_name = info.reason
        name = f"ERROR_REASON_{info.reason}"
        self.reason = (
            pb.ErrorReason.Value(name)
            if name in pb.ErrorReason.keys()  # noqa: SIM118 - the enum's wrapper is no mapping
            else pb.ERROR_REASON_UNSPECIFIED
        )
        self.metadata = dict(info.metadata)
        self.violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
        delay = retry.retry_delay.ToTimedelta().total_seconds()
        self.retry_after_s = delay if retry.HasField("retry_delay") else None

    def __str__(self) -> str:
        return f"{self.details()} ({self.reason_name or self.code().name})"


class InvalidArgument(TollwayError):
    """The request is wrong in itself; `violations` names the fields."""


class Unauthenticated(TollwayError):
    """The key is missing, unknown, expired or revoked."""


class PermissionDenied(TollwayError):
    """The key lacks a scope."""


class NotFound(TollwayError):
    """There is no such thing in this tenant."""


class AlreadyExists(TollwayError):
    """The key, the external id or the request id is taken."""


class Aborted(TollwayError):
    """Somebody else was first: read again, then try again."""


class FailedPrecondition(TollwayError):
    """The state of the thing does not allow this."""


class ResourceExhausted(TollwayError):
    """A limit is reached; `retry_after_s` says when to try again, if waiting helps."""


class OutOfRange(TollwayError):
    """What is asked for is no longer, or not yet, in range."""


class Unavailable(TollwayError):
    """The server cannot be reached, or is busy. It was tried again by itself before this was raised."""


class DeadlineExceeded(TollwayError):
    """No answer came in time. Whether the call took effect is not known; a repeat with the same request_id is safe."""


_CLASS_OF: Final[Mapping[grpc.StatusCode, type[TollwayError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def typed(error: grpc.aio.AioRpcError) -> TollwayError:
    """The same failure in the class of its code."""
    return _CLASS_OF.get(error.code(), TollwayError)(error)


def _status(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS and isinstance(value, bytes):
            return Status.FromString(value)
    return Status()
