"""The door: a plan with its meters and prices in a file, in the words of the API's requests.

Invariant: whatever can be known without the catalog to be wrong is told with its line before anything is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import click
from google.protobuf.message import Message
from tollway.catalog.v1 import catalog_service_pb2 as pb

from billing.domain.errors import BillingError
from billing.services.catalog import check_new_meter, check_new_plan, check_new_price
from cli.plans.messages import Object, Problem, fill, strangers
from cli.plans.places import Step, line_of, path_of, steps_of
from server.catalog_convert import from_create_meter, from_create_plan, from_create_price
from server.validation import validate

PLAN_FILE_BYTES_MAX: Final = 1024 * 1024
PRICES_MAX: Final = 100  # of a file, and so many meters
PROBLEMS_SHOWN_MAX: Final = 20
_PARTS: Final = ("meters", "plan", "prices")
# The command gives each call an id of its own, and the prices of a file are those of its plan.
_NOT_IN_FILES: Final = ("request_id", "plan_id", "plan_key")

Request = TypeVar("Request", bound=Message)


class PlanFileWrong(click.ClickException):
    """The file cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """The calls that a file stands for."""

    name: Path
    text: str
    meters: list[pb.CreateMeterRequest]
    plan: pb.CreatePlanRequest
    prices: list[pb.CreatePriceRequest]

    def wrong(self, problems: Sequence[Problem]) -> PlanFileWrong:
        """The error that tells these problems, each on a line."""
        return _wrong(self.name, self.text, problems)


def read_plan_file(name: Path) -> PlanFile:
    """The file, checked by the rules that the server has. Raises PlanFileWrong."""
    if name.stat().st_size > PLAN_FILE_BYTES_MAX:
        raise PlanFileWrong(f"{name}: is larger than {PLAN_FILE_BYTES_MAX} bytes; is it a plan?")
    text = name.read_text("utf-8")
    try:
        raw = json.loads(text, parse_float=str, object_pairs_hook=Object)
    except ValueError as error:
        raise PlanFileWrong(f"{name}: is not JSON: {error}") from error
    if not isinstance(raw, Object):
        raise PlanFileWrong(f'{name}: must be {{"meters": […], "plan": {{…}}, "prices": […]}}.')
    file = PlanFile(name, text, [], pb.CreatePlanRequest(), [])
    problems = [*strangers(raw, _PARTS, ()), *_fill(file, raw)] or list(_broken_rules(file))
    if problems:
        raise file.wrong(problems)
    return file


def _wrong(name: Path, text: str, problems: Sequence[Problem]) -> PlanFileWrong:
    lines = [
        ": ".join(filter(None, (f"{name}:{line_of(text, path)}", path_of(path), what)))
        for path, what in problems[:PROBLEMS_SHOWN_MAX]
    ]
    if len(problems) > PROBLEMS_SHOWN_MAX:
        lines.append(f"and {len(problems) - PROBLEMS_SHOWN_MAX} more")
    return PlanFileWrong("\n".join(lines))


def _fill(file: PlanFile, raw: Object) -> Iterator[Problem]:
    if "plan" not in raw:
        yield Problem((), 'has no plan; add "plan": {"key": …, "currency_code": …, "interval": …}.')
    else:
        yield from fill(file.plan, raw["plan"], ("plan",), _NOT_IN_FILES)
    yield from _fill_list(file.meters, pb.CreateMeterRequest, raw.get("meters", []), "meters")
    yield from _fill_list(file.prices, pb.CreatePriceRequest, raw.get("prices", []), "prices")
    for price in file.prices:
        price.plan_key = file.plan.key


def _fill_list(
    into: list[Request], kind: Callable[[], Request], raw: object, part: str
) -> Iterator[Problem]:
    if not isinstance(raw, list) or len(raw) > PRICES_MAX:
        yield Problem((part,), f"must be a list of at most {PRICES_MAX}.")
        return
    for place, one in enumerate(raw):
        into.append(kind())
        yield from fill(into[-1], one, (part, place), _NOT_IN_FILES)


def _broken_rules(file: PlanFile) -> Iterator[Problem]:
    """What the server would refuse."""
    for place, meter in enumerate(file.meters):
        yield from _refused(("meters", place), partial(_check_meter, meter))
    yield from _refused(("plan",), partial(_check_plan, file.plan))
    for place, price in enumerate(file.prices):
        yield from _refused(("prices", place), partial(_check_price, price, file.plan))


def _refused(path: tuple[Step, ...], check: Callable[[], None]) -> Iterator[Problem]:
    try:
        check()
    except BillingError as error:
        for one in error.violations:
            yield Problem((*path, *steps_of(one.path)), one.description)
        if not error.violations:
            yield Problem(path, error.message)


def _check_meter(meter: pb.CreateMeterRequest) -> None:
    validate(meter)
    check_new_meter(from_create_meter(meter))


def _check_plan(plan: pb.CreatePlanRequest) -> None:
    validate(plan)
    check_new_plan(from_create_plan(plan))


def _check_price(price: pb.CreatePriceRequest, plan: pb.CreatePlanRequest) -> None:
    validate(price)
    check_new_price(from_create_price(price), plan.currency_code)
