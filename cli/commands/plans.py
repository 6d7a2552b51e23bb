"""The door: `tollway plans`. Invariant: what a file says that can be wrong is told before anything is made."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.markup import escape
from tollway.catalog.v1 import catalog_service_pb2 as pb

from cli.client import Connection, channel_to, connection_options, run
from cli.plans.catalog import Catalog
from cli.plans.file import PlanFile, PlanFileWrong, read_plan_file
from cli.plans.written import file_of, numbers_of
from cli.tables import at, json_text, print_table, table

Result = TypeVar("Result")


@click.group()
def command() -> None:
    """Make a plan with its prices from a file, list plans, show one."""


@command.command()
@connection_options
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def create(connection: Connection, file: Path) -> None:
    """Make the meters, the plan and the prices in FILE.

    FILE is JSON in the words of the API: {"meters": [CreateMeter, …], "plan": CreatePlan, "prices": [CreatePrice, …]}.
    docs/prices.md has an example. What is there already stays as it is; to try prices first, see `tollway pricing`.
    """
    plan = read_plan_file(file)
    _ask(connection, lambda catalog: _make(catalog, plan))


async def _make(catalog: Catalog, plan: PlanFile) -> None:
    parts = await catalog.look(plan)
    for done, part in enumerate(parts):
        try:
            id_ = part.found or await catalog.make(plan, part)
        except PlanFileWrong as error:
            if all(one.found for one in parts[:done]):
                raise
            told = "What is told above is made. Mend the file and run this again."
            raise PlanFileWrong(f"{error.message}\n{told}") from error
        word = "was there" if part.found else "made"
        click.echo(f"{word:<9}  {part.kind} {part.name} {id_}")


@command.command("list")
@connection_options
@click.option("--archived", is_flag=True, help="Archived ones too.")
@click.option(
    "--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="At most so many."
)
@click.option("--page", default="", help="The token that the page before printed.")
def list_(connection: Connection, archived: bool, limit: int, page: str) -> None:
    """List plans, newest first."""
    request = pb.ListPlansRequest(include_archived=archived, page_size=limit, page_token=page)
    answer = _ask(connection, lambda catalog: catalog.stub.ListPlans(request, **catalog.how))
    rows = table("key", "name", "currency", "every", "prices", "made", "archived")
    for plan in answer.plans:
        live = sum(not price.HasField("archive_time") for price in plan.prices)
        rows.add_row(
            plan.key,
            escape(plan.display_name),
            plan.currency_code,
            _every(plan),
            str(live),
            at(plan.create_time),
            at(plan.archive_time),
        )
    print_table(rows, answer.next_page_token)


@command.command()
@connection_options
@click.argument("plan_key", metavar="KEY")
@click.option("--file", "as_file", is_flag=True, help="Print it as a file that `create` reads.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def show(connection: Connection, plan_key: str, as_file: bool, as_json: bool) -> None:
    """Show the plan KEY and its prices, the archived ones last."""
    request = pb.GetPlanRequest(key=plan_key)

    async def read(catalog: Catalog) -> tuple[pb.Plan, list[pb.Meter]]:
        plan = (await catalog.stub.GetPlan(request, **catalog.how)).plan
        return plan, [] if as_json else await catalog.meters(plan)

    plan, meters = _ask(connection, read)
    if as_json:
        click.echo(json_text(plan))
    elif as_file:
        click.echo(json.dumps(file_of(plan, meters), indent=2, ensure_ascii=False))
    else:
        _print(plan, {meter.id: meter.key for meter in meters})


def _print(plan: pb.Plan, meter_keys: dict[str, str]) -> None:
    promised = f", at least {plan.commitment_amount} each" if plan.commitment_amount else ""
    click.echo(
        f"{plan.key}: {plan.display_name}; {plan.currency_code}, every {_every(plan)}{promised}"
    )
    rows = table("price", "name", "meter", "billed", "model", "numbers", "archived")
    for price in sorted(plan.prices, key=lambda one: one.HasField("archive_time")):
        model = price.WhichOneof("model") or ""
        meter = meter_keys.get(price.meter_id, "")
        name, numbers = escape(price.display_name), escape(json.dumps(numbers_of(price)))
        timing = pb.BillingTiming.Name(price.billing_timing).removeprefix("BILLING_TIMING_IN_")
        cells = price.id, name, meter, f"in {timing.lower()}", model, numbers
        rows.add_row(*cells, at(price.archive_time))
    print_table(rows)


def _every(plan: pb.Plan) -> str:
    return pb.Interval.Name(plan.interval).removeprefix("INTERVAL_").lower()


def _ask(connection: Connection, work: Callable[[Catalog], Awaitable[Result]]) -> Result:
    async def ask() -> Result:
        async with channel_to(connection) as channel:
            return await work(Catalog(channel, connection))

    return run(ask())
