"""The door: `tollway pricing`, for people who set prices. Invariant: no server is asked; these rules make invoices."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from billing.domain import pricing
from billing.domain.cases import Failed, Outcome, Passed, run_case
from billing.domain.decimals import parse_exact
from cli.tables import print_table, table

CASE_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class FileWrong(click.ClickException):
    """The file is not what the command reads; the message says why."""


@click.group()
def command() -> None:
    """Try prices before anybody pays them."""


@command.command()
@click.argument("file", type=_FILE)
@click.argument("quantities", metavar="QUANTITY...", nargs=-1, required=True)
@click.option("--price", "name", default="", help="FILE is a plan's: the price of this name.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a matrix looks up; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quote(
    file: Path, quantities: tuple[str, ...], name: str, groups: tuple[str, ...], as_json: bool
) -> None:
    """What a period of QUANTITY costs by the price in FILE, with its derivation.

    FILE is JSON: {"model": "graduated", "currency": "USD", "config": {"tiers": [{"up_to": "1000", "unit_amount":
    "0.02"}, {"up_to": "inf", "unit_amount": "0.01"}]}}; or a plan's, as `tollway plans create` takes it. Several
    quantities are those of single records in the order of time, which a percentage looks at; else they add up.
    """
    price = _price_of_plan(file, name) if name else _price(file)
    values = [parse_exact(quantity, path="quantity") for quantity in quantities]
    usage = replace(pricing.Usage.of_values(values), dimensions=dict(map(_group, groups)))
    rated = pricing.rate(price, usage)
    steps = [step.as_strings() for step in rated.steps]
    amount, true_up = rated.total.to_text(), rated.true_up.to_text() if rated.true_up else ""
    if as_json:
        told = {"amount": amount, "currency": price.currency, "true_up": true_up, "steps": steps}
        click.echo(json.dumps(told, indent=2))
        return
    rows = table("step", "quantity", "unit amount", "amount")
    for step in steps:
        rows.add_row(step["label"], step["quantity"], step["unit_amount"], step["amount"])
    print_table(rows)
    if true_up:
        click.echo(f"true-up to the minimum or maximum: {true_up} {price.currency}")
    click.echo(f"{amount} {price.currency}, rounded once, half away from zero")


def _price(file: Path) -> pricing.Price:
    given = _read(file)
    try:
        return pricing.parse_price(str(given["model"]), given["config"], str(given["currency"]))
    except KeyError as missing:
        hint = "of a plan's file, name one with --price"
        raise FileWrong(
            f"{file}: {missing} is missing; a price has model, currency and config; {hint}"
        ) from missing


def _price_of_plan(file: Path, name: str) -> pricing.Price:
    # What a plan's file needs takes a moment to import, and a price alone does not.
    from cli.plans.file import read_plan_file
    from server.catalog_convert import from_create_price

    plan = read_plan_file(file)
    drafts = [from_create_price(one) for one in plan.prices if one.display_name == name]
    if not drafts:
        known = ", ".join(one.display_name for one in plan.prices)
        raise FileWrong(f"{file}: has no price {name!r}; it has {known}")
    return pricing.parse_price(drafts[0].model, drafts[0].config, plan.plan.currency_code)


def _group(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r}: write NAME=VALUE.", param_hint="--group")
    return name, value


@command.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--quiet", is_flag=True, help="Print only what failed, and the counts.")
def check(files: tuple[Path, ...], quiet: bool) -> None:
    """Run worked pricing cases through the real rules; exit 1 on any mismatch. The format is docs/pricing-cases.md."""
    passed = failed = 0
    unsupported: Counter[str] = Counter()
    for file in files:
        for case in _cases(file):
            outcome = run_case(case)
            match outcome:
                case Passed():
                    passed += 1
                case Failed():
                    failed += 1
                case _:
                    unsupported[outcome.missing] += 1
            if isinstance(outcome, Failed) or not quiet:
                click.echo(_line(outcome, case.get("expected_amount")))
    for name, count in sorted(unsupported.items()):
        click.echo(f"not supported: {name} ({count})")
    click.echo(f"{passed} passed, {failed} failed, {unsupported.total()} unsupported")
    sys.exit(1 if failed else 0)


def _line(outcome: Outcome, expected: object) -> str:
    match outcome:
        case Passed(case_id):
            return f"passed       {case_id}: {json.dumps(expected)}"
        case Failed(case_id, wanted, got):
            return f"FAILED       {case_id}: expected {json.dumps(dict(wanted))}, got {json.dumps(dict(got))}"
        case _:
            return f"unsupported  {outcome.case_id}: {outcome.missing}"


def _cases(file: Path) -> list[Mapping[str, object]]:
    cases = _read(file).get("cases")
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise FileWrong(f'{file}: must be {{"cases": [case, …]}}; see docs/pricing-cases.md')
    return cases


def _read(file: Path) -> dict[str, Any]:
    if file.stat().st_size > CASE_FILE_BYTES_MAX:
        raise FileWrong(f"{file}: is larger than {CASE_FILE_BYTES_MAX} bytes; split it")
    try:
        given = json.loads(file.read_text("utf-8"), parse_float=str)
    except ValueError as error:
        raise FileWrong(f"{file}: is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise FileWrong(f"{file}: must hold a JSON object")
    return given
