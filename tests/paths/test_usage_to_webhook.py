"""All paths at once: real usage becomes charges, invoices, webhooks, a replay and a trail, on the whole house."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import grpc.aio
import pytest
from rich.console import Console

from billing.runtime.settings import Settings
from cli.demo.airline import read_airlines
from cli.demo.recompute import expected
from cli.demo.story import MONTH, YEAR, Input, play
from cli.demo.teller import Teller
from cli.up import UpOptions, running
from tests.kafka import KAFKA_TEST_TIMEOUT_S, kafka_process
from tools.kafka_for_tests import Kafka

__all__ = ["kafka_process"]

FLIGHTS = Path(__file__).with_name("flights")


async def test_a_month_of_flights_becomes_money_and_every_total_can_be_recomputed(
    tmp_path: Path,
) -> None:
    await play_the_month(tmp_path)


@pytest.mark.timeout(KAFKA_TEST_TIMEOUT_S)
async def test_the_month_is_the_same_on_kafka(tmp_path: Path, kafka_process: Kafka) -> None:
    await play_the_month(tmp_path, f"kafka://{kafka_process.address}")


async def play_the_month(folder: Path, bus_url: str = "") -> None:
    rows = FLIGHTS / "flights.csv"
    given = Input(rows, read_airlines(FLIGHTS / "airlines.csv"), expected(rows, YEAR, MONTH))
    told = io.StringIO()
    options = UpOptions(folder / "data", grpc_port=0, http_port=0, bus_url=bus_url)
    async with (
        running(options, Settings(), asyncio.Event()) as address,
        grpc.aio.insecure_channel(address.grpc) as channel,
    ):
        teller = Teller(Console(file=told, width=120))
        outcome = await play(teller, channel, address.grpc, address.operator_key, given)

    assert outcome.records == given.expected.records > 1000
    assert outcome.totals.billed == outcome.totals.recomputed
    assert outcome.invoices == 2 * len(given.airlines)
    assert outcome.verified >= outcome.invoices
    for hop in (
        "usage reported",
        "usage rated",
        "cycle closed",
        "invoices open",
        "webhooks delivered",
        "the trail",
    ):
        assert hop in told.getvalue()
