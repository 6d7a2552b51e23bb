"""The door: what of a plan file is in the catalog already, and making the rest.

Invariant: everything is compared before anything is made, and what is there is never changed; so a file that was made
in part goes on where it stopped, and one that was made whole makes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from tollway.catalog.v1 import catalog_service_pb2 as pb
from tollway.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

from billing.domain.pricing import billing_timing, parse_price
from cli.client import DEADLINE_S, Connection, describe, error_detail
from cli.plans.file import PlanFile
from cli.plans.messages import Problem
from cli.plans.places import Step, steps_of
from cli.plans.written import as_request, price_request
from server.catalog_convert import from_create_price

# What of a meter and a plan may be another in the catalog: people's name for it.
_FREE = ("request_id", "display_name")


class Part(NamedTuple):
    """A meter, plan or price of the file; `found` is the id of what is there already."""

    kind: str
    name: str
    path: tuple[Step, ...]
    request: Message
    found: str


class There(NamedTuple):
    """What the catalog has of it: meters by key, the plan, its prices that are not archived."""

    meters: dict[str, pb.Meter]
    plan: pb.Plan | None
    prices: list[tuple[str, pb.CreatePriceRequest]]


class Catalog:
    """The catalog that a key sees."""

    def __init__(self, channel: grpc.aio.Channel, connection: Connection) -> None:
        self.stub = CatalogServiceStub(channel)
        self._address = connection.address
        self.how: dict[str, Any] = {"metadata": connection.metadata, "timeout": DEADLINE_S}

    async def look(self, file: PlanFile) -> list[Part]:
        """The parts of the file, in the order to make them. Raises PlanFileWrong where the catalog has other terms."""
        plan = await self._found(
            self.stub.GetPlan(pb.GetPlanRequest(key=file.plan.key), **self.how)
        )
        there = There({}, plan.plan if plan else None, [])
        for one in file.meters:
            meter = await self._found(
                self.stub.GetMeter(pb.GetMeterRequest(key=one.key), **self.how)
            )
            if meter:
                there.meters[one.key] = meter.meter
        if there.plan:
            there.prices.extend(await self.prices(there.plan))
        parts = list(_parts(file, there))
        if problems := [*_other_terms(file, there), *_unknown_prices(parts, there)]:
            raise file.wrong(problems)
        return parts

    async def make(self, file: PlanFile, part: Part) -> str:
        """Makes a part that is not there; its id. Raises PlanFileWrong for what the catalog refuses."""
        methods = {
            "meter": self.stub.CreateMeter,
            "plan": self.stub.CreatePlan,
            "price": self.stub.CreatePrice,
        }
        part.request.request_id = str(uuid.uuid4())  # type: ignore[attr-defined] # each has one
        try:
            answer = await methods[part.kind](part.request, **self.how)  # type: ignore[operator] # its own
        except grpc.aio.AioRpcError as error:
            raise self._refused(file, part, error) from error
        return str(getattr(answer, part.kind).id)

    async def prices(self, plan: pb.Plan) -> list[tuple[str, pb.CreatePriceRequest]]:
        """The prices that are not archived, by id, as the requests that would make them."""
        live = [price for price in plan.prices if not price.HasField("archive_time")]
        keys = {meter.id: meter.key for meter in await self.meters(plan)}
        return [(price.id, price_request(price, plan, keys)) for price in live]

    async def meters(self, plan: pb.Plan) -> list[pb.Meter]:
        """The meters that the plan prices."""
        ids = dict.fromkeys(price.meter_id for price in plan.prices if price.meter_id)
        return [
            (await self.stub.GetMeter(pb.GetMeterRequest(meter_id=one), **self.how)).meter
            for one in ids
        ]

    async def _found(self, call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def _refused(self, file: PlanFile, part: Part, error: grpc.aio.AioRpcError) -> Exception:
        """The fields that the server names, with their lines; else the part's line and the server's own words."""
        if error_detail(error, ErrorInfo) is None:
            return error
        bad = error_detail(error, BadRequest) or BadRequest()
        problems = [
            Problem((*part.path, *steps_of(one.field)), one.description)
            for one in bad.field_violations
        ]
        return file.wrong(problems or [Problem(part.path, describe(error, self._address))])


def _parts(file: PlanFile, there: There) -> Iterator[Part]:
    for place, meter in enumerate(file.meters):
        found = there.meters.get(meter.key)
        yield Part("meter", meter.key, ("meters", place), meter, found.id if found else "")
    yield Part("plan", file.plan.key, ("plan",), file.plan, there.plan.id if there.plan else "")
    left = {id_: _terms(priced, file.plan.currency_code) for id_, priced in there.prices}
    for place, price in enumerate(file.prices):
        terms = _terms(price, file.plan.currency_code)
        same = next((id_ for id_, other in left.items() if other == terms), "")
        left.pop(same, None)
        yield Part("price", price.display_name, ("prices", place), price, same)


def _other_terms(file: PlanFile, there: There) -> Iterator[Problem]:
    for place, meter in enumerate(file.meters):
        if meter.key in there.meters:
            what = f"the meter {meter.key!r} is there with another one; give yours another key."
            yield from _differing(meter, there.meters[meter.key], ("meters", place), what)
    if there.plan:
        what = f"the plan {file.plan.key!r} is there with another one; give yours another key."
        yield from _differing(file.plan, there.plan, ("plan",), what)


def _differing(
    wanted: Message, found: Message, path: tuple[Step, ...], what: str
) -> Iterator[Problem]:
    other = as_request(found, type(wanted)())
    for field in wanted.DESCRIPTOR.fields:
        if field.name not in _FREE and _plain(wanted, field.name) != _plain(other, field.name):
            yield Problem((*path, field.name), what)


def _plain(message: Message, name: str) -> object:
    """A value as it can be compared: what is written in two ways, or left out for a default, is one."""
    value: Any = getattr(message, name)
    if name == "filters":
        return sorted((one.property, one.operator, sorted(one.values)) for one in value)
    if name == "granularity":
        return value or pb.GRANULARITY_SECOND
    if name == "commitment_amount":
        return Decimal(value or 0)
    return list(value) if name == "group_by" else value


def _unknown_prices(parts: list[Part], there: There) -> Iterator[Problem]:
    known = {part.found for part in parts}
    for id_, price in there.prices:
        if id_ not in known:
            what = f"the plan has {price.display_name!r} ({id_}), which is not here with these very terms"
            yield Problem(
                ("prices",), f"{what}; supersede or archive it, for a price is never edited."
            )


def _terms(price: pb.CreatePriceRequest, currency: str) -> object:
    """What a price is: two requests with the same are the same price."""
    draft = from_create_price(price)
    parsed = parse_price(draft.model, draft.config, currency)
    timing = billing_timing(
        parsed.model, metered=bool(draft.meter_key), chosen=draft.billing_timing
    )
    tax = Decimal(draft.tax_percent) if draft.tax_percent else None
    return draft.display_name, draft.meter_key, parsed, timing, tax, draft.bill_trial_usage
