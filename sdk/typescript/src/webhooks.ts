import { Webhook } from "standardwebhooks";

export { WebhookVerificationError } from "standardwebhooks";

/** An event as delivered. Handle each `id` once, and drop what has a lower `resourceVersion` than you have. */
export interface WebhookEvent {
  id: string;
  type: string;
  resourceId: string;
  resourceVersion: bigint;
  data: unknown;
}

/** The event of a request: `body` is the bytes as they came. Throws WebhookVerificationError: answer that with 401. */
export function verifyWebhook(
  secret: string,
  headers: Record<string, string | string[] | undefined>,
  body: Buffer,
): WebhookEvent {
  const single = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value ?? "")]));
  const event = new Webhook(secret).verify(body, single) as Record<string, string> & { data: unknown };
  return {
    id: single["webhook-id"] ?? "",
    type: event.type ?? "",
    resourceId: event.resource_id ?? "",
    resourceVersion: BigInt(event.resource_version ?? "0"),
    data: event.data,
  };
}
