"""The scenario of sdk/scenario.json in Python: `python scenario.py <path of the scenario>`.

TOLLWAY_ADDRESS says where the server is, TOLLWAY_LOSSY_ADDRESS where a line to it breaks once, and TOLLWAY_API_KEY is
an admin key of a new tenant.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from tollway.catalog.v1 import catalog_service_pb2 as catalog
from tollway.catalog.v1 import price_models_pb2 as models
from tollway.customer.v1 import customer_service_pb2 as customer
from tollway.event.v1 import event_service_pb2 as event
from tollway.invoice.v1 import invoice_item_service_pb2 as item
from tollway.invoice.v1 import invoice_service_pb2 as invoice
from tollway.subscription.v1 import subscription_service_pb2 as subscription
from tollway.tenant.v1 import tenant_service_pb2 as tenant
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.webhook.v1 import webhook_service_pb2 as webhook
from tollway_sdk import (
    InvalidWebhook,
    Tollway,
    TollwayError,
    WebhookEvent,
    pages,
    verify_webhook,
)

WAIT_S, POLL_S = 60.0, 0.1
NOWHERE = "127.0.0.1:1"


def tell(step: str, **told: Any) -> None:
    """One line of the answer."""
    print(json.dumps({"step": step, "told": told}), flush=True)


class Inbox:
    """What the receiver got: verified events, and the last request as it came, to forge from."""

    def __init__(self) -> None:
        self.secret = ""
        self.last: tuple[dict[str, str], bytes] = ({}, b"")
        self.events: dict[str, WebhookEvent] = {}

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """The status to answer with."""
        try:
            received = verify_webhook(self.secret, headers, body)
        except InvalidWebhook:
            return 401
        self.last = (headers, body)
        self.events[received.id] = received
        return 204


@contextmanager
def receiving(inbox: Inbox) -> Iterator[str]:
    """A receiver on a free port; its URL."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(inbox.take(dict(self.headers.items()), body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name above

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
    finally:
        server.shutdown()
        server.server_close()


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    """What `found` finds in the end."""
    async with asyncio.timeout(WAIT_S):
        while not (result := await found()):
            await asyncio.sleep(POLL_S)
    return result


