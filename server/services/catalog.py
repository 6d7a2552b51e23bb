"""The rim's CatalogService. Invariant: a price's model goes to the domain as it was written."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tollway.catalog.v1 import catalog_service_pb2 as pb
from tollway.catalog.v1 import catalog_service_pb2_grpc as rpc

from billing.domain import pricing
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import catalog
from billing.services.rows import Meter, Plan, Price
from server.call import Call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context

OPEN_ENDED = "inf"  # how the domain writes a tier without a bound


class CatalogServicer(rpc.CatalogServiceServicer):
    """Meters, plans and prices."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateMeter(
        self, request: pb.CreateMeterRequest, context: Context
    ) -> pb.CreateMeterResponse:
        """See the proto."""
        aggregation = pb.Aggregation.Name(request.aggregation).removeprefix("AGGREGATION_").lower()
        draft = catalog.NewMeter(request.key, request.display_name, aggregation)

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

    async def CreatePlan(
        self, request: pb.CreatePlanRequest, context: Context
    ) -> pb.CreatePlanResponse:
        """See the proto."""
        interval = pb.Interval.Name(request.interval).removeprefix("INTERVAL_").lower()
        draft = catalog.NewPlan(request.key, request.display_name, request.currency_code, interval)

        async def work(tx: Connection, call: Call) -> pb.CreatePlanResponse:
            plan = await catalog.create_plan(tx, call.tenant_id, draft, call.cause, now=call.now)
            return pb.CreatePlanResponse(plan=to_plan(plan, []))

        return await self._house.mutate(request, pb.CreatePlanResponse, work)

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        """See the proto."""
        named = decode(Prefix.PLAN, request.plan_id, path="plan_id") if request.plan_id else None

        async def work(tx: Connection, call: Call) -> pb.GetPlanResponse:
            plan, prices = await catalog.get_plan(
                tx, call.tenant_id, plan_id=named, key=request.key
            )
            return pb.GetPlanResponse(plan=to_plan(plan, prices))

        return await self._house.read(work)

    async def CreatePrice(
        self, request: pb.CreatePriceRequest, context: Context
    ) -> pb.CreatePriceResponse:
        """See the proto."""
        named = decode(Prefix.PLAN, request.plan_id, path="plan_id") if request.plan_id else None
        draft = _new_price(request)

        async def work(tx: Connection, call: Call) -> pb.CreatePriceResponse:
            plan, _ = await catalog.get_plan(
                tx, call.tenant_id, plan_id=named, key=request.plan_key
            )
            price = await catalog.create_price(
                tx, call.tenant_id, plan, draft, call.cause, now=call.now
            )
            return pb.CreatePriceResponse(price=to_price(price))

        return await self._house.mutate(request, pb.CreatePriceResponse, work)


def _new_price(request: pb.CreatePriceRequest) -> catalog.NewPrice:
    model = request.WhichOneof("model") or ""
    config: dict[str, object]
    match model:
        case "flat":
            config = {"amount": request.flat.unit_amount}
        case "per_unit":
            config = {"unit_amount": request.per_unit.unit_amount}
        case _:
            config = {"tiers": [_tier_config(tier) for tier in request.graduated.tiers]}
    timing = pb.BillingTiming.Name(request.billing_timing).removeprefix("BILLING_TIMING_").lower()
    return catalog.NewPrice(
        display_name=request.display_name,
        meter_key=request.meter_key,
        currency=request.currency_code,
        model=model,
        config=config,
        billing_timing=pricing.BillingTiming(timing) if request.billing_timing else None,
    )


def _tier_config(tier: pb.Tier) -> dict[str, str]:
    config = {
        "up_to": tier.up_to or OPEN_ENDED,
        "unit_amount": tier.unit_amount,
        "flat_amount": tier.flat_amount,
    }
    return {key: value for key, value in config.items() if value}


def to_meter(meter: Meter) -> pb.Meter:
    """A stored meter for the wire."""
    return pb.Meter(
        id=encode(Prefix.METER, meter.id),
        key=meter.key,
        display_name=meter.display_name,
        aggregation=pb.Aggregation.Value(f"AGGREGATION_{meter.aggregation.upper()}"),
        create_time=to_timestamp(meter.created_at),
    )


def to_plan(plan: Plan, prices: Sequence[Price]) -> pb.Plan:
    """A stored plan with its prices for the wire."""
    return pb.Plan(
        id=encode(Prefix.PLAN, plan.id),
        key=plan.key,
        display_name=plan.display_name,
        currency_code=plan.currency,
        interval=pb.Interval.Value(f"INTERVAL_{plan.billing_interval.upper()}"),
        prices=map(to_price, prices),
        create_time=to_timestamp(plan.created_at),
    )


def to_price(price: Price) -> pb.Price:
    """A stored price for the wire."""
    message = pb.Price(
        id=encode(Prefix.PRICE, price.id),
        plan_id=encode(Prefix.PLAN, price.plan_id),
        meter_id=encode(Prefix.METER, price.meter_id) if price.meter_id else "",
        display_name=price.display_name,
        currency_code=price.currency,
        billing_timing=pb.BillingTiming.Value(f"BILLING_TIMING_{price.billing_timing.upper()}"),
        create_time=to_timestamp(price.created_at),
    )
    config = json.loads(price.config)
    match price.model:
        case "flat":
            message.flat.unit_amount = config["amount"]
        case "per_unit":
            message.per_unit.unit_amount = config["unit_amount"]
        case "graduated":
            for tier in config["tiers"]:
                bound = "" if tier["up_to"] == OPEN_ENDED else tier["up_to"]
                message.graduated.tiers.add(
                    up_to=bound,
                    unit_amount=tier.get("unit_amount", ""),
                    flat_amount=tier.get("flat_amount", ""),
                )
    return message
