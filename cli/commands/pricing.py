"""The door: `tollway pricing`, for people who set prices. Invariant: no server is asked; these rules make invoices."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
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
@click.argument("quantity")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quote(file: Path, quantity: str, as_json: bool) -> None:
    """What QUANTITY costs by the price in FILE, with its derivation.

    FILE is JSON: {"model": "graduated", "currency": "USD", "config": {"tiers": [{"up_to": "1000", "unit_amount":
    "0.02"}, {"up_to": "inf", "unit_amount": "0.01"}]}}.
    """
    given = _read(file)
    try:
        model, currency, config = str(given["model"]), str(given["currency"]), given["config"]
    except KeyError as missing:
        raise FileWrong(
            f"{file}: {missing} is missing; a price has model, currency and config"
        ) from missing
    price = pricing.parse_price(model, config, currency)
    rated = pricing.rate(price, pricing.Usage(parse_exact(quantity, path="quantity")))
    steps = [step.as_strings() for step in rated.steps]
    if as_json:
        click.echo(
            json.dumps(
                {"amount": rated.total.to_text(), "currency": currency, "steps": steps}, indent=2
            )
        )
        return
    rows = table("step", "quantity", "unit amount", "amount")
    for step in steps:
        rows.add_row(step["label"], step["quantity"], step["unit_amount"], step["amount"])
    print_table(rows)
    if rated.true_up is not None:
        click.echo(f"true-up to the minimum or maximum: {rated.true_up.to_text()} {currency}")
    click.echo(f"{rated.total.to_text()} {currency}, rounded once, half away from zero")


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
