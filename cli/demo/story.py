"""The demo's story: one month of one tenant, hop by hop, each total checked against the raw file.

Invariant: the last line is `demo ok` only if every invoice is what the file says, every delivery's signature held, and
the replay changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import grpc.aio
from rich.table import Table
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub
from tollway.invoice.v1.invoice_service_pb2 import Invoice
from tollway.replay.v1 import replay_service_pb2 as replay
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub

from cli.commands.events import trail_request, trail_tree
from cli.demo.airline import METER, Airline, DemoFailed, make_tenant, wait_for
from cli.demo.bills import Totals, check_invoices
from cli.demo.receiver import Receiver, receiving
from cli.demo.recompute import MONTHLY_FEE_CENTS, ZONE, Expected
from cli.demo.teller import Teller, dollars
from cli.usage_import import ImportOptions, ImportSummary, import_usage

YEAR, MONTH = 2013, 1
MONTH_BEGINS: Final = datetime(YEAR, MONTH, 1, tzinfo=ZONE)
LAST_MINUTE: Final = datetime(YEAR, MONTH, 31, 23, 59, tzinfo=ZONE)
NEXT_MONTH: Final = datetime(YEAR, MONTH + 1, 1, tzinfo=ZONE)
AFTER_THE_GRACE: Final = NEXT_MONTH + timedelta(hours=2)
DELIVERY_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the last line says."""

    records: int
    invoices: int
    totals: Totals
    verified: int
    airline: Airline
    fresh_key: str


@dataclass(frozen=True, slots=True)
class Input:
    """The raw file, the names of the airlines, and what the file says."""

    flights: Path
    airlines: Mapping[str, str]
    expected: Expected


async def play(
    teller: Teller, channel: grpc.aio.Channel, address: str, operator_key: str, given: Input
) -> Outcome:
    """The whole story against a running house. Raises DemoFailed with what did not hold."""
    receiver = Receiver()
    async with receiving(receiver) as url:
        airline = await make_tenant(channel, operator_key, "New York departures")
        await _set_up(teller, airline, receiver, url, given)
        await _record(teller, airline, address, given)
        await _rate(teller, airline, receiver, given)
        await _bill(teller, airline, receiver)
        invoices = await airline.invoices()
        totals = _show_invoices(teller, invoices, airline, given)
        await _wait_for_webhooks(teller, receiver, len(invoices))
        await _replay(teller, airline, receiver, invoices)
        await _show_trail(teller, airline, invoices)
        if receiver.refused:
            raise DemoFailed(f"{receiver.refused} deliveries did not verify")
        fresh = await make_tenant(channel, operator_key, "Yours to try")
        return Outcome(
            given.expected.records, len(invoices), totals, receiver.deliveries, airline, fresh.key
        )


async def _set_up(
    teller: Teller, airline: Airline, receiver: Receiver, url: str, given: Input
) -> None:
    teller.tell("tenant", f"{airline.tenant_id}, in test mode, in {ZONE.key}")
    await airline.set_clock(MONTH_BEGINS)
    await airline.make_catalog()
    receiver.trust(await airline.make_endpoint(url))
    teller.tell(
        "catalog",
        f"meter {METER!r}, a graduated price, a monthly fee of {dollars(MONTHLY_FEE_CENTS)} USD",
    )
    await airline.subscribe(given.airlines)
    teller.tell("customers", f"{len(given.airlines)} airlines, each with its subscription")
    await airline.advance_clock(LAST_MINUTE)
    teller.tell("test clock", f"stands at {LAST_MINUTE:%d %B %Y %H:%M} in New York")


async def _record(teller: Teller, airline: Airline, address: str, given: Input) -> None:
    first = await _import(teller, airline, address, given.flights)
    expected = given.expected
    if (first.accepted, first.rejected) != (expected.records, expected.without_minutes):
        raise DemoFailed(f"the import took {first}, the file has {expected.records} records")
    speed = first.accepted / first.seconds
    teller.tell(
        "usage recorded",
        f"{first.accepted:,} flights accepted, {first.rejected} without minutes rejected ({speed:,.0f} records/s)",
    )
    second = await _import(teller, airline, address, given.flights)
    if (second.accepted, second.duplicate) != (0, expected.records):
        raise DemoFailed(f"the second import took {second}")
    teller.tell("imported again", f"{second.duplicate:,} duplicates, nothing counted twice")


async def _import(teller: Teller, airline: Airline, address: str, flights: Path) -> ImportSummary:
    options = ImportOptions(
        file=flights,
        columns={
            "idempotency_key": "time_hour+carrier+flight",
            "customer": "carrier",
            "timestamp": "time_hour",
            "quantity": "air_time",
        },
        constants={"meter": METER},
        where={"year": str(YEAR), "month": str(MONTH)},
    )
    return await import_usage(airline.channel, airline.metadata, options, teller.console)


