"""The door: a plan of the catalog, written as the file that would make it.

Invariant: reading what was written, and comparing it with the catalog, finds no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from tollway.catalog.v1 import catalog_service_pb2 as pb

Request = TypeVar("Request", bound=Message)
# What of a price other columns tell than that of its numbers.
_TOLD: Final = ("display_name", "meter_key", "plan_id", "currency_code", "billing_timing")


def as_request(found: Message, request: Request) -> Request:
    """The request that would make what was found."""
    return ParseDict(_words(found), request, ignore_unknown_fields=True)


def price_request(
    price: pb.Price, plan: pb.Plan, meter_keys: dict[str, str]
) -> pb.CreatePriceRequest:
    """The request that would make the price."""
    request = as_request(price, pb.CreatePriceRequest())
    request.plan_key, request.meter_key = plan.key, meter_keys.get(price.meter_id, "")
    return request


def file_of(plan: pb.Plan, meters: Sequence[pb.Meter]) -> dict[str, Any]:
    """The file: what is archived is left out."""
    keys = {meter.id: meter.key for meter in meters}
    live = [price for price in plan.prices if not price.HasField("archive_time")]
    requests = [price_request(price, plan, keys) for price in live]
    priced = {request.meter_key for request in requests}
    return {
        "meters": [
            _words(as_request(meter, pb.CreateMeterRequest()))
            for meter in meters
            if meter.key in priced
        ],
        "plan": _words(as_request(plan, pb.CreatePlanRequest())),
        "prices": [
            _without(_words(request), ("plan_key", "currency_code")) for request in requests
        ],
    }


def numbers_of(price: pb.Price) -> dict[str, Any]:
    """The numbers of a price's model, and what else it has."""
    words = _without(_words(as_request(price, pb.CreatePriceRequest())), _TOLD)
    model: dict[str, Any] = words.pop(price.WhichOneof("model") or "", {})
    return model | words


def _words(message: Message) -> dict[str, Any]:
    words: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return words


def _without(words: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in words.items() if name not in names}
