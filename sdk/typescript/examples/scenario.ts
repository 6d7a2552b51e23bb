// The scenario of sdk/scenario.json in TypeScript: `node dist/examples/scenario.js <path of the scenario>`.
//
// TOLLWAY_ADDRESS says where the server is, TOLLWAY_LOSSY_ADDRESS where a line to it breaks once, and TOLLWAY_API_KEY is an
// admin key of a new tenant.

import { equals } from "@bufbuild/protobuf";
import { Code, createClient } from "@connectrpc/connect";
import { readFileSync } from "node:fs";
import { createServer, type IncomingHttpHeaders } from "node:http";
import { type AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";

import { Aggregation, CatalogService, Interval } from "../gen/tollway/catalog/v1/catalog_service_pb.js";
import { CustomerService } from "../gen/tollway/customer/v1/customer_service_pb.js";
import { EventService } from "../gen/tollway/event/v1/event_service_pb.js";
import { InvoiceItemService } from "../gen/tollway/invoice/v1/invoice_item_service_pb.js";
import { InvoiceService, PreviewMoment } from "../gen/tollway/invoice/v1/invoice_service_pb.js";
import {
  CreateSubscriptionResponseSchema,
  type Subscription,
  SubscriptionService,
} from "../gen/tollway/subscription/v1/subscription_service_pb.js";
import { Scope, TenantService } from "../gen/tollway/tenant/v1/tenant_service_pb.js";
import { UsageService } from "../gen/tollway/usage/v1/usage_service_pb.js";
import { WebhookService } from "../gen/tollway/webhook/v1/webhook_service_pb.js";
import { createTransport, detailsOf, pages, verifyWebhook, type WebhookEvent } from "../src/index.js";

const WAIT_MS = 60_000;
const POLL_MS = 100;
const NOWHERE = "127.0.0.1:1";
const NOBODY = "twk_nobody";
const ADDRESS = process.env.TOLLWAY_ADDRESS!;
const KEY = process.env.TOLLWAY_API_KEY!;

const table = JSON.parse(readFileSync(process.argv[2]!, "utf8"));
const given = table.given;
const externalCustomer = { case: "externalCustomerId" as const, value: given.customer.external_id as string };
const newCustomer = (row: { external_id: string; display_name: string }) => ({
  externalId: row.external_id,
  displayName: row.display_name,
});

function connect(address: string, key: string) {
  const transport = createTransport({ address: `http://${address}`, key });
  return {
    catalog: createClient(CatalogService, transport),
    customers: createClient(CustomerService, transport),
    events: createClient(EventService, transport),
    invoiceItems: createClient(InvoiceItemService, transport),
    invoices: createClient(InvoiceService, transport),
    subscriptions: createClient(SubscriptionService, transport),
    tenants: createClient(TenantService, transport),
    usage: createClient(UsageService, transport),
    webhooks: createClient(WebhookService, transport),
  };
}

const tollway = connect(ADDRESS, KEY);
let subscription: Subscription;
let endpointId = "";

// What the receiver got: verified events, and the last request as it came, to forge from.
let secret = "";
let last: { headers: IncomingHttpHeaders; body: Buffer };
const received: WebhookEvent[] = [];

const receiver = createServer(async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  response.writeHead(take(request.headers, Buffer.concat(chunks))).end();
});

/** The status to answer with. */
function take(headers: IncomingHttpHeaders, body: Buffer): number {
  try {
    received.push(verifyWebhook(secret, headers, body));
  } catch {
    return 401;
  }
  last = { headers, body };
  return 204;
}

function tell(step: string, told: object): void {
  console.log(JSON.stringify({ step, told }));
}

/** What `found` finds in the end. */
async function until<T>(found: () => Promise<T | undefined> | T | undefined): Promise<T> {
  for (const end = Date.now() + WAIT_MS; Date.now() < end; await pause(POLL_MS)) {
    const result = await found();
    if (result !== undefined) return result;
  }
  throw new Error(`nothing came within ${WAIT_MS} ms`);
}

function createMeter() {
  const { key, display_name: displayName } = given.meter;
  return tollway.catalog.createMeter({ key, displayName, aggregation: Aggregation.SUM });
}

async function subscribe(url: string): Promise<void> {
  const made = await tollway.webhooks.createEndpoint({ url, subjects: given.webhook_subjects });
  secret = made.secret;
  endpointId = made.endpoint!.id;
  await createMeter();
  const plan = given.plan;
  await tollway.catalog.createPlan({
    key: plan.key,
    displayName: plan.display_name,
    currencyCode: plan.currency_code,
    interval: Interval.MONTH,
  });
  await tollway.catalog.createPrice({
    plan: { case: "planKey", value: plan.key },
    meterKey: given.meter.key,
    displayName: given.meter.display_name,
    model: { case: "perUnit", value: { unitAmount: plan.unit_amount } },
  });
  await tollway.customers.createCustomer(newCustomer(given.customer));
  const request = {
    requestId: "the scenario's subscription",
    customer: externalCustomer,
    plan: { case: "planKey" as const, value: plan.key as string },
  };
  const first = await tollway.subscriptions.createSubscription(request);
  const again = await tollway.subscriptions.createSubscription(request);
  subscription = first.subscription!;
  tell("subscribe", {
    customer: given.customer.external_id,
    items: subscription.items.length,
    repeat_is_the_same: equals(CreateSubscriptionResponseSchema, first, again),
  });
}

