import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import type { SecureClientSessionOptions } from "node:http2";

const TIMEOUT_MS = 30_000;
// An invoice of ten thousand lines as a page.
const ANSWER_BYTES_MAX = 32 * 1024 * 1024;
const ATTEMPTS_MAX = 5;
const FIRST_PAUSE_MS = 100;
const PAUSE_FACTOR = 3;

export interface TransportOptions {
  /** Such as `https://billing.example.com:443`; with `http:` the line is plain. */
  address: string;
  key: string;
  /** With an operator's key: the tenant to act for. */
  tenant?: string;
  /** The deadline of a call that gives none; a stream has none. */
  timeoutMs?: number;
  /** Authorities to trust and a client's certificate, as Node's own TLS takes them. */
  tls?: SecureClientSessionOptions;
}

/** A transport whose calls carry the key, a deadline and a request id, and are tried again when no server was reached. */
export function createTransport(options: TransportOptions): Transport {
  const transport = createGrpcTransport({
    baseUrl: options.address,
    nodeOptions: options.tls,
    readMaxBytes: ANSWER_BYTES_MAX,
    // In this order: the request id is made once, so every try of a call has the same.
    interceptors: [signed(options), withRequestId, triedAgain],
  });
  return {
    // A stream may last, so only calls with one answer get a deadline.
    unary: (method, signal, timeoutMs = options.timeoutMs ?? TIMEOUT_MS, ...call) =>
      transport.unary(method, signal, timeoutMs, ...call),
    stream: (...call) => transport.stream(...call),
  };
}

function signed(options: TransportOptions): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${options.key}`);
    if (options.tenant) request.header.set("tollway-tenant", options.tenant);
    return next(request);
  };
}

/** Gives a request an id of its own, where its message has one and the caller gave none. */
const withRequestId: Interceptor = (next) => (request) => {
  if (request.stream || !("requestId" in request.message) || request.message.requestId !== "") return next(request);
  // A copy: the caller's message stays as it is.
  const message = Object.assign(create(request.method.input), request.message, { requestId: randomUUID() });
  return next({ ...request, message });
};

/**
 * What a service config says in other languages; this library reads none. A call that found no server, or a busy one, is
 * tried again until its deadline. That is safe: what changes something has a request id, and usage its own keys.
 */
const triedAgain: Interceptor = (next) => async (request) => {
  for (let attempt = 1, pauseMs = FIRST_PAUSE_MS; ; attempt++, pauseMs *= PAUSE_FACTOR) {
    try {
      return await next(request);
    } catch (error) {
      if (request.stream || !passes(error, request.signal) || attempt === ATTEMPTS_MAX) throw error;
      await pause(pauseMs, undefined, { signal: request.signal }).catch(() => {
        throw error;
      });
    }
  }
};

/** Node tells the end of a connection as a cancellation; it is one only if the caller asked for it. */
function passes(error: unknown, signal: AbortSignal): boolean {
  const { code } = ConnectError.from(error);
  return code === Code.Unavailable || (code === Code.Canceled && !signal.aborted);
}
