"""The rim's WebhookDeliveryService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from tollway.webhook.v1 import delivery_service_pb2 as pb
from tollway.webhook.v1 import delivery_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.domain.webhook import DeliveryStatus
from billing.runtime.db import Connection
from billing.services import (
    webhook_balance,
    webhook_explain,
    webhook_history,
    webhook_resend,
    webhook_stats,
)
from billing.services.webhook_history import (
    NEWEST,
    DeliveryFilter,
    DeliveryKey,
    DeliveryRow,
    message_id,
)
from server.call import Call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_keyed_page, cut_page, page_size, read_key, read_token

_PENDING: Final = DeliveryStatus.PENDING
_STATUS: Final[dict[int, DeliveryStatus]] = {
    pb.DELIVERY_STATUS_PENDING: DeliveryStatus.PENDING,
    pb.DELIVERY_STATUS_PARKED: DeliveryStatus.PARKED,
    pb.DELIVERY_STATUS_DELIVERED: DeliveryStatus.DELIVERED,
    pb.DELIVERY_STATUS_DEAD: DeliveryStatus.DEAD,
    pb.DELIVERY_STATUS_CANCELED: DeliveryStatus.CANCELED,
}


class WebhookDeliveryServicer(rpc.WebhookDeliveryServiceServicer):
    """What became of deliveries, and sending again."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: Context
    ) -> pb.ListDeliveriesResponse:
        """See the proto."""
        selected = DeliveryFilter(
            _endpoint_or_none(request.endpoint_id),
            decode(Prefix.EVENT, request.event_id, path="event_id") if request.event_id else None,
            _STATUS.get(request.status),
            request.subject or None,
        )
        before = _position(read_key(request, DeliveryKey.SIZE))

        async def work(tx: Connection, call: Call) -> pb.ListDeliveriesResponse:
            most = page_size(request.page_size) + 1
            found = await webhook_history.list_deliveries(
                tx, call.tenant_id, selected, before=before, most=most
            )
            rows, token = cut_keyed_page(request, found, lambda place: _key(found[place]))
            deliveries = [to_delivery(row) for row in rows]
            return pb.ListDeliveriesResponse(deliveries=deliveries, next_page_token=token)

        return await self._house.read(work)

    async def GetDelivery(
        self, request: pb.GetDeliveryRequest, context: Context
    ) -> pb.GetDeliveryResponse:
        """See the proto."""
        key = DeliveryKey(
            decode(Prefix.EVENT, request.event_id, path="event_id"),
            decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id"),
            request.resend,
        )

        async def work(tx: Connection, call: Call) -> pb.GetDeliveryResponse:
            row, attempts = await webhook_history.get_delivery(tx, call.tenant_id, key)
            return pb.GetDeliveryResponse(
                delivery=to_delivery(row),
                attempts=[
                    pb.DeliveryAttempt(
                        number=attempt.attempt_number,
                        outcome=pb.AttemptOutcome.Value(
                            f"ATTEMPT_OUTCOME_{attempt.outcome.upper()}"
                        ),
                        start_time=to_timestamp(attempt.started_at),
                        duration_ms=attempt.duration_ms,
                        response_status=attempt.response_status or 0,
                        response_head=attempt.response_head.decode("utf-8", "replace"),
                        error_class=attempt.error.partition(":")[0],
                        error=attempt.error,
                        address=attempt.address,
                        request_headers=json.loads(attempt.request_headers or "{}"),
                    )
                    for attempt in attempts
                ],
            )

        return await self._house.read(work, snapshot=True)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        """See the proto."""
        webhook_id = _endpoint_or_none(request.endpoint_id)
        before = _position(read_key(request, DeliveryKey.SIZE))

        async def work(tx: Connection, call: Call) -> pb.ListDeadLettersResponse:
            found = await webhook_history.list_dead_letters(
                tx,
                call.tenant_id,
                webhook_id,
                before=before,
                most=page_size(request.page_size) + 1,
            )
            rows, token = cut_keyed_page(
                request,
                found,
                lambda place: DeliveryKey(
                    found[place].event_id, found[place].webhook_id, found[place].nonce
                ).to_bytes(),
            )
            letters = [
                pb.DeadLetter(
                    endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, row.webhook_id),
                    event_id=encode(Prefix.EVENT, row.event_id),
                    resend=row.nonce,
                    subject=row.subject,
                    attempts=row.attempts,
                    last_error=row.last_error,
                    die_time=to_timestamp(row.died_at),
                )
                for row in rows
            ]
            return pb.ListDeadLettersResponse(dead_letters=letters, next_page_token=token)

        return await self._house.read(work)

    async def ResendDelivery(
        self, request: pb.ResendDeliveryRequest, context: Context
    ) -> pb.ResendDeliveryResponse:
        """See the proto."""
        webhook_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")
        event_id = decode(Prefix.EVENT, request.event_id, path="event_id")

        async def work(tx: Connection, call: Call) -> pb.ResendDeliveryResponse:
            made = await webhook_resend.resend(
                tx,
                call.tenant_id,
                DeliveryKey(event_id, webhook_id, 0),
                now=call.now,
            )
            call.resource = f"{request.endpoint_id}/{message_id(event_id, made.nonce)}"
            return pb.ResendDeliveryResponse(delivery=to_delivery(made))

        return await self._house.mutate(request, pb.ResendDeliveryResponse, work)

    async def GetBalance(
        self, request: pb.GetBalanceRequest, context: Context
    ) -> pb.GetBalanceResponse:
        """See the proto."""
        webhook_id = _endpoint_or_none(request.endpoint_id)
        after = read_token(request) or webhook_balance.FIRST

        async def work(tx: Connection, call: Call) -> pb.GetBalanceResponse:
            most = page_size(request.page_size) + 1
            balance = await webhook_balance.get_balance(
                tx, call.tenant_id, webhook_id, after=after, most=most
            )
            found = balance.endpoints
            rows, token = cut_page(request, found, [row.webhook_id for row in found])
            return pb.GetBalanceResponse(
                endpoints=[
                    pb.EndpointBalance(
                        endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, row.webhook_id),
                        matched=row.matched,
                        resent=row.resent,
                        delivered=row.delivered,
                        pending=row.pending,
                        parked=row.parked,
                        dead=row.dead,
                        canceled=row.canceled,
                        balanced=webhook_balance.is_balanced(row),
                    )
                    for row in rows
                ],
                matched=balance.matched,
                filtered=balance.filtered,
                next_page_token=token,
            )

        return await self._house.read(work, snapshot=True)

    async def ExplainDelivery(
        self, request: pb.ExplainDeliveryRequest, context: Context
    ) -> pb.ExplainDeliveryResponse:
        """See the proto."""
        webhook_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")
        event_id = decode(Prefix.EVENT, request.event_id, path="event_id")

        async def work(tx: Connection, call: Call) -> pb.ExplainDeliveryResponse:
            told = await webhook_explain.explain(
                tx, call.tenant_id, webhook_id, event_id, now=call.now
            )
            return pb.ExplainDeliveryResponse(
                verdict=pb.DeliveryVerdict.Value(f"DELIVERY_VERDICT_{told.verdict.upper()}"),
                explanation=told.text,
                subject=told.subject,
                endpoint_subjects=told.patterns,
                matching_subjects=told.matching,
                next_attempt_time=to_timestamp(told.next_at),
                ahead=told.ahead,
                delivery=to_delivery(told.delivery) if told.delivery else None,
            )

        return await self._house.read(work, snapshot=True)

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """See the proto."""
        webhook_id = _endpoint_or_none(request.endpoint_id)
        after = read_token(request) or webhook_stats.FIRST
        window = webhook_stats.WINDOW_DEFAULT
        if request.HasField("window"):
            # More than the most is as much as the most, also where Python's own durations end.
            seconds = min(request.window.seconds, int(webhook_stats.WINDOW_MAX.total_seconds()))
            window = timedelta(seconds=seconds, microseconds=request.window.nanos / 1_000)

        async def work(tx: Connection, call: Call) -> pb.GetStatsResponse:
            page = (after, page_size(request.page_size) + 1)
            stats = await webhook_stats.get_stats(
                tx, call.tenant_id, webhook_id, window, page, now=call.now
            )
            found = stats.endpoints
            rows, token = cut_page(request, found, [row.webhook_id for row in found])
            return pb.GetStatsResponse(
                endpoints=[to_stats(row, call.now) for row in rows],
                tenant=to_figures(stats.tenant),
                next_page_token=token,
            )

        return await self._house.read(work, snapshot=True)


