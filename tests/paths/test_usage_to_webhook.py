"""All paths at once: real usage becomes charges, invoices, webhooks, a replay and a trail, on the whole house."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import asyncpg
import grpc.aio
import pytest
from rich.console import Console
from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub

from billing.runtime.settings import Settings
from cli.demo.airline import read_airlines
from cli.demo.recompute import expected
from cli.demo.story import MONTH, YEAR, Input, play
from cli.demo.teller import Teller
from cli.up import Address, UpOptions, running
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


# What money rests on. What a replay itself adds (its events, and what is delivered of these) is not there.
FACTS = (
    "customers", "meters", "plans", "prices", "subscriptions", "subscription_items", "usage_records", "usage_periods",
    "usage_period_marks", "usage_buckets", "charges", "billing_cycles", "fee_periods", "invoices", "invoice_lines",
    "invoice_sequences", "credit_ledger", "credit_balances", "payments",
)  # fmt: skip


async def facts(database_url: str) -> dict[str, list[str]]:
    """Every row of the tables of facts, as text."""
    connection = await asyncpg.connect(database_url)
    try:
        return {
            table: [
                row[0]
                for row in await connection.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")
            ]
            for table in FACTS
        }
    finally:
        await connection.close()


async def replaying_everything_changes_nothing(channel: grpc.aio.Channel, address: Address) -> None:
    """The whole log goes to the bus again, to all consumers, and not a row of the facts is another."""
    before = await facts(address.database_url)
    stub = ReplayServiceStub(channel)
    metadata = (("authorization", f"Bearer {address.operator_key}"),)
    plan = await stub.PlanReplay(
        pb.PlanReplayRequest(
            filter=pb.ReplayFilter(all_tenants=True),
            targets=[pb.ReplayTarget(bus=pb.BusTarget())],
            external_effects=pb.EXTERNAL_EFFECTS_ALLOW,
            max_events=1_000_000,
            phrase="replay all tenants",
        ),
        metadata=metadata,
    )
    started = await stub.StartReplay(
        pb.StartReplayRequest(confirmation_token=plan.confirmation_token), metadata=metadata
    )
    assert sum(replay.matched for replay in started.replays) == plan.matched > 100
    for replay in started.replays:
        request = pb.WatchReplayRequest(replay_id=replay.id)
        told = [answer.replay async for answer in stub.WatchReplay(request, metadata=metadata)]
        assert told[-1].status == pb.REPLAY_STATUS_FINISHED
        assert (told[-1].published, told[-1].failed) == (replay.matched, 0)
    assert await facts(address.database_url) == before


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
        await replaying_everything_changes_nothing(channel, address)

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
