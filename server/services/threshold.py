"""The rim's ThresholdService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.usage.v1 import threshold_service_pb2 as pb
from tollway.usage.v1 import threshold_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import usage_thresholds as thresholds
from billing.services.rows import UsageThreshold
from billing.services.usage_thresholds import NewThreshold, ThresholdValue
from server.call import Call
from server.convert import optional_id, to_decimal, to_money, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token


class ThresholdServicer(rpc.ThresholdServiceServicer):
    """What a customer's usage is watched for."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateThreshold(
        self, request: pb.CreateThresholdRequest, context: Context
    ) -> pb.CreateThresholdResponse:
        """See the proto."""
        draft = NewThreshold(
            optional_id(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
            request.external_customer_id,
            request.meter_key,
            _value(request),
            request.note,
        )

        async def work(tx: Connection, call: Call) -> pb.CreateThresholdResponse:
            row = await thresholds.create_threshold(tx, call.tenant_id, draft, now=call.now)
            return pb.CreateThresholdResponse(threshold=_to_threshold(row))

        return await self._house.mutate(request, pb.CreateThresholdResponse, work)

    async def GetThreshold(
        self, request: pb.GetThresholdRequest, context: Context
    ) -> pb.GetThresholdResponse:
        """See the proto."""
        threshold_id = decode(Prefix.THRESHOLD, request.threshold_id, path="threshold_id")

        async def work(tx: Connection, call: Call) -> pb.GetThresholdResponse:
            row = await thresholds.get_threshold(tx, call.tenant_id, threshold_id)
            return pb.GetThresholdResponse(threshold=_to_threshold(row))

        return await self._house.read(work)

    async def ListThresholds(
        self, request: pb.ListThresholdsRequest, context: Context
    ) -> pb.ListThresholdsResponse:
        """See the proto."""
        customer_id = optional_id(Prefix.CUSTOMER, request.customer_id, path="customer_id")
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListThresholdsResponse:
            rows = await thresholds.list_thresholds(
                tx, call.tenant_id, customer_id, before, limit=page_size(request.page_size) + 1
            )
            page, token = cut_page(request, rows, [row.id for row in rows])
            return pb.ListThresholdsResponse(
                thresholds=[_to_threshold(row) for row in page], next_page_token=token
            )

        return await self._house.read(work)

    async def UpdateThreshold(
        self, request: pb.UpdateThresholdRequest, context: Context
    ) -> pb.UpdateThresholdResponse:
        """See the proto."""
        threshold_id = decode(Prefix.THRESHOLD, request.threshold_id, path="threshold_id")
        changed = set(request.update_mask.paths)

        async def work(tx: Connection, call: Call) -> pb.UpdateThresholdResponse:
            row = await thresholds.update_threshold(
                tx, call.tenant_id, threshold_id, changed, _value(request), request.note
            )
            return pb.UpdateThresholdResponse(threshold=_to_threshold(row))

        return await self._house.mutate(request, pb.UpdateThresholdResponse, work)

    async def DeleteThreshold(
        self, request: pb.DeleteThresholdRequest, context: Context
    ) -> pb.DeleteThresholdResponse:
        """See the proto."""
        threshold_id = decode(Prefix.THRESHOLD, request.threshold_id, path="threshold_id")

        async def work(tx: Connection, call: Call) -> pb.DeleteThresholdResponse:
            await thresholds.delete_threshold(tx, call.tenant_id, threshold_id)
            return pb.DeleteThresholdResponse()

        return await self._house.mutate(request, pb.DeleteThresholdResponse, work)


def _value(request: pb.CreateThresholdRequest | pb.UpdateThresholdRequest) -> ThresholdValue:
    if request.WhichOneof("value") == "amount":
        return ThresholdValue(
            amount=request.amount.minor_units, currency=request.amount.currency_code
        )
    return ThresholdValue(quantity=request.quantity)


def _to_threshold(row: UsageThreshold) -> pb.Threshold:
    threshold = pb.Threshold(
        id=encode(Prefix.THRESHOLD, row.id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        meter_id=encode(Prefix.METER, row.meter_id) if row.meter_id else "",
        note=row.note,
        create_time=to_timestamp(row.created_at),
    )
    if row.quantity is not None:
        threshold.quantity = to_decimal(row.quantity)
    if row.amount is not None and row.currency is not None:
        threshold.amount.CopyFrom(to_money(row.amount, row.currency))
    return threshold
