"""The rim's CatalogService, its conversions. Invariant: a price's numbers go to the domain as they were written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from tollway.catalog.v1 import catalog_service_pb2 as pb
from tollway.catalog.v1 import price_models_pb2 as models

from billing.domain import pricing
from billing.domain.ids import Prefix, encode
from billing.domain.proration import Granularity
from billing.services import catalog, catalog_changes, prices
from billing.services.rows import Meter, Plan, Price
from server.convert import to_decimal, to_timestamp

OPEN_ENDED: Final = "inf"  # how the domain writes a tier without a bound
_BOUNDS: Final = ("minimum_amount", "maximum_amount")


def from_create_meter(request: pb.CreateMeterRequest) -> catalog.NewMeter:
    """The meter that is asked for."""
    return catalog.NewMeter(
        request.key,
        request.display_name,
        _word(pb.Aggregation.Name(request.aggregation), "AGGREGATION_"),
        request.value_property,
        request.unique_property,
        [_filter_config(one) for one in request.filters],
        list(request.group_by),
    )


def from_create_plan(request: pb.CreatePlanRequest) -> catalog.NewPlan:
    """The plan that is asked for."""
    granularity = Granularity.SECOND
    if request.granularity:
        granularity = Granularity(_word(pb.Granularity.Name(request.granularity), "GRANULARITY_"))
    return catalog.NewPlan(
        request.key,
        request.display_name,
        request.currency_code,
        _word(pb.Interval.Name(request.interval), "INTERVAL_"),
        granularity,
        request.commitment_amount,
    )


def from_create_price(request: pb.CreatePriceRequest) -> catalog.NewPrice:
    """The price that is asked for."""
    timing = _word(pb.BillingTiming.Name(request.billing_timing), "BILLING_TIMING_")
    return catalog.NewPrice(
        display_name=request.display_name,
        meter_key=request.meter_key,
        currency=request.currency_code,
        model=request.WhichOneof("model") or "",
        config=_config(request),
        billing_timing=pricing.BillingTiming(timing) if request.billing_timing else None,
        tax_percent=request.tax_percent,
        bill_trial_usage=request.bill_trial_usage,
    )


def from_supersede_price(request: pb.SupersedePriceRequest) -> prices.Successor:
    """The price that is to take another one's place."""
    return prices.Successor(
        request.display_name,
        request.WhichOneof("model") or "",
        _config(request),
        request.tax_percent,
    )


def to_meter(meter: Meter) -> pb.Meter:
    """A stored meter for the wire."""
    return pb.Meter(
        id=encode(Prefix.METER, meter.id),
        key=meter.key,
        display_name=meter.display_name,
        aggregation=pb.Aggregation.Value(f"AGGREGATION_{meter.aggregation.upper()}"),
        create_time=to_timestamp(meter.created_at),
        value_property=meter.value_property or "",
        unique_property=meter.unique_property or "",
        filters=[_to_filter(one) for one in json.loads(meter.filters)],
        group_by=meter.group_by,
        archive_time=to_timestamp(meter.archived_at),
        etag=catalog_changes.etag_of(meter),
    )


def to_plan(plan: Plan, of_plan: Sequence[Price]) -> pb.Plan:
    """A stored plan with its prices for the wire."""
    return pb.Plan(
        id=encode(Prefix.PLAN, plan.id),
        key=plan.key,
        display_name=plan.display_name,
        currency_code=plan.currency,
        interval=pb.Interval.Value(f"INTERVAL_{plan.billing_interval.upper()}"),
        prices=map(to_price, of_plan),
        create_time=to_timestamp(plan.created_at),
        granularity=pb.Granularity.Value(f"GRANULARITY_{plan.granularity.upper()}"),
        commitment_amount="" if plan.commitment is None else to_decimal(plan.commitment),
        archive_time=to_timestamp(plan.archived_at),
        etag=catalog_changes.etag_of(plan),
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
        tax_percent="" if price.tax_percent is None else to_decimal(price.tax_percent),
        bill_trial_usage=price.bill_trial_usage,
        archive_time=to_timestamp(price.archived_at),
        superseded_by_price_id=encode(Prefix.PRICE, price.superseded_by)
        if price.superseded_by
        else "",
    )
    _fill_terms(message, price.model, json.loads(price.config))
    return message


def _config(request: pb.CreatePriceRequest | pb.SupersedePriceRequest) -> dict[str, object]:
    """The model's numbers as billing.domain.pricing reads them: fields that are not given are left out."""
    model: Message = getattr(request, request.WhichOneof("model") or "flat")
    config = _given(model)
    if isinstance(model, models.FlatPrice):
        config = {"amount": model.unit_amount}
    if isinstance(
        model, models.GraduatedPrice | models.VolumePrice | models.GraduatedPercentagePrice
    ):
        config["tiers"] = [{"up_to": OPEN_ENDED} | _given(tier) for tier in model.tiers]
    for name in _BOUNDS:
        if text := getattr(request, name):
            config[name] = text
    if request.HasField("quantity_rounding"):
        rounding = request.quantity_rounding
        mode = _word(models.RoundingMode.Name(rounding.mode), "ROUNDING_MODE_")
        config["quantity_rounding"] = _given(rounding) | {"mode": mode}
    return config


def _given(message: Message) -> dict[str, object]:
    """The fields that say something, by their names; 64-bit numbers as digits, as JSON has them."""
    given: dict[str, object] = MessageToDict(message, preserving_proto_field_name=True)
    return given


def _fill_terms(message: pb.Price, model: str, config: dict[str, object]) -> None:
    """The stored numbers: they have the names of the message's fields, but for a flat price's amount."""
    for name in _BOUNDS:
        if name in config:
            setattr(message, name, config.pop(name))
    rounding = config.pop("quantity_rounding", None)
    if isinstance(rounding, Mapping):
        mode = f"ROUNDING_MODE_{str(rounding['mode']).upper()}"
        ParseDict({**rounding, "mode": mode}, message.quantity_rounding)
    if model == "flat":
        config = {"unit_amount": config["amount"]}
    for tier in config.get("tiers", ()):  # type: ignore[attr-defined] # a list of objects where there is one
        if tier["up_to"] == OPEN_ENDED:
            del tier["up_to"]
    ParseDict(config, getattr(message, model))


def _filter_config(one: pb.MeterFilter) -> dict[str, object]:
    config: dict[str, object] = {
        "property": one.property,
        "operator": _word(pb.FilterOperator.Name(one.operator), "FILTER_OPERATOR_"),
    }
    return config | ({"values": list(one.values)} if one.values else {})


def _to_filter(config: Mapping[str, str]) -> pb.MeterFilter:
    return pb.MeterFilter(
        property=config["property"],
        operator=pb.FilterOperator.Value(f"FILTER_OPERATOR_{config['operator'].upper()}"),
        values=config.get("values", ()),
    )


def _word(name: str, prefix: str) -> str:
    """The stored word of an enum's value."""
    return name.removeprefix(prefix).lower()