async def _rate(teller: Teller, airline: Airline, receiver: Receiver, given: Input) -> None:
    async def missing() -> str:
        for code in given.airlines:
            charged, wanted = await airline.charge(code), given.expected.usage_cents(code)
            if charged != wanted:
                return f"the charges of {code}: {dollars(charged)} of {dollars(wanted)}"
        return ""

    await wait_for(missing)
    subjects = receiver.subjects
    teller.tell("usage reported", f"{subjects['usage.reported']} events, folded into buckets")
    total = sum(given.expected.usage_cents(code) for code in given.airlines)
    teller.tell("usage rated", f"running charges of {dollars(total)} USD, as the file says")


async def _bill(teller: Teller, airline: Airline, receiver: Receiver) -> None:
    await airline.advance_clock(AFTER_THE_GRACE)
    teller.tell(
        "test clock", f"stands at {AFTER_THE_GRACE:%d %B %Y %H:%M}; the month's end has passed"
    )
    wanted = 2 * len(airline.subscriptions)
    await receiver.wait_until(
        lambda: receiver.subjects["invoice.generated"] >= wanted, DELIVERY_TIMEOUT_S
    )
    subjects = receiver.subjects
    teller.tell(
        "cycle closed", f"{subjects['billing.cycle.closed']} events, activations and periods"
    )
    teller.tell("invoice generated", f"{subjects['invoice.generated']} drafts")


def _show_invoices(
    teller: Teller, invoices: Sequence[Invoice], airline: Airline, given: Input
) -> Totals:
    code_of = {subscription: code for code, subscription in airline.subscriptions.items()}
    totals = check_invoices(invoices, code_of, given.expected)
    table = Table("number", "airline", "lines", box=None)
    table.add_column("total USD", justify="right")
    for bill in invoices:
        lines = " + ".join(
            f"{line.description} {dollars(line.amount.minor_units)}" for line in bill.lines
        )
        name = given.airlines[code_of[bill.subscription_id]]
        table.add_row(bill.number, name, lines, dollars(bill.total.minor_units))
    teller.tell(
        "invoices open",
        f"{len(invoices)}, numbered without a gap, each equal to the raw file's amount",
    )
    teller.show(table)
    return totals


async def _wait_for_webhooks(teller: Teller, receiver: Receiver, invoices: int) -> None:
    enough = await receiver.wait_until(
        lambda: receiver.subjects["invoice.status.changed"] >= invoices, DELIVERY_TIMEOUT_S
    )
    if not enough:
        raise DemoFailed(
            f"only {receiver.subjects['invoice.status.changed']} of {invoices} open invoices were delivered"
        )
    teller.tell(
        "webhooks delivered",
        f"{receiver.deliveries} signed requests so far, every signature verified by the standardwebhooks library",
    )


async def _replay(
    teller: Teller, airline: Airline, receiver: Receiver, invoices: Sequence[Invoice]
) -> None:
    stub, metadata = ReplayServiceStub(airline.channel), airline.metadata
    before = set(receiver.events)
    plan = await stub.PlanReplay(
        replay.PlanReplayRequest(
            filter=replay.ReplayFilter(subjects=["invoice.*", "billing.cycle.closed"]),
            targets=[replay.ReplayTarget(bus=replay.BusTarget())],
        ),
        metadata=metadata,
    )
    teller.tell(
        "replay planned", f"{plan.matched} events would be sent again; it needs the plan's token"
    )
    started = await stub.StartReplay(
        replay.StartReplayRequest(
            confirmation_token=plan.confirmation_token, note="the demo's replay"
        ),
        metadata=metadata,
    )
    progress = started.replay

    async def unfinished() -> str:
        nonlocal progress
        answer = await stub.GetReplay(
            replay.GetReplayRequest(replay_id=progress.id), metadata=metadata
        )
        progress = answer.replay
        return (
            ""
            if progress.status == replay.REPLAY_STATUS_FINISHED
            else f"the replay, at {progress.published}"
        )

    await wait_for(unfinished)
    if list(await airline.invoices()) != list(invoices):
        raise DemoFailed("the replay changed an invoice")
    sent_again = set(receiver.events) - before
    subjects = {receiver.events[event]["type"] for event in sent_again}
    if not subjects <= {"billing.replay.started", "billing.replay.finished"}:
        raise DemoFailed(f"the replay made new events: {subjects}")
    teller.tell(
        "replay finished",
        f"{progress.published} published, {progress.skipped} skipped as handled, 0 changed",
    )


async def _show_trail(teller: Teller, airline: Airline, invoices: Sequence[Invoice]) -> None:
    largest = max(invoices, key=lambda bill: bill.total.minor_units)
    answer = await EventServiceStub(airline.channel).GetTrail(
        trail_request(largest.id, 2), metadata=airline.metadata
    )
    teller.tell("the trail", f"of {largest.number}, {dollars(largest.total.minor_units)} USD")
    teller.show(trail_tree(answer))
