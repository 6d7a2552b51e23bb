package io.tollway.sdk;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/**
 * The client of Tollway: a channel for the generated stubs, whose calls carry the key, a deadline and a request id, and are
 * tried again when no server was reached.
 *
 * <pre>{@code
 * ManagedChannel channel = Tollway.at("127.0.0.1:7070", key).connect();
 * CustomerServiceGrpc.newBlockingStub(channel).getCustomer(request);
 * }</pre>
 */
public final class Tollway {
  private static final Duration TIMEOUT = Duration.ofSeconds(30);
  // An invoice of ten thousand lines as a page; the library's own limit is 4 MiB.
  private static final int ANSWER_BYTES_MAX = 32 * 1024 * 1024;
  // A call that did not reach a server, or met a busy one, is tried again. That is safe for every call: those that change
  // something carry a request id, and usage records their own keys.
  private static final Map<String, ?> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  List.of(Map.of()),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 5.0,
                      "initialBackoff", "0.1s",
                      "maxBackoff", "5s",
                      "backoffMultiplier", 3.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE")))));

  private final String address;
  private final String key;
  private String tenant = "";
  private Duration timeout = TIMEOUT;
  private ChannelCredentials credentials = InsecureChannelCredentials.create();

  private Tollway(String address, String key) {
    this.address = address;
    this.key = key;
  }

  /** Where the server is, and the key to call it with. */
  public static Tollway at(String address, String key) {
    return new Tollway(address, key);
  }

  /** Turns TLS on. Without it the line is plain, which a server accepts on its own machine only. */
  public Tollway with(ChannelCredentials tls) {
    this.credentials = tls;
    return this;
  }

  /** With an operator's key: the tenant to act for. */
  public Tollway actingFor(String tenantId) {
    this.tenant = tenantId;
    return this;
  }

  /** The deadline of calls that give none, 30 seconds by default. Streams have none. */
  public Tollway within(Duration longest) {
    this.timeout = longest;
    return this;
  }

  /** The channel, which connects with its first call. Shut it down at the end. */
  public ManagedChannel connect() {
    return Grpc.newChannelBuilder(address, credentials)
        .defaultServiceConfig(SERVICE_CONFIG)
        .maxInboundMessageSize(ANSWER_BYTES_MAX)
        .intercept(new Calls(key, tenant, timeout))
        .build();
  }
}
