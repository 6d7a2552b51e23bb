"""The rim's RatingService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tollway.error.v1 import error_reason_pb2
from tollway.invoice.v1.invoice_service_pb2 import LineKind
from tollway.rating.v1 import rating_service_pb2 as pb
from tollway.rating.v1 import rating_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services.charges import RunningCharge, get_charges
from billing.services.quantity_reads import group_of
from billing.services.rating_failures import (
    START,
    RatingFailure,
    list_failures,
    retry_rating,
)
from billing.services.running_commitments import RunningCommitment
from server.call import Call, current_call
from server.convert import to_decimal, to_money, to_range, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_keyed_page, page_size, read_key

_KEY_BYTES: Final = 32  # tenant and subscription


class RatingServicer(rpc.RatingServiceServicer):
    """Shows what usage costs so far."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GetCharges(
        self, request: pb.GetChargesRequest, context: Context
    ) -> pb.GetChargesResponse:
        """See the proto."""
        named = (
            decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")
            if request.subscription_id
            else None
        )

        async def work(tx: Connection, call: Call) -> pb.GetChargesResponse:
            charges = await get_charges(
                tx,
                call.tenant_id,
                subscription_id=named,
                external_id=request.external_subscription_id,
            )
            return pb.GetChargesResponse(
                charges=[
                    *map(to_charge, charges.rows),
                    *map(to_commitment, charges.commitments),
                ],
                failure=charges.failure,
            )

        return await self._house.read(work, snapshot=True)

    async def ListRatingFailures(
        self, request: pb.ListRatingFailuresRequest, context: Context
    ) -> pb.ListRatingFailuresResponse:
        """See the proto."""
        tenant_id = current_call().principal.tenant_id
        key = read_key(request, _KEY_BYTES)
        after = START if key is None else (UUID(bytes=key[:16]), UUID(bytes=key[16:]))
        limit = page_size(request.page_size) + 1
        async with self._house.worker.connection() as connection:
            rows = await list_failures(connection, tenant_id, after=after, limit=limit)
        page, token = cut_keyed_page(
            request, rows, lambda n: rows[n].tenant_id.bytes + rows[n].id.bytes
        )
        return pb.ListRatingFailuresResponse(failures=map(to_failure, page), next_page_token=token)

    async def RetryRating(
        self, request: pb.RetryRatingRequest, context: Context
    ) -> pb.RetryRatingResponse:
        """See the proto."""
        named = decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")

        async def work(tx: Connection, call: Call) -> pb.RetryRatingResponse:
            row = await retry_rating(tx, call.tenant_id, named)
            return pb.RetryRatingResponse(failure=to_failure(row))

        return await self._house.mutate(request, pb.RetryRatingResponse, work)


def to_failure(row: RatingFailure) -> pb.RatingFailure:
    """A failed rating for the wire."""
    reason = f"ERROR_REASON_{row.rating_failure or 'UNSPECIFIED'}"
    return pb.RatingFailure(
        subscription_id=encode(Prefix.SUBSCRIPTION, row.id),
        tenant_id=encode(Prefix.TENANT, row.tenant_id),
        external_subscription_id=row.external_id or "",
        reason=error_reason_pb2.ErrorReason.Value(reason),
        message=row.rating_error,
        attempts=row.rating_attempts,
        retry_time=to_timestamp(row.rating_retry_at),
    )


def to_commitment(one: RunningCommitment) -> pb.Charge:
    """What a billing period lacks to its commitment, for the wire."""
    return pb.Charge(
        period=to_range(one.period.start, one.period.end),
        quantity="0",
        amount=to_money(one.amount.minor_units, one.amount.currency),
        kind=LineKind.LINE_KIND_COMMITMENT,
    )


def to_charge(row: RunningCharge) -> pb.Charge:
    """A running charge for the wire."""
    return pb.Charge(
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, row.item_id),
        meter_id=encode(Prefix.METER, row.meter_id),
        price_id=encode(Prefix.PRICE, row.price_id),
        period=to_range(row.period_start, row.period_end),
        quantity=to_decimal(row.quantity),
        amount=to_money(row.amount, row.currency),
        rate_time=to_timestamp(row.rated_at),
        kind=LineKind.Value(f"LINE_KIND_{row.kind.upper()}"),
        dimensions=dict(zip(row.group_by, group_of(row.group_key), strict=False)),
    )