def to_figures(row: webhook_stats.Figures) -> pb.DeliveryFigures:
    """How deliveries went, for the wire."""
    return pb.DeliveryFigures(
        deliveries=row.deliveries,
        attempted=row.tried,
        first_attempt_delivered=row.at_once,
        delivered=row.delivered,
        p50_ms=row.p50_ms,
        p95_ms=row.p95_ms,
        p99_ms=row.p99_ms,
    )


def to_stats(row: webhook_stats.EndpointRow, now: datetime) -> pb.EndpointStats:
    """The figures of one endpoint for the wire."""
    breaker = webhook_stats.breaker_of(row, now)
    return pb.EndpointStats(
        endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, row.webhook_id),
        figures=to_figures(row),
        undelivered=row.undelivered,
        oldest_undelivered_time=to_timestamp(row.oldest),
        breaker=pb.BreakerState.Value(f"BREAKER_STATE_{breaker.upper()}"),
        open_until=to_timestamp(row.open_until),
        failures_in_a_row=row.failures or 0,
        failing_since=to_timestamp(row.failing_since),
        next_probe_time=to_timestamp(row.probe_at if row.status == "disabled" else None),
        disabled_reason=row.disabled_reason,
    )


def to_delivery(row: DeliveryRow) -> pb.Delivery:
    """A stored delivery for the wire."""
    return pb.Delivery(
        endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, row.webhook_id),
        event_id=encode(Prefix.EVENT, row.event_id),
        resend=row.nonce,
        message_id=message_id(row.event_id, row.nonce),
        subject=row.subject,
        status=pb.DeliveryStatus.Value(f"DELIVERY_STATUS_{row.status.upper()}"),
        attempts=row.attempts,
        next_attempt_time=to_timestamp(row.due_at if row.status == _PENDING else None),
        create_time=to_timestamp(row.created_at),
        finish_time=to_timestamp(row.finished_at),
        forgiven=row.forgiven,
    )


def _endpoint_or_none(text: str) -> UUID | None:
    return decode(Prefix.WEBHOOK_ENDPOINT, text, path="endpoint_id") if text else None


def _position(raw: bytes | None) -> DeliveryKey:
    return NEWEST if raw is None else DeliveryKey.from_bytes(raw)


def _key(row: DeliveryRow) -> bytes:
    return DeliveryKey(row.event_id, row.webhook_id, row.nonce).to_bytes()