class Scenario:
    """The steps, in their order."""

    def __init__(self, tollway: Tollway, given: dict[str, Any], inbox: Inbox) -> None:
        self.tollway, self.given, self.inbox = tollway, given, inbox
        self.customer = given["customer"]["external_id"]
        self.endpoint = self.subscription = ""

    async def subscribe(self, url: str) -> None:
        """Makes what a subscription needs, and subscribes."""
        made = await self.tollway.webhooks.CreateEndpoint(
            webhook.CreateEndpointRequest(url=url, subjects=self.given["webhook_subjects"])
        )
        self.endpoint, self.inbox.secret = made.endpoint.id, made.secret
        await self.make_meter()
        plan = self.given["plan"]
        await self.tollway.catalog.CreatePlan(
            catalog.CreatePlanRequest(
                key=plan["key"],
                display_name=plan["display_name"],
                currency_code=plan["currency_code"],
                interval=catalog.INTERVAL_MONTH,
            )
        )
        await self.tollway.catalog.CreatePrice(
            catalog.CreatePriceRequest(
                plan_key=plan["key"],
                meter_key=self.given["meter"]["key"],
                display_name=self.given["meter"]["display_name"],
                per_unit=models.PerUnitPrice(unit_amount=plan["unit_amount"]),
            )
        )
        await self.tollway.customers.CreateCustomer(
            customer.CreateCustomerRequest(**self.given["customer"])
        )
        request = subscription.CreateSubscriptionRequest(
            request_id="the scenario's subscription",
            external_customer_id=self.customer,
            plan_key=plan["key"],
        )
        first = (await self.tollway.subscriptions.CreateSubscription(request)).subscription
        again = (await self.tollway.subscriptions.CreateSubscription(request)).subscription
        self.subscription = first.id
        tell(
            "subscribe",
            customer=self.customer,
            items=len(first.items),
            repeat_is_the_same=first == again,
        )

    async def make_meter(self) -> None:
        """The meter; the second time it is there already."""
        await self.tollway.catalog.CreateMeter(
            catalog.CreateMeterRequest(
                key=self.given["meter"]["key"],
                display_name=self.given["meter"]["display_name"],
                aggregation=catalog.AGGREGATION_SUM,
            )
        )

    async def lost_answer(self) -> None:
        """One customer, though the first answer is lost."""
        key = os.environ["TOLLWAY_API_KEY"]
        async with Tollway(os.environ["TOLLWAY_LOSSY_ADDRESS"], key) as lossy:
            made = await lossy.customers.CreateCustomer(
                customer.CreateCustomerRequest(**self.given["late_customer"])
            )
        tell("lost_answer", customer=made.customer.external_id)

    async def stream_usage(self) -> None:
        """Every record twice; each counts once."""
        first, second = await self.stream(), await self.stream()
        tell("stream_usage", accepted=first[0], duplicate=second[1])

    async def stream(self) -> tuple[int, int]:
        """Streams all records; how many were accepted and how many duplicates."""
        accepted = duplicate = 0
        async for answer in self.tollway.usage.StreamUsage(self.batches()):
            accepted, duplicate = accepted + answer.accepted, duplicate + answer.duplicate
        return accepted, duplicate

    async def batches(self) -> AsyncIterator[usage.StreamUsageRequest]:
        """The records, a batch at a time. Their time is that of the subscription's start, so that it covers them."""
        answer = await self.tollway.subscriptions.GetSubscription(
            subscription.GetSubscriptionRequest(subscription_id=self.subscription)
        )
        rows = self.given["usage"]
        for start in range(0, rows["records"], rows["batch"]):
            yield usage.StreamUsageRequest(
                records=[
                    usage.UsageRecord(
                        idempotency_key=f"record-{number}",
                        meter_key=self.given["meter"]["key"],
                        external_customer_id=self.customer,
                        timestamp=answer.subscription.start_time,
                        quantity=rows["quantity"],
                    )
                    for number in range(start, min(start + rows["batch"], rows["records"]))
                ]
            )

    async def pages(self) -> None:
        """All usage, page by page."""
        request = usage.ListUsageRequest(
            external_customer_id=self.customer, page_size=self.given["page_size"]
        )
        found = [page async for page in pages(self.tollway.usage.ListUsage, request)]
        tell("pages", pages=len(found), records=sum(len(page.records) for page in found))

    async def preview(self, minor_units: int) -> None:
        """The amount so far, once all records count."""

        async def total() -> Any:
            request = invoice.PreviewInvoiceRequest(
                subscription_id=self.subscription, moment=invoice.PREVIEW_MOMENT_NOW
            )
            amount = (await self.tollway.invoices.PreviewInvoice(request)).invoice.total
            return amount if amount.minor_units >= minor_units else None

        amount = await until(total)
        tell("preview", currency=amount.currency_code, minor_units=amount.minor_units)

    async def webhook(self) -> WebhookEvent:
        """What was delivered; and a forgery."""

        async def arrived() -> WebhookEvent | None:
            events = list(self.inbox.events.values())
            return next((e for e in events if e.type == "subscription.created"), None)

        created: WebhookEvent = await until(arrived)
        headers, body = self.inbox.last
        forged = {**headers, "webhook-signature": "v1,Zm9yZ2Vk"}
        refused = self.inbox.take(forged, body) == 401
        tell("webhook", forged="refused" if refused else "taken", subject=created.type)
        return created

    async def trail(self, created: WebhookEvent, subject: str) -> None:
        """From the event that made the subscription active back to the root."""

        async def path() -> list[str]:
            request = event.GetTrailRequest(
                event_id=created.id, link_depth=self.given["trail_depth"]
            )
            nodes = (await self.tollway.events.GetTrail(request)).nodes
            found = [index for index, node in enumerate(nodes) if node.event.subject == subject]
            walked, at = [], found[0] if found else -1
            while at >= 0:
                walked.append(nodes[at].event.subject)
                at = nodes[at].parent
            return walked

        tell("trail", path=await until(path))

    async def errors(self, rows: list[dict[str, Any]]) -> None:
        """One error of each kind."""
        for row in rows:
            try:
                await getattr(self, row["error"])()
            except TollwayError as error:
                told = {"code": error.code().name, "reason": error.reason_name}
                if error.violations:
                    told["field"] = error.violations[0].field
                tell(row["error"], **told)

    async def invalid(self) -> None:
        await self.tollway.catalog.CreateMeter(
            catalog.CreateMeterRequest(display_name="Nameless", aggregation=catalog.AGGREGATION_SUM)
        )

    async def unauthenticated(self) -> None:
        await self.list_customers(os.environ["TOLLWAY_ADDRESS"], "twk_nobody")

    async def permission(self) -> None:
        made = await self.tollway.tenants.CreateApiKey(
            tenant.CreateApiKeyRequest(display_name="reader", scopes=[tenant.SCOPE_READ])
        )
        async with Tollway(os.environ["TOLLWAY_ADDRESS"], made.secret) as reader:
            await reader.customers.CreateCustomer(
                customer.CreateCustomerRequest(external_id="DL", display_name="Delta")
            )

    async def not_found(self) -> None:
        await self.tollway.customers.GetCustomer(customer.GetCustomerRequest(external_id="nobody"))

    async def already_exists(self) -> None:
        await self.make_meter()

    async def conflict(self) -> None:
        await self.tollway.webhooks.UpdateEndpoint(
            webhook.UpdateEndpointRequest(
                endpoint_id=self.endpoint,
                etag="another",
                description="new",
                update_mask=FieldMask(paths=["description"]),
            )
        )

    async def precondition(self) -> None:
        await self.tollway.subscriptions.UncancelSubscription(
            subscription.UncancelSubscriptionRequest(subscription_id=self.subscription)
        )

    async def exhausted(self) -> None:
        for _ in range(10):
            await self.tollway.webhooks.RotateEndpointSecret(
                webhook.RotateEndpointSecretRequest(endpoint_id=self.endpoint)
            )

    async def out_of_range(self) -> None:
        many = "999999999999"
        await self.tollway.invoice_items.AddInvoiceItem(
            item.AddInvoiceItemRequest(
                subscription_id=self.subscription,
                item=item.NewInvoiceItem(description="everything", quantity=many, unit_amount=many),
            )
        )

    async def unavailable(self) -> None:
        await self.list_customers(NOWHERE, "twk_nobody")

    async def deadline(self) -> None:
        async for _ in self.tollway.events.WatchEvents(event.WatchEventsRequest(), timeout=0.5):
            pass

    async def list_customers(self, address: str, key: str) -> None:
        async with Tollway(address, key) as other:
            await other.customers.ListCustomers(customer.ListCustomersRequest())


async def main() -> None:
    """Every step, then every error."""
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: ASYNC230 - nothing else runs yet
        table = json.load(file)
    told = {row["step"]: row["told"] for row in table["steps"]}
    inbox = Inbox()
    with receiving(inbox) as url:
        async with Tollway(os.environ["TOLLWAY_ADDRESS"], os.environ["TOLLWAY_API_KEY"]) as tollway:
            scenario = Scenario(tollway, table["given"], inbox)
            await scenario.subscribe(url)
            await scenario.lost_answer()
            await scenario.stream_usage()
            await scenario.pages()
            await scenario.preview(told["preview"]["minor_units"])
            created = await scenario.webhook()
            await scenario.trail(created, told["trail"]["path"][0])
            await scenario.errors(table["errors"])


if __name__ == "__main__":
    asyncio.run(main())
