// The client of Tollway for Node.js: a transport for the generated services.
//
//   const transport = createTransport({ address: "http://127.0.0.1:7070", key });
//   const customers = createClient(CustomerService, transport);

export { createTransport, type TransportOptions } from "./transport.js";
export { detailsOf, type ErrorDetails } from "./errors.js";
export { pages } from "./pages.js";
export { verifyWebhook, type WebhookEvent } from "./webhooks.js";
