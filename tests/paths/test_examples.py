"""Every grpcurl line that the comments of the protos print does what it says, on a house like that of the demo.

The lines run by the real grpcurl, through a shell, as somebody would who copies them. What a line's variables stand for
is looked up just before: a draft for the line that finalizes one, the pending change for the line that cancels one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc.aio
import pytest
from tollway.invoice.v1 import invoice_item_service_pb2 as item_pb
from tollway.invoice.v1.invoice_item_service_pb2_grpc import InvoiceItemServiceStub
from tollway.replay.v1 import replay_service_pb2 as replay_pb
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub
from tollway.usage.v1 import usage_service_pb2 as usage_pb
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub
from tollway.webhook.v1 import recovery_service_pb2 as recovery_pb
from tollway.webhook.v1.recovery_service_pb2_grpc import WebhookRecoveryServiceStub

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.settings import Settings
from cli.demo.airline import METER, Airline, make_tenant, wait_for
from cli.demo.receiver import Receiver, receiving
from cli.demo.story import AFTER_THE_GRACE, LAST_MINUTE, MONTH_BEGINS
from cli.up import Address, UpOptions, running
from tests.house.tree import contract
from tools import grpcurl
from tools.examples import line_of

PATIENCE_S: Final = 60.0
TIMEOUT_S: Final = 300
AIRLINES: Final = {"UA": "United", "AA": "American", "B6": "JetBlue"}
# Half a million minutes pay for a credit note and for a payment, too.
MINUTES: Final = "500000"
# A stream that has no end of its own: its first message is enough.
ENDLESS: Final = "tollway.event.v1.EventService/WatchEvents"
# What would stand in the way of the others, in this order.
LAST: Final = (
    "WebhookService/EnableEndpoint",
    "WebhookService/DeleteEndpoint",
    "ThresholdService/DeleteThreshold",
    "CatalogService/ArchivePrice",
    "CatalogService/ArchiveMeter",
    "CatalogService/ArchivePlan",
    "SubscriptionService/ApplyLifecycle",
    "UsageService/RequireSubscription",
    "SchedulerService/AdvanceTestClock",
    "SchedulerService/GetTestClock",
    "SchedulerService/WatchTestClock",
)

# The row that a variable stands for, of the tenant $1: the newest that there is.
_NEWEST: Final = "SELECT id FROM {} WHERE tenant_id = $1 ORDER BY id DESC LIMIT 1"
_DRAFT: Final = (
    "SELECT id FROM invoices WHERE tenant_id = $1 AND status = 'draft' ORDER BY id DESC LIMIT 1"
)
_OPEN: Final = (
    "SELECT i.id FROM invoices i JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id"
    " WHERE i.tenant_id = $1 AND i.status = 'open' AND i.amount_due >= 5000 AND l.line_number = 1"
    " AND l.amount >= 1000 ORDER BY i.id LIMIT 1"
)
_SUBSCRIPTION: Final = (
    "SELECT id FROM subscriptions WHERE tenant_id = $1 AND external_id = 'sub-UA'"
)
_ENDPOINT: Final = "SELECT id FROM webhooks WHERE tenant_id = $1 ORDER BY id LIMIT 1"
_ROWS: Final[Mapping[str, tuple[Prefix, str]]] = {
    "METER": (Prefix.METER, "SELECT id FROM meters WHERE tenant_id = $1 ORDER BY id LIMIT 1"),
    "PLAN": (Prefix.PLAN, "SELECT id FROM plans WHERE tenant_id = $1 ORDER BY id LIMIT 1"),
    "PRICE": (
        Prefix.PRICE,
        "SELECT id FROM prices WHERE tenant_id = $1 AND meter_id IS NULL ORDER BY id LIMIT 1",
    ),
    "CUSTOMER": (Prefix.CUSTOMER, "SELECT id FROM customers WHERE tenant_id = $1 AND external_id = 'UA'"),
    "SUBSCRIPTION": (Prefix.SUBSCRIPTION, _SUBSCRIPTION),
    "INVOICE": (Prefix.INVOICE, _OPEN),
    "ENDPOINT": (Prefix.WEBHOOK_ENDPOINT, _ENDPOINT),
    "EVENT": (
        Prefix.EVENT,
        "SELECT e.id FROM billing_events e JOIN webhook_deliveries d ON d.tenant_id = e.tenant_id AND d.event_id = e.id"
        f" WHERE e.tenant_id = $1 AND e.subject = 'invoice.generated' AND d.webhook_id = ({_ENDPOINT}) LIMIT 1",
    ),
    "ITEM": (
        Prefix.SUBSCRIPTION_ITEM,
        "SELECT i.id FROM subscription_items i JOIN prices p ON p.tenant_id = i.tenant_id AND p.id = i.price_id"
        f" WHERE i.tenant_id = $1 AND i.subscription_id = ({_SUBSCRIPTION}) AND p.meter_id IS NULL LIMIT 1",
    ),
    "REPLAY": (Prefix.REPLAY, _NEWEST.format("replays")),
    "THRESHOLD": (Prefix.THRESHOLD, _NEWEST.format("usage_thresholds")),
    "RECOVERY": (Prefix.RECOVERY, _NEWEST.format("webhook_recoveries")),
    "CREDIT_NOTE": (Prefix.CREDIT_NOTE, _NEWEST.format("credit_notes")),
    "DISCOUNT": (Prefix.DISCOUNT, _NEWEST.format("discounts")),
    "BACKFILL": (Prefix.BACKFILL, _NEWEST.format("usage_backfills")),
    "KEY_ID": (Prefix.API_KEY, _NEWEST.format("api_keys")),
    "CHANGE": (
        Prefix.SCHEDULED_CHANGE,
        "SELECT id FROM scheduled_changes WHERE tenant_id = $1 AND status = 'pending' ORDER BY id LIMIT 1",
    ),
    "DEAD_LETTER": (
        Prefix.DEAD_LETTER,
        "SELECT id FROM router_dead_letters WHERE tenant_id = $1 LIMIT 1",
    ),
}  # fmt: skip
# Where a line needs another row than the others that have the same variable.
_OF_METHOD: Final[Mapping[tuple[str, str], str]] = {
    ("CatalogService/ArchiveMeter", "METER"): _NEWEST.format("meters"),
    ("CatalogService/ArchivePlan", "PLAN"): _NEWEST.format("plans"),
    ("CatalogService/ArchivePrice", "PRICE"): _NEWEST.format("prices"),
    ("InvoiceService/PreviewInvoice", "INVOICE"): _DRAFT,
    ("InvoiceService/FinalizeInvoice", "INVOICE"): _DRAFT,
    ("InvoiceService/ApplyLifecycle", "INVOICE"): _DRAFT,
    ("SubscriptionService/ApplyLifecycle", "SUBSCRIPTION"): _NEWEST.format("subscriptions"),
    ("UsageService/RequireSubscription", "SUBSCRIPTION"): _NEWEST.format("subscriptions"),
    ("InvoiceItemService/RemoveInvoiceItem", "ITEM"): _NEWEST.format("invoice_items"),
    ("UsageService/ApplyLifecycle", "ITEM"): (
        "SELECT i.id FROM subscription_items i JOIN subscriptions s ON s.tenant_id = i.tenant_id"
        " AND s.id = i.subscription_id WHERE i.tenant_id = $1 AND s.external_id = 'sub-AA' AND i.meter_id IS NOT NULL"
    ),
}


@dataclass(slots=True)
class Stage:
    """A house like the demo's, its tenant, and what the lines have answered so far."""

    address: Address
    airline: Airline
    fresh_key: str
    database: asyncpg.Connection[asyncpg.Record]
    tenant_id: Any
    answers: dict[str, str] = field(default_factory=dict)

    async def variables(self, method: str, line: str) -> dict[str, str]:
        """What the variables of a line stand for."""
        now = await self._now()
        known = {
            "ADDR": self.address.grpc,
            "KEY": self.airline.key,
            "FRESH_KEY": self.fresh_key,
            "OPERATOR_KEY": self.address.operator_key,
            "TENANT": self.airline.tenant_id,
            "NOW": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        }
        if "$TOKEN" in line:
            planned = self.answers["ReplayService/PlanReplay"]
            known["TOKEN"] = json.loads(planned)["confirmationToken"]
        for name in set(re.findall(r"\$([A-Z_]+)", line)) - set(known):
            known[name] = await self._id(method, name)
        return known

    async def _id(self, method: str, name: str) -> str:
        prefix, statement = _ROWS[name]
        if method.startswith("InvoiceItemService/"):
            prefix = {"ITEM": Prefix.INVOICE_ITEM}.get(name, prefix)
        row = await self.database.fetchval(
            _OF_METHOD.get((method, name), statement), self.tenant_id
        )
        assert row is not None, f"{method}: nothing stands for ${name}"
        return encode(prefix, row)

    async def prepare(self, method: str) -> None:
        """Brings about what a line works on, where no other line does."""
        match method.partition("/")[2]:
            case "FinalizeInvoice" | "PreviewInvoice":
                await self._draft()
            case "ApplyLifecycle" if method.startswith("InvoiceService"):
                await self._draft()
            case "ApplyLifecycle" if method.startswith("UsageService"):
                await self._report()
            case "PauseReplay":
                await self._slow_replay()
            case "CancelRecovery":
                await self._slow_recovery()
            case "GetDeadLetter" | "DiscardDeadLetter":
                await self._bury()
            case _:
                pass

    async def _draft(self) -> None:
        customer_id = await self._id("", "CUSTOMER")
        request = item_pb.CreateInvoiceRequest(customer_id=customer_id, currency_code="USD")
        request.items.add(description="Training", quantity="1", unit_amount="90.00")
        stub = InvoiceItemServiceStub(self.airline.channel)
        await stub.CreateInvoice(request, metadata=self.airline.metadata)

    async def _slow_replay(self) -> None:
        """A replay that goes on for as long as this test; there is one at a time on the bus."""
        await self.until("SELECT count(*) = 0 FROM replays WHERE status = 'running'")
        stub, metadata = ReplayServiceStub(self.airline.channel), self.airline.metadata
        target = replay_pb.ReplayTarget(bus=replay_pb.BusTarget())
        plan = await stub.PlanReplay(
            replay_pb.PlanReplayRequest(
                filter=replay_pb.ReplayFilter(), targets=[target], rate_per_second=1
            ),
            metadata=metadata,
        )
        request = replay_pb.StartReplayRequest(
            confirmation_token=plan.confirmation_token, note="slowly"
        )
        await stub.StartReplay(request, metadata=metadata)

    async def _slow_recovery(self) -> None:
        await self.until("SELECT count(*) = 0 FROM webhook_recoveries WHERE status = 'running'")
        request = recovery_pb.RecoverEndpointRequest(note="slowly")
        request.filter.endpoint_id = await self._id("", "ENDPOINT")
        request.filter.rate_per_second = 1
        request.filter.states.append(recovery_pb.RECOVERABLE_STATE_DELIVERED)
        request.filter.since.FromJsonString("2026-01-01T00:00:00Z")
        stub = WebhookRecoveryServiceStub(self.airline.channel)
        await stub.RecoverEndpoint(request, metadata=self.airline.metadata)

    async def _bury(self) -> None:
        """A dead letter of an event that was handled: nothing comes of it when it is tried again."""
        await self.database.execute(
            "INSERT INTO router_dead_letters (consumer, resource, resource_version, event_id, tenant_id, partition,"
            " subject, attempts, last_error, died_at) SELECT 'invoice', resource, resource_version, id, tenant_id, 0,"
            " subject, 10, 'KeyError: 1', now() FROM billing_events WHERE tenant_id = $1"
            " AND subject = 'billing.cycle.closed' LIMIT 1",
            self.tenant_id,
        )

    async def _report(self) -> None:
        """Usage of a period that was never rated: its subscription was, less than an interval ago."""
        key = await self.record("AA", "1")
        await self.until(
            "SELECT item_id IS NOT NULL FROM usage_records WHERE idempotency_key = $1", key
        )

    async def record(self, airline: str, minutes: str) -> str:
        """Records usage at the tenant's time; its key."""
        request = usage_pb.BatchRecordUsageRequest()
        record = request.records.add(
            idempotency_key=f"prepared-{airline}-{minutes}",
            meter_key=METER,
            external_customer_id=airline,
            quantity=minutes,
        )
        record.timestamp.FromDatetime(await self._now())
        stub = UsageServiceStub(self.airline.channel)
        answer = await stub.BatchRecordUsage(request, metadata=self.airline.metadata)
        assert answer.accepted == 1
        return record.idempotency_key

    async def until(self, statement: str, *values: Any) -> None:
        """Waits until the database says so."""

        async def missing() -> str:
            return "" if await self.database.fetchval(statement, *values) else statement

        await wait_for(missing, PATIENCE_S)

    async def _now(self) -> datetime:
        now: datetime = await self.database.fetchval(
            "SELECT business_time FROM test_clocks WHERE tenant_id = $1", self.tenant_id
        )
        return now


