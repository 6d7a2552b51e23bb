"""The demo's tenant: airlines as customers, minutes in the air as usage, a graduated price and a monthly fee.

Invariant: everything here goes through gRPC with the tenant's own key, as any client's would.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.catalog.v1 import catalog_service_pb2 as catalog
from tollway.catalog.v1 import price_models_pb2 as models
from tollway.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from tollway.customer.v1 import customer_service_pb2 as customer
from tollway.customer.v1.customer_service_pb2_grpc import CustomerServiceStub
from tollway.invoice.v1 import invoice_service_pb2 as invoice
from tollway.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from tollway.rating.v1 import rating_service_pb2 as rating
from tollway.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollway.scheduler.v1 import scheduler_service_pb2 as scheduler
from tollway.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from tollway.subscription.v1 import subscription_service_pb2 as subscription
from tollway.subscription.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from tollway.tenant.v1 import tenant_service_pb2 as tenant
from tollway.tenant.v1.tenant_service_pb2_grpc import TenantServiceStub
from tollway.webhook.v1 import webhook_service_pb2 as webhook
from tollway.webhook.v1.webhook_service_pb2_grpc import WebhookServiceStub

from cli.demo.recompute import MONTHLY_FEE_CENTS, TIERS, ZONE

METER: Final = "minutes"
PLAN: Final = "airline"
WAIT_S: Final = 60.0
POLL_S: Final = 0.05


class DemoFailed(Exception):
    """Something that the demo promises did not hold."""


@dataclass(slots=True)
class Airline:
    """The tenant of the demo, by its own key. `subscriptions` maps an airline's code to its subscription."""

    channel: grpc.aio.Channel
    tenant_id: str
    key: str
    subscriptions: dict[str, str] = field(default_factory=dict)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call sends."""
        return (("authorization", f"Bearer {self.key}"),)

    async def set_clock(self, at: datetime) -> None:
        """Gives the tenant a clock that stands at `at`."""
        request = scheduler.CreateTestClockRequest(start_time=_stamp(at))
        await SchedulerServiceStub(self.channel).CreateTestClock(request, metadata=self.metadata)

    async def advance_clock(self, to: datetime) -> None:
        """Advances the clock and waits until everything due on the way has happened."""
        stub = SchedulerServiceStub(self.channel)
        await stub.AdvanceTestClock(
            scheduler.AdvanceTestClockRequest(target_time=_stamp(to)), metadata=self.metadata
        )

        async def arrived() -> str:
            answer = await stub.GetTestClock(
                scheduler.GetTestClockRequest(), metadata=self.metadata
            )
            clock = answer.test_clock
            if clock.status == scheduler.TEST_CLOCK_STATUS_FAILED:
                raise DemoFailed(f"the test clock could not go on: {clock.waiting_for}")
            return (
                ""
                if clock.status == scheduler.TEST_CLOCK_STATUS_READY
                else f"the clock: {clock.waiting_for}"
            )

        await wait_for(arrived)

    async def make_catalog(self) -> None:
        """The meter, the plan, the graduated price and the monthly fee."""
        stub = CatalogServiceStub(self.channel)
        await stub.CreateMeter(
            catalog.CreateMeterRequest(
                key=METER, display_name="Minutes in the air", aggregation=catalog.AGGREGATION_SUM
            ),
            metadata=self.metadata,
        )
        await stub.CreatePlan(
            catalog.CreatePlanRequest(
                key=PLAN,
                display_name="Airline",
                currency_code="USD",
                interval=catalog.INTERVAL_MONTH,
            ),
            metadata=self.metadata,
        )
        tiers = [
            models.Tier(up_to="" if bound is None else str(bound), unit_amount=price)
            for bound, price in TIERS
        ]
        await stub.CreatePrice(
            catalog.CreatePriceRequest(
                plan_key=PLAN,
                meter_key=METER,
                display_name="Minutes in the air",
                graduated=models.GraduatedPrice(tiers=tiers),
            ),
            metadata=self.metadata,
        )
        fee = models.FlatPrice(unit_amount=f"{MONTHLY_FEE_CENTS / 100:.2f}")
        await stub.CreatePrice(
            catalog.CreatePriceRequest(plan_key=PLAN, display_name="Monthly fee", flat=fee),
            metadata=self.metadata,
        )

    async def subscribe(self, airlines: Mapping[str, str]) -> None:
        """A customer and a subscription for each airline, by code and name."""
        customers, subscriptions = (
            CustomerServiceStub(self.channel),
            SubscriptionServiceStub(self.channel),
        )
        for code, name in airlines.items():
            await customers.CreateCustomer(
                customer.CreateCustomerRequest(external_id=code, display_name=name),
                metadata=self.metadata,
            )
            answer = await subscriptions.CreateSubscription(
                subscription.CreateSubscriptionRequest(
                    external_customer_id=code, plan_key=PLAN, external_id=f"sub-{code}"
                ),
                metadata=self.metadata,
            )
            self.subscriptions[code] = answer.subscription.id

    async def make_endpoint(self, url: str) -> str:
        """An endpoint that wants every event; its secret."""
        answer = await WebhookServiceStub(self.channel).CreateEndpoint(
            webhook.CreateEndpointRequest(
                url=url, subjects=["*"], description="the demo's receiver"
            ),
            metadata=self.metadata,
        )
        return answer.secret

    async def charge(self, code: str) -> int:
        """The running charges of an airline, in cents."""
        answer = await RatingServiceStub(self.channel).GetCharges(
            rating.GetChargesRequest(subscription_id=self.subscriptions[code]),
            metadata=self.metadata,
        )
        if answer.failure:
            raise DemoFailed(f"rating {code} failed: {answer.failure}")
        return sum(charge.amount.minor_units for charge in answer.charges)

    async def invoices(self) -> list[invoice.Invoice]:
        """Every invoice with its lines, oldest first."""
        stub = InvoiceServiceStub(self.channel)
        found: list[invoice.Invoice] = []
        token = ""
        while True:
            page = await stub.ListInvoices(
                invoice.ListInvoicesRequest(page_size=100, page_token=token), metadata=self.metadata
            )
            for listed in page.invoices:
                answer = await stub.GetInvoice(
                    invoice.GetInvoiceRequest(invoice_id=listed.id), metadata=self.metadata
                )
                found.append(answer.invoice)
            token = page.next_page_token
            if not token:
                return found[::-1]


async def make_tenant(channel: grpc.aio.Channel, operator_key: str, name: str) -> Airline:
    """A tenant in test mode, in the time zone of New York, with an admin key."""
    stub = TenantServiceStub(channel)
    as_operator = (("authorization", f"Bearer {operator_key}"),)
    made = await stub.CreateTenant(
        tenant.CreateTenantRequest(
            display_name=name, mode=tenant.TENANT_MODE_TEST, time_zone=ZONE.key
        ),
        metadata=as_operator,
    )
    key = await stub.CreateApiKey(
        tenant.CreateApiKeyRequest(
            tenant_id=made.tenant.id, display_name="tollway demo", scopes=[tenant.SCOPE_ADMIN]
        ),
        metadata=as_operator,
    )
    return Airline(channel, made.tenant.id, key.secret)


def read_airlines(path: Path) -> dict[str, str]:
    """The airlines of the file, name by code."""
    with path.open(newline="") as file:
        return {row["carrier"]: row["name"].strip() for row in csv.DictReader(file)}


async def wait_for(missing: Callable[[], Awaitable[str]], timeout_s: float = WAIT_S) -> None:
    """Asks until nothing is missing. Raises DemoFailed with what still is when the time is up."""
    until = time.monotonic() + timeout_s
    while text := await missing():
        if time.monotonic() > until:
            raise DemoFailed(f"after {timeout_s:g} s still waiting for {text}")
        await asyncio.sleep(POLL_S)


def _stamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
