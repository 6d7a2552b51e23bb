"""Python SDK: a client of Tollway for asyncio. The messages and stubs are the generated package `tollway` beside it."""

from tollway.error.v1.error_reason_pb2 import ErrorReason

from tollway_sdk.client import Tollway
from tollway_sdk.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    TollwayError,
    Unauthenticated,
    Unavailable,
    Violation,
)
from tollway_sdk.pages import pages
from tollway_sdk.webhooks import InvalidWebhook, WebhookEvent, verify_webhook

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "ErrorReason",
    "FailedPrecondition",
    "InvalidArgument",
    "InvalidWebhook",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Tollway",
    "TollwayError",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "WebhookEvent",
    "pages",
    "verify_webhook",
]
