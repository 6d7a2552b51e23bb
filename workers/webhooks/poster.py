"""Webhook path, step 2: one attempt: body, signature, POST, and what the answer means.

Invariant: every request is signed over the very bytes that are sent, with the time of this attempt; 2xx is success and
nothing else.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from billing.domain.backoff import parse_retry_after
from billing.domain.errors import InvalidSecret
from billing.domain.signature import Secret, headers
from billing.runtime.clock import Clock
from billing.runtime.vault import Vault, VaultError
from billing.services.webhook_deliveries import Attempt, Claimed, Outcome
from workers.metrics import SenderMetrics
from workers.webhooks.body import BodyUnknown, body_of, message_id
from workers.webhooks.client import Answer, WebhookClient

log = logging.getLogger(__name__)

# An event that goes to many endpoints is written as JSON once; large bodies are not kept.
BODIES_KEPT: Final = 256
BODY_KEPT_BYTES_MAX: Final = 32 * 1024
HIDDEN: Final = "…"
HOUSE: Final = "house"  # how the metrics call a fault of our own
DURATION_MS_MAX: Final = 2**31 - 1
_JSON: Final = json.JSONEncoder(separators=(",", ":"))


class Poster:
    """Makes attempts; used as a context, which opens and closes the connections."""

    def __init__(
        self, client: WebhookClient, vault: Vault, clock: Clock, metrics: SenderMetrics
    ) -> None:
        self._client, self._vault, self._clock = client, vault, clock
        self.metrics = metrics
        self._bodies: OrderedDict[tuple[UUID, bool], bytes] = OrderedDict()
        outcomes = [*Outcome, HOUSE]
        self._attempts = {outcome: metrics.attempts.labels(outcome) for outcome in outcomes}
        self._firsts = {outcome: metrics.first_attempts.labels(outcome) for outcome in outcomes}

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(error_type, error, traceback)

    async def attempt(self, claimed: Claimed) -> Attempt:
        """Posts a claimed delivery. Never raises but for cancellation."""
        self.metrics.open_exchanges.inc()
        try:
            attempt = await self._attempt(claimed)
        finally:
            self.metrics.open_exchanges.dec()
        self._count(attempt)
        return attempt

    def _count(self, attempt: Attempt) -> None:
        outcome = HOUSE if attempt.ours else attempt.outcome
        self._attempts[outcome].inc()
        claimed = attempt.claimed
        if claimed.attempt_number == 1:
            self._firsts[outcome].inc()
        if attempt.outcome is Outcome.DELIVERED and not claimed.nonce:
            # An event's id holds the time when it was made.
            made_s = (claimed.event_id.int >> 80) / 1000
            ended_s = attempt.started_at.timestamp() + attempt.duration_ms / 1000
            self.metrics.delivered_after.observe(max(0.0, ended_s - made_s))

    async def _attempt(self, claimed: Claimed) -> Attempt:
        started_at, began = self._clock.now(), time.monotonic()
        sent: dict[str, str] = {}
        try:
            answer = await self._answer(claimed, started_at, sent)
        except (BodyUnknown, VaultError, InvalidSecret) as error:
            # Our own fault: nothing is sent, and the schedule gives a person, or a newer release, time to mend it.
            log.error("delivery of event %s was not sent: %s", claimed.event_id, error)
            answer = Answer(error=f"not_sent: {error}", ours=True)
        except Exception as error:
            # One receiver's oddity must not end the deliveries to all others.
            log.exception("an attempt for endpoint %s failed", claimed.webhook_id)
            answer = Answer(error=f"internal: {type(error).__name__}", ours=True)
        duration_ms = min(int((time.monotonic() - began) * 1000), DURATION_MS_MAX)
        return _judge(claimed, answer, started_at, duration_ms, sent)

    async def _answer(self, claimed: Claimed, now: datetime, sent: dict[str, str]) -> Answer:
        """Posts; `sent` gets the headers, the tenant's own without their values, which may be secret."""
        body = self._body(claimed)
        secrets = [Secret(self._vault.decrypt(text)) for text in claimed.ciphertexts]
        if not secrets:
            raise InvalidSecret("the endpoint has no valid secret")
        signed = headers(message_id(claimed.event_id, claimed.nonce), now, body, secrets)
        # The house's own come last: whatever was stored, they win.
        own = {**signed, "Content-Type": "application/json"}
        tenants = {} if claimed.headers == "{}" else json.loads(claimed.headers)
        sent.update({**dict.fromkeys(tenants, HIDDEN), **own})
        return await self._client.post(claimed.url, {**tenants, **own}, body)

    def _body(self, claimed: Claimed) -> bytes:
        thin = claimed.payload == "thin"
        key = claimed.event_id, thin
        body = self._bodies.get(key)
        if body is None:
            body = body_of(claimed.envelope, thin=thin)
            if len(body) <= BODY_KEPT_BYTES_MAX:
                self._bodies[key] = body
                if len(self._bodies) > BODIES_KEPT:
                    self._bodies.popitem(last=False)
        return body


def _judge(
    claimed: Claimed,
    answer: Answer,
    started_at: datetime,
    duration_ms: int,
    sent: Mapping[str, str],
) -> Attempt:
    outcome, error = Outcome.FAILED, answer.error
    if not error and answer.status is not None:
        delivered = 200 <= answer.status < 300
        outcome = Outcome.DELIVERED if delivered else Outcome.REFUSED
        error = "" if delivered else f"status: {answer.status}"
    return Attempt(
        claimed,
        outcome,
        started_at,
        duration_ms,
        random.randint(0, 1000),
        answer.status,
        answer.head,
        parse_retry_after(answer.retry_after, started_at) if answer.retry_after else None,
        error,
        answer.address,
        answer.ours,
        _JSON.encode(sent) if sent else "",
    )