def examples() -> dict[str, str]:
    """The line of each RPC, by `Service/Method`, in the order in which they run."""
    lines = {}
    for service in contract().services:
        for rpc in service.rpcs:
            line = line_of(rpc)
            assert line is not None
            lines[f"{service.name.rsplit('.', 1)[1]}/{rpc.name}"] = line
    return {name: lines[name] for name in [*(n for n in lines if n not in LAST), *LAST]}


@asynccontextmanager
async def staging(folder: Path) -> AsyncIterator[Stage]:
    """The house, a month of usage that was billed, and webhooks that were delivered."""
    options = UpOptions(folder / "data", grpc_port=0, http_port=0)
    receiver = Receiver()
    async with (
        receiving(receiver) as url,
        running(options, Settings(), asyncio.Event()) as address,
        grpc.aio.insecure_channel(address.grpc) as channel,
    ):
        airline = await make_tenant(channel, address.operator_key, "New York departures")
        await airline.set_clock(MONTH_BEGINS)
        await airline.make_catalog()
        receiver.trust(await airline.make_endpoint(url))
        await airline.subscribe(AIRLINES)
        await airline.advance_clock(LAST_MINUTE)
        fresh = await make_tenant(channel, address.operator_key, "Yours to try")
        database = await asyncpg.connect(address.database_url)
        try:
            tenant_id = decode(Prefix.TENANT, airline.tenant_id)
            stage = Stage(address, airline, fresh.key, database, tenant_id)
            for code in AIRLINES:
                await stage.record(code, MINUTES)
            await airline.advance_clock(AFTER_THE_GRACE)
            await stage.until(
                "SELECT count(*) > 0 AND count(*) FILTER (WHERE status <> 'delivered') = 0 FROM webhook_deliveries"
            )
            yield stage
        finally:
            await database.close()