/** One customer, though the first answer is lost. */
async function loseAnAnswer(): Promise<void> {
  const lossy = connect(process.env.TOLLWAY_LOSSY_ADDRESS!, KEY);
  const made = await lossy.customers.createCustomer(newCustomer(given.late_customer));
  tell("lost_answer", { customer: made.customer!.externalId });
}

/** The records, a batch at a time. The subscription covers its own start. */
async function* batches() {
  const { records, batch, quantity } = given.usage;
  for (let start = 0; start < records; start += batch) {
    const numbers = Array.from({ length: Math.min(batch, records - start) }, (_, i) => start + i);
    yield {
      records: numbers.map((number) => ({
        idempotencyKey: `record-${number}`,
        meterKey: given.meter.key,
        customer: externalCustomer,
        timestamp: subscription.startTime,
        quantity,
      })),
    };
  }
}

async function stream(): Promise<{ accepted: number; duplicate: number }> {
  const counts = { accepted: 0, duplicate: 0 };
  for await (const answer of tollway.usage.streamUsage(batches())) {
    counts.accepted += answer.accepted;
    counts.duplicate += answer.duplicate;
  }
  return counts;
}

/** Every record twice; each counts once. */
async function streamUsage(): Promise<void> {
  const { accepted } = await stream();
  const { duplicate } = await stream();
  tell("stream_usage", { accepted, duplicate });
}

async function walkPages(): Promise<void> {
  const request = { customer: externalCustomer, pageSize: given.page_size };
  const found = { pages: 0, records: 0 };
  for await (const page of pages((pageToken) => tollway.usage.listUsage({ ...request, pageToken }))) {
    found.pages += 1;
    found.records += page.records.length;
  }
  tell("pages", found);
}

async function preview(minorUnits: number): Promise<void> {
  const total = await until(async () => {
    const what = { case: "subscriptionId" as const, value: subscription.id };
    const { invoice } = await tollway.invoices.previewInvoice({ what, moment: PreviewMoment.NOW });
    return invoice!.total!.minorUnits >= minorUnits ? invoice!.total : undefined;
  });
  tell("preview", { currency: total.currencyCode, minor_units: Number(total.minorUnits) });
}

async function webhook(): Promise<WebhookEvent> {
  const created = await until(() => received.find((event) => event.type === "subscription.created"));
  const forged = take({ ...last.headers, "webhook-signature": "v1,Zm9yZ2Vk" }, last.body);
  tell("webhook", { forged: forged === 401 ? "refused" : "taken", subject: created.type });
  return created;
}

/** From the event that made the subscription active back to the root. */
async function trail(created: WebhookEvent, subject: string): Promise<void> {
  const path = await until(async () => {
    const start = { case: "eventId" as const, value: created.id };
    const { nodes } = await tollway.events.getTrail({ start, linkDepth: given.trail_depth });
    const walked: string[] = [];
    for (let at = nodes.find((node) => node.event!.subject === subject); at; at = nodes[at.parent]) {
      walked.push(at.event!.subject);
    }
    return walked.length ? walked : undefined;
  });
  tell("trail", { path });
}

/** One error of each kind. */
const failures: Record<string, () => Promise<unknown>> = {
  invalid: () => tollway.catalog.createMeter({ displayName: "Nameless", aggregation: Aggregation.SUM }),
  unauthenticated: () => connect(ADDRESS, NOBODY).customers.listCustomers({}),
  permission: async () => {
    const made = await tollway.tenants.createApiKey({ displayName: "reader", scopes: [Scope.READ] });
    await connect(ADDRESS, made.secret).customers.createCustomer({ externalId: "DL", displayName: "Delta" });
  },
  not_found: () => tollway.customers.getCustomer({ name: { case: "externalId", value: "nobody" } }),
  already_exists: createMeter,
  conflict: () =>
    tollway.webhooks.updateEndpoint({
      endpointId,
      etag: "another",
      description: "new",
      updateMask: { paths: ["description"] },
    }),
  precondition: () => tollway.subscriptions.uncancelSubscription({ subscriptionId: subscription.id }),
  exhausted: async () => {
    for (let rotation = 0; rotation < 10; rotation++) await tollway.webhooks.rotateEndpointSecret({ endpointId });
  },
  out_of_range: () =>
    tollway.invoiceItems.addInvoiceItem({
      owner: { case: "subscriptionId", value: subscription.id },
      item: { description: "everything", quantity: "999999999999", unitAmount: "999999999999" },
    }),
  unavailable: () => connect(NOWHERE, NOBODY).customers.listCustomers({}),
  deadline: async () => {
    for await (const _ of tollway.events.watchEvents({}, { timeoutMs: 500 }));
  },
};

async function meetErrors(): Promise<void> {
  for (const row of table.errors) {
    try {
      await failures[row.error]!();
    } catch (error) {
      const { code, reasonName, violations } = detailsOf(error);
      // InvalidArgument is INVALID_ARGUMENT in the protocol.
      const name = Code[code]!.replace(/(?<=.)[A-Z]/g, "_$&").toUpperCase();
      const field = violations[0]?.field;
      tell(row.error, { code: name, reason: reasonName, ...(field && { field }) });
    }
  }
}

const told = Object.fromEntries(table.steps.map((row: { step: string; told: object }) => [row.step, row.told]));
await new Promise<void>((resolve) => receiver.listen(0, "127.0.0.1", resolve));
await subscribe(`http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`);
await loseAnAnswer();
await streamUsage();
await walkPages();
await preview(told.preview.minor_units);
await trail(await webhook(), told.trail.path[0]);
await meetErrors();
process.exit(0); // Connections that are kept open would keep the program.
