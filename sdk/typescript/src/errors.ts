import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../gen/tollway/error/v1/error_reason_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";

/** What a failed call tells. */
export interface ErrorDetails {
  code: Code;
  message: string;
  /** Unspecified when none came, or one that is newer than this package. */
  reason: ErrorReason;
  /** Always what the server sent, such as "CUSTOMER_NOT_FOUND". */
  reasonName: string;
  metadata: Record<string, string>;
  violations: { field: string; description: string }[];
  /** How long to wait before trying again, when the server says so. */
  retryAfterMs?: number;
}

/** The details of whatever a call threw. */
export function detailsOf(thrown: unknown): ErrorDetails {
  const error = ConnectError.from(thrown);
  const [info] = error.findDetails(ErrorInfoSchema);
  const [bad] = error.findDetails(BadRequestSchema);
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const reasonName = info?.reason ?? "";
  const known = ErrorReason[reasonName as keyof typeof ErrorReason] as ErrorReason | undefined;
  return {
    code: error.code,
    message: error.rawMessage,
    reason: known ?? ErrorReason.UNSPECIFIED,
    reasonName,
    metadata: info?.metadata ?? {},
    violations: (bad?.fieldViolations ?? []).map(({ field, description }) => ({ field, description })),
    retryAfterMs: delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
  };
}
