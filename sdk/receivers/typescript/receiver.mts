// A receiver of webhooks in TypeScript, with Node's own modules alone. Node 22.6 and later run it as it is:
//
//   WEBHOOK_SECRET=whsec_… PORT=3000 node --experimental-strip-types receiver.mts

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage } from "node:http";
import { type AddressInfo } from "node:net";

interface Event {
  type: string;
  resource_id: string;
  resource_version: string;
}

const TOLERANCE_S = 300;
const BODY_BYTES_MAX = 1024 * 1024;
const key = Buffer.from((process.env.WEBHOOK_SECRET ?? "").replace(/^whsec_/, ""), "base64");

// In production both are tables of your database, written in the transaction that does the work.
const seen = new Set<string>();
const versions = new Map<string, bigint>();

/** Whether the sender knows the secret and sent this now. The body is the bytes as they came. */
function verified(id: string, timestamp: string, signatures: string, body: Buffer): boolean {
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) {
    return false;
  }
  const digest = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${digest}`);
  // Several signatures stand in the header while a secret is rotated.
  return signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature);
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

/** Takes each message once, and never replaces a newer state by an older one. */
function handle(id: string, event: Event): string {
  if (seen.has(id)) return "duplicate";
  seen.add(id);
  const version = BigInt(event.resource_version);
  if (version <= (versions.get(event.resource_id) ?? 0n)) return "stale";
  versions.set(event.resource_id, version);
  return "handled";
}

async function bodyOf(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** 204 when it is stored, 401 when it is not from the sender. */
async function receive(request: IncomingMessage): Promise<number> {
  const header = (name: string): string => String(request.headers[name] ?? "");
  const body = await bodyOf(request);
  if (body === null) return 413;
  const id = header("webhook-id");
  if (!verified(id, header("webhook-timestamp"), header("webhook-signature"), body)) return 401;
  const event: Event = JSON.parse(body.toString("utf8"));
  console.log(handle(id, event), id, event.type);
  return 204;
}

const server = createServer((request, response) => {
  receive(request).then(
    (status) => response.writeHead(status).end(),
    () => response.writeHead(400).end(),
  );
});
server.listen(Number(process.env.PORT ?? "3000"), "127.0.0.1", () => {
  console.log("listening", (server.address() as AddressInfo).port);
});
