"""Webhook path, step 1 of 2: one delivery row per event and matching endpoint, in the transaction that took the event.

Invariant: per tenant, events times endpoints at fan-out = matched + filtered, counted in the same transaction as the
rows; per endpoint, matched = its delivery rows. A repeated run makes no row and counts none as matched.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.webhooks
from queries.webhooks import ListWebhooksOfRow
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.webhook import DeliveryStatus, EndpointStatus
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.services import events
from billing.services.incoming import Incoming
from billing.services.webhook_subjects import wants

# Goes to the endpoint that is its resource, whatever subjects that wants, and to no other.
PING: Final = events.subject_of(webhook_events_pb2.WebhookPing)
# A disabled endpoint's deliveries wait for it to be enabled again; nothing is thrown away.
_BEGINS_AS: Final = {
    EndpointStatus.ENABLED.value: DeliveryStatus.PENDING.value,
    EndpointStatus.DISABLED.value: DeliveryStatus.PARKED.value,
}


class _Matcher:
    """What one endpoint wants, each subject decided once in a batch."""

    def __init__(self, place: int, endpoint: ListWebhooksOfRow) -> None:
        self.place = place  # from 1, among the endpoints of the batch
        self._endpoint = endpoint
        self._decided: dict[str, bool] = {}

    def takes(self, event: Incoming) -> bool:
        if event.subject == PING:
            return event.resource == encode(Prefix.WEBHOOK_ENDPOINT, self._endpoint.id)
        decided = self._decided.get(event.subject)
        if decided is None:
            decided = self._decided[event.subject] = wants(self._endpoint.subjects, event.subject)
        return decided


async def fan_out(tx: Connection, incoming: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    """The handler of the consumer `webhooks`; no event ever waits.

    The endpoints are held until the deliveries are committed, so that a change of one comes before or after them. One
    that is created meanwhile gets the events of later batches, as promised.
    """
    tenant_ids = sorted({event.tenant_id for event in incoming})
    endpoints = await queries.webhooks.list_webhooks_of(tx, tenant_ids=tenant_ids)
    if not endpoints:
        return ()
    matchers: dict[UUID, list[_Matcher]] = defaultdict(list)
    for place, endpoint in enumerate(endpoints, 1):
        matchers[endpoint.tenant_id].append(_Matcher(place, endpoint))
    matched: list[tuple[int, Incoming]] = []
    filtered: Counter[tuple[UUID, int]] = Counter()
    for event in incoming:
        for matcher in matchers.get(event.tenant_id, ()):
            if matcher.takes(event):
                matched.append((matcher.place, event))
            else:
                filtered[event.tenant_id, event.partition] += 1
    await _make_deliveries(tx, endpoints, matched, now)
    await _count_filtered(tx, filtered)
    return ()


async def _make_deliveries(
    tx: Connection,
    endpoints: Sequence[ListWebhooksOfRow],
    matched: Sequence[tuple[int, Incoming]],
    now: datetime,
) -> None:
    if not matched:
        return
    await queries.webhooks.fan_out(
        tx,
        tenant_ids=[endpoint.tenant_id for endpoint in endpoints],
        webhook_ids=[endpoint.id for endpoint in endpoints],
        shards=[endpoint.shard for endpoint in endpoints],
        statuses=[_BEGINS_AS[endpoint.status] for endpoint in endpoints],
        places=[place for place, _ in matched],
        event_ids=[event.event_id for _, event in matched],
        subjects=[event.subject for _, event in matched],
        partitions=[event.partition for _, event in matched],
        now=now,
    )
    hints.wake(hints.DELIVERIES)


async def _count_filtered(tx: Connection, filtered: Counter[tuple[UUID, int]]) -> None:
    if filtered:
        await queries.webhooks.add_filtered(
            tx,
            tenant_ids=[tenant_id for tenant_id, _ in filtered],
            partitions=[partition for _, partition in filtered],
            counts=list(filtered.values()),
        )
