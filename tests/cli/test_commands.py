"""The commands that need no server, and what a person reads when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import COMMANDS, tollway
from cli.tables import print_table, table


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tollway, list(arguments))


def test_help_lists_every_command_with_a_line() -> None:
    told = run("--help").output
    for name, (_, text) in COMMANDS.items():
        assert name in told
        assert text in told


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("invoices", "void", "INV-000001"), "--reason"),
        (("ops", "pause", "--shard", "1"), "--reason"),
        (("replay", "cancel", "rpl_1"), "--note"),
        (("replay", "start", "--note", "why"), "--token"),
        (("replay", "plan", "--all-tenants"), "--phrase"),
    ],
)
def test_what_nobody_can_be_asked_for_is_named(command: tuple[str, ...], option: str) -> None:
    result = run(*command, "--key", "twk_none")
    assert result.exit_code == 2
    assert option in result.output.splitlines()[-1]


def test_a_replay_without_a_command_is_a_plan() -> None:
    without_key = CliRunner(env={"TOLLWAY_API_KEY": None})
    assert "tollway replay plan" in without_key.invoke(tollway, ["replay"]).output


def test_no_word_of_a_table_is_ever_cut(capsys: pytest.CaptureFixture[str]) -> None:
    filled = table("id", "what")
    filled.add_row("inv_" + "x" * 100, "two words " * 30)
    print_table(filled)
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["id", "what"]
    assert row.split() == ["inv_" + "x" * 100, *("two words " * 30).split()]


def test_an_unknown_command_is_refused_by_name() -> None:
    result = run("bill")
    assert result.exit_code == 2
    assert "bill" in result.output


def test_a_quote_shows_its_derivation(tmp_path: Path) -> None:
    price = tmp_path / "price.json"
    tiers = [{"up_to": "1000", "unit_amount": "0.02"}, {"up_to": "inf", "unit_amount": "0.01"}]
    price.write_text(
        json.dumps({"model": "graduated", "currency": "USD", "config": {"tiers": tiers}})
    )
    quoted = json.loads(run("pricing", "quote", str(price), "1500.5", "--json").output)
    assert quoted["amount"] == "25.01"
    assert [step["amount"] for step in quoted["steps"]] == ["20", "5.005"]


def test_a_quote_of_a_percentage_takes_each_record_in_turn(tmp_path: Path) -> None:
    price = tmp_path / "price.json"
    config = {"rate_percent": "2.9", "fixed_amount": "0.30"}
    price.write_text(json.dumps({"model": "percentage", "currency": "USD", "config": config}))
    assert "3.20 USD, rounded" in run("pricing", "quote", str(price), "100").output
    assert "3.50 USD, rounded" in run("pricing", "quote", str(price), "60", "40").output
    price.write_text(
        json.dumps(
            {"model": "percentage", "currency": "USD", "config": config | {"free_events": 1}}
        )
    )
    assert "1.46 USD, rounded" in run("pricing", "quote", str(price), "60", "40").output


def test_a_quote_of_a_plans_file_names_the_price_and_the_group(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    cells = [{"values": ["eu"], "unit_amount": "0.5"}]
    traffic = {"dimensions": ["region"], "cells": cells}
    prices = [
        {"display_name": "Fee", "flat": {"unit_amount": "10"}, "minimum_amount": "40"},
        {"display_name": "Traffic", "meter_key": "traffic", "matrix": traffic},
    ]
    terms = {"key": "a", "currency_code": "EUR", "interval": "INTERVAL_MONTH"}
    plan.write_text(json.dumps({"plan": terms, "prices": prices}))
    quoted = run("pricing", "quote", str(plan), "3", "--price", "Fee", "--json")
    told = json.loads(quoted.output)
    assert (told["amount"], told["true_up"]) == ("40.00", "10.00")
    traffic_of = ("pricing", "quote", str(plan), "3", "--price", "Traffic")
    assert "1.50 EUR, rounded" in run(*traffic_of, "--group", "region=eu").output
    assert "write NAME=VALUE" in run(*traffic_of, "--group", "region").output
    assert "it has Fee, Traffic" in run("pricing", "quote", str(plan), "3", "--price", "x").output


def test_a_wrong_case_fails_the_check_and_says_what_was_got(tmp_path: Path) -> None:
    right = {
        "id": "right",
        "model": "per_unit",
        "currency": "USD",
        "config": {"unit_amount": "0.10"},
        "usage": {"quantity": "3"},
        "expected_amount": "0.30",
    }
    file = tmp_path / "cases.json"
    file.write_text(
        json.dumps({"cases": [right, right | {"id": "wrong", "expected_amount": "0.31"}]})
    )
    result = run("pricing", "check", str(file))
    assert result.exit_code == 1
    assert "FAILED       wrong" in result.output
    assert result.output.endswith("1 passed, 1 failed, 0 unsupported\n")


def test_a_file_that_is_not_json_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text("{")
    result = run("pricing", "check", str(file))
    assert result.exit_code == 1
    assert "cases.json: is not JSON" in result.output
