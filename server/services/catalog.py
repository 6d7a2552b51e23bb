"""The rim's CatalogService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.catalog.v1 import catalog_service_pb2 as pb
from tollway.catalog.v1 import catalog_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services import catalog, catalog_changes, prices
from server.call import Call
from server.catalog_convert import (
    from_create_meter,
    from_create_plan,
    from_create_price,
    from_supersede_price,
    to_meter,
    to_plan,
    to_price,
)
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token


class CatalogServicer(rpc.CatalogServiceServicer):
    """Meters, plans and prices."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateMeter(
        self, request: pb.CreateMeterRequest, context: Context
    ) -> pb.CreateMeterResponse:
        """See the proto."""
        draft = from_create_meter(request)

        async def work(tx: Connection, call: Call) -> pb.CreateMeterResponse:
            meter = await catalog.create_meter(tx, call.tenant_id, draft, call.cause, now=call.now)
            return pb.CreateMeterResponse(meter=to_meter(meter))

        return await self._house.mutate(request, pb.CreateMeterResponse, work)

    async def GetMeter(self, request: pb.GetMeterRequest, context: Context) -> pb.GetMeterResponse:
        """See the proto."""
        named = (
            decode(Prefix.METER, request.meter_id, path="meter_id") if request.meter_id else None
        )

        async def work(tx: Connection, call: Call) -> pb.GetMeterResponse:
            meter = await catalog.get_meter(tx, call.tenant_id, meter_id=named, key=request.key)
            return pb.GetMeterResponse(meter=to_meter(meter))

        return await self._house.read(work)

    async def ListMeters(
        self, request: pb.ListMetersRequest, context: Context
    ) -> pb.ListMetersResponse:
        """See the proto."""
        before = read_token(request)
        aggregation = pb.Aggregation.Name(request.aggregation).removeprefix("AGGREGATION_").lower()

        async def work(tx: Connection, call: Call) -> pb.ListMetersResponse:
            found = await catalog_changes.list_meters(
                tx,
                call.tenant_id,
                aggregation=aggregation if request.aggregation else None,
                include_archived=request.include_archived,
                before=before,
                limit=page_size(request.page_size) + 1,
            )
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListMetersResponse(meters=map(to_meter, rows), next_page_token=token)

        return await self._house.read(work)

    async def UpdateMeter(
        self, request: pb.UpdateMeterRequest, context: Context
    ) -> pb.UpdateMeterResponse:
        """See the proto."""
        meter_id = decode(Prefix.METER, request.meter_id, path="meter_id")
        change = catalog_changes.Renaming(
            request.update_mask.paths, request.display_name, request.etag
        )

        async def work(tx: Connection, call: Call) -> pb.UpdateMeterResponse:
            meter = await catalog_changes.update_meter(
                tx, call.tenant_id, meter_id, change, call.cause, now=call.now
            )
            return pb.UpdateMeterResponse(meter=to_meter(meter))

        return await self._house.mutate(request, pb.UpdateMeterResponse, work)

    async def ArchiveMeter(
        self, request: pb.ArchiveMeterRequest, context: Context
    ) -> pb.ArchiveMeterResponse:
        """See the proto."""
        meter_id = decode(Prefix.METER, request.meter_id, path="meter_id")

        async def work(tx: Connection, call: Call) -> pb.ArchiveMeterResponse:
            meter = await catalog_changes.archive_meter(
                tx, call.tenant_id, meter_id, call.cause, now=call.now
            )
            return pb.ArchiveMeterResponse(meter=to_meter(meter))

        return await self._house.mutate(request, pb.ArchiveMeterResponse, work)

    async def CreatePlan(
        self, request: pb.CreatePlanRequest, context: Context
    ) -> pb.CreatePlanResponse:
        """See the proto."""
        draft = from_create_plan(request)

        async def work(tx: Connection, call: Call) -> pb.CreatePlanResponse:
            plan = await catalog.create_plan(tx, call.tenant_id, draft, call.cause, now=call.now)
            return pb.CreatePlanResponse(plan=to_plan(plan, []))

        return await self._house.mutate(request, pb.CreatePlanResponse, work)

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        """See the proto."""
        named = decode(Prefix.PLAN, request.plan_id, path="plan_id") if request.plan_id else None

        async def work(tx: Connection, call: Call) -> pb.GetPlanResponse:
            plan, of_plan = await catalog.get_plan(
                tx, call.tenant_id, plan_id=named, key=request.key
            )
            return pb.GetPlanResponse(plan=to_plan(plan, of_plan))

        return await self._house.read(work)

    async def ListPlans(
        self, request: pb.ListPlansRequest, context: Context
    ) -> pb.ListPlansResponse:
        """See the proto."""
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListPlansResponse:
            found = await catalog_changes.list_plans(
                tx,
                call.tenant_id,
                currency=request.currency_code or None,
                include_archived=request.include_archived,
                before=before,
                limit=page_size(request.page_size) + 1,
            )
            rows, token = cut_page(request, found, [plan.id for plan, _ in found])
            plans = [to_plan(plan, of_plan) for plan, of_plan in rows]
            return pb.ListPlansResponse(plans=plans, next_page_token=token)

        return await self._house.read(work)

    async def UpdatePlan(
        self, request: pb.UpdatePlanRequest, context: Context
    ) -> pb.UpdatePlanResponse:
        """See the proto."""
        plan_id = decode(Prefix.PLAN, request.plan_id, path="plan_id")
        change = catalog_changes.Renaming(
            request.update_mask.paths, request.display_name, request.etag
        )

        async def work(tx: Connection, call: Call) -> pb.UpdatePlanResponse:
            await catalog_changes.update_plan(
                tx, call.tenant_id, plan_id, change, call.cause, now=call.now
            )
            plan, of_plan = await catalog.get_plan(tx, call.tenant_id, plan_id=plan_id)
            return pb.UpdatePlanResponse(plan=to_plan(plan, of_plan))

        return await self._house.mutate(request, pb.UpdatePlanResponse, work)

    async def ArchivePlan(
        self, request: pb.ArchivePlanRequest, context: Context
    ) -> pb.ArchivePlanResponse:
        """See the proto."""
        plan_id = decode(Prefix.PLAN, request.plan_id, path="plan_id")

        async def work(tx: Connection, call: Call) -> pb.ArchivePlanResponse:
            await catalog_changes.archive_plan(
                tx, call.tenant_id, plan_id, call.cause, now=call.now
            )
            plan, of_plan = await catalog.get_plan(tx, call.tenant_id, plan_id=plan_id)
            return pb.ArchivePlanResponse(plan=to_plan(plan, of_plan))

        return await self._house.mutate(request, pb.ArchivePlanResponse, work)

    async def CreatePrice(
        self, request: pb.CreatePriceRequest, context: Context
    ) -> pb.CreatePriceResponse:
        """See the proto."""
        named = decode(Prefix.PLAN, request.plan_id, path="plan_id") if request.plan_id else None
        draft = from_create_price(request)

        async def work(tx: Connection, call: Call) -> pb.CreatePriceResponse:
            plan, _ = await catalog.get_plan(
                tx, call.tenant_id, plan_id=named, key=request.plan_key
            )
            price = await catalog.create_price(
                tx, call.tenant_id, plan, draft, call.cause, now=call.now
            )
            return pb.CreatePriceResponse(price=to_price(price))

        return await self._house.mutate(request, pb.CreatePriceResponse, work)

    async def GetPrice(self, request: pb.GetPriceRequest, context: Context) -> pb.GetPriceResponse:
        """See the proto."""
        price_id = decode(Prefix.PRICE, request.price_id, path="price_id")

        async def work(tx: Connection, call: Call) -> pb.GetPriceResponse:
            price = await prices.get_price(tx, call.tenant_id, price_id)
            return pb.GetPriceResponse(price=to_price(price))

        return await self._house.read(work)

    async def ListPrices(
        self, request: pb.ListPricesRequest, context: Context
    ) -> pb.ListPricesResponse:
        """See the proto."""
        before = read_token(request)
        wanted = prices.PriceFilter(
            decode(Prefix.PLAN, request.plan_id, path="plan_id") if request.plan_id else None,
            decode(Prefix.METER, request.meter_id, path="meter_id") if request.meter_id else None,
            request.include_archived,
        )

        async def work(tx: Connection, call: Call) -> pb.ListPricesResponse:
            limit = page_size(request.page_size) + 1
            found = await prices.list_prices(tx, call.tenant_id, wanted, before=before, limit=limit)
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListPricesResponse(prices=map(to_price, rows), next_page_token=token)

        return await self._house.read(work)

    async def SupersedePrice(
        self, request: pb.SupersedePriceRequest, context: Context
    ) -> pb.SupersedePriceResponse:
        """See the proto."""
        price_id = decode(Prefix.PRICE, request.price_id, path="price_id")
        successor = from_supersede_price(request)

        async def work(tx: Connection, call: Call) -> pb.SupersedePriceResponse:
            new, old = await prices.supersede_price(
                tx, call.tenant_id, price_id, successor, call.cause, now=call.now
            )
            return pb.SupersedePriceResponse(price=to_price(new), superseded_price=to_price(old))

        return await self._house.mutate(request, pb.SupersedePriceResponse, work)

    async def ArchivePrice(
        self, request: pb.ArchivePriceRequest, context: Context
    ) -> pb.ArchivePriceResponse:
        """See the proto."""
        price_id = decode(Prefix.PRICE, request.price_id, path="price_id")

        async def work(tx: Connection, call: Call) -> pb.ArchivePriceResponse:
            price = await prices.archive_price(
                tx, call.tenant_id, price_id, call.cause, now=call.now
            )
            return pb.ArchivePriceResponse(price=to_price(price))

        return await self._house.mutate(request, pb.ArchivePriceResponse, work)
