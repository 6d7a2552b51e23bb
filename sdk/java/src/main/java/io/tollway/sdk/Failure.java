package io.tollway.sdk;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.tollway.error.v1.ErrorReason;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What a failed call tells.
 *
 * @param reason unspecified when none came, or one that is newer than this package
 * @param reasonName always what the server sent, such as "CUSTOMER_NOT_FOUND"
 * @param violations the wrong fields of an INVALID_ARGUMENT
 * @param retryAfter how long to wait before trying again, when the server says so
 */
public record Failure(
    Status.Code code,
    String message,
    ErrorReason reason,
    String reasonName,
    Map<String, String> metadata,
    List<BadRequest.FieldViolation> violations,
    Optional<Duration> retryAfter) {

  /** The details of the StatusRuntimeException or StatusException that a call threw. */
  public static Failure of(Throwable thrown) {
    com.google.rpc.Status told = StatusProto.fromThrowable(thrown);
    Status status = Status.fromThrowable(thrown);
    List<Any> details = told == null ? List.of() : told.getDetailsList();
    ErrorInfo info = find(details, ErrorInfo.class).orElse(ErrorInfo.getDefaultInstance());
    BadRequest bad = find(details, BadRequest.class).orElse(BadRequest.getDefaultInstance());
    Optional<Duration> wait =
        find(details, RetryInfo.class)
            .map(RetryInfo::getRetryDelay)
            .map(delay -> Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
    return new Failure(
        status.getCode(),
        status.getDescription() == null ? "" : status.getDescription(),
        reasonOf(info.getReason()),
        info.getReason(),
        info.getMetadataMap(),
        bad.getFieldViolationsList(),
        wait);
  }

  private static ErrorReason reasonOf(String name) {
    try {
      return ErrorReason.valueOf("ERROR_REASON_" + name);
    } catch (IllegalArgumentException unknown) {
      return ErrorReason.ERROR_REASON_UNSPECIFIED;
    }
  }

  private static <T extends com.google.protobuf.Message> Optional<T> find(List<Any> details, Class<T> kind) {
    for (Any detail : details) {
      if (detail.is(kind)) {
        try {
          return Optional.of(detail.unpack(kind));
        } catch (InvalidProtocolBufferException broken) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }
}
