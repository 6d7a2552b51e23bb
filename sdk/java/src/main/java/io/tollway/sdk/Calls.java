package io.tollway.sdk;

import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/**
 * Gives every call the key, a deadline and a request id. The request id is made once per call, above grpc's own retries, so
 * every try of a call has the same.
 */
final class Calls implements ClientInterceptor {
  private static final String REQUEST_ID = "request_id";
  private static final Metadata.Key<String> AUTHORIZATION = header("authorization");
  private static final Metadata.Key<String> TENANT = header("tollway-tenant");

  private final String key;
  private final String tenant;
  private final Duration timeout;

  Calls(String key, String tenant, Duration timeout) {
    this.key = key;
    this.tenant = tenant;
    this.timeout = timeout;
  }

  private static Metadata.Key<String> header(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  @Override
  public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions given, Channel next) {
    boolean timed = method.getType() == MethodDescriptor.MethodType.UNARY && given.getDeadline() == null;
    CallOptions options = timed ? given.withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS) : given;
    return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
      @Override
      public void start(Listener<A> listener, Metadata headers) {
        headers.put(AUTHORIZATION, "Bearer " + key);
        if (!tenant.isEmpty()) {
          headers.put(TENANT, tenant);
        }
        super.start(listener, headers);
      }

      @Override
      public void sendMessage(Q message) {
        super.sendMessage(withRequestId(message));
      }
    };
  }

  /** The request with an id of its own, where its message has one and the caller gave none. */
  @SuppressWarnings("unchecked") // a message builds its own type
  private static <Q> Q withRequestId(Q request) {
    if (!(request instanceof Message message)) {
      return request;
    }
    FieldDescriptor field = message.getDescriptorForType().findFieldByName(REQUEST_ID);
    if (field == null || !"".equals(message.getField(field))) {
      return request;
    }
    return (Q) message.toBuilder().setField(field, UUID.randomUUID().toString()).build();
  }
}