async def run(stage: Stage, method: str, line: str, path: str) -> str:
    """What a line prints, by a shell. Raises AssertionError with what it complains of."""
    await stage.prepare(method)
    variables = await stage.variables(method, line)
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"exec {line}",
        env={"PATH": path, **variables}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        if line.endswith(ENDLESS):
            assert process.stdout is not None
            told = await process.stdout.readuntil(b"\n}\n")
            process.kill()
            await process.communicate()
            return told.decode()
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.timeout(TIMEOUT_S)
async def test_every_line_in_the_comments_of_the_protos_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := grpcurl.why_not()) is not None:
        pytest.skip(reason)
    # What is recorded now is rated at once, and what comes within the hour is not.
    monkeypatch.setenv("TOLLWAY_RATING_INTERVAL_S", "3600")
    (tmp_path / "grpcurl").symlink_to(grpcurl.PROGRAM)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    failed = {}
    async with staging(tmp_path) as stage:
        for method, line in examples().items():
            try:
                stage.answers[method] = await run(stage, method, line, path)
            except (AssertionError, TimeoutError, grpc.aio.AioRpcError) as error:
                failed[method] = f"{error}"
    assert not failed, json.dumps(failed, indent=1)
    assert len(stage.answers) == sum(len(service.rpcs) for service in contract().services)
    told = json.loads(stage.answers["EventService/GetEvent"])["event"]["data"]
    assert told["@type"] == "type.googleapis.com/tollway.invoice.v1.InvoiceGenerated"
    assert told["invoiceId"].startswith("inv_")
