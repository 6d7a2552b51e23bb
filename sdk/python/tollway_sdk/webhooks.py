"""Python SDK: a delivered event, once its signature held.

Invariant: nothing of a body is read before it is verified, by the standardwebhooks library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


class InvalidWebhook(Exception):
    """The request is not from the sender, or not from now: answer 401."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """An event as delivered. Handle each `id` once, and drop what has a lower `resource_version` than you have."""

    id: str
    type: str
    resource_id: str
    resource_version: int
    data: Mapping[str, Any]
    body: Mapping[str, Any]


def verify_webhook(secret: str, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
    """The event of a request: `secret` is the endpoint's, `body` the bytes as they came. Raises InvalidWebhook."""
    lower = {name.lower(): value for name, value in headers.items()}
    verifier = Webhook(secret)
    try:
        verifier.verify(body, lower)
    except (WebhookVerificationError, ValueError) as error:
        # The library splits and decodes what was sent before it compares.
        raise InvalidWebhook(str(error)) from error
    event = json.loads(body)
    return WebhookEvent(
        id=lower["webhook-id"],
        type=event["type"],
        resource_id=event["resource_id"],
        resource_version=int(event["resource_version"]),
        data=event["data"],
        body=event,
    )
