package io.tollway.examples;

import com.standardwebhooks.exceptions.WebhookVerificationException;
import com.sun.net.httpserver.HttpServer;
import io.tollway.sdk.WebhookEvent;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;

/** A receiver on a free port; what it got; and the last request as it came, to forge from. */
final class Inbox {
  final List<WebhookEvent> events = new CopyOnWriteArrayList<>();
  volatile String secret = "";
  private final HttpServer server;
  private volatile Map<String, List<String>> lastHeaders = Map.of();
  private volatile byte[] lastBody = {};

  Inbox() throws IOException {
    server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext(
        "/hook",
        exchange -> {
          byte[] body = exchange.getRequestBody().readAllBytes();
          exchange.sendResponseHeaders(take(exchange.getRequestHeaders(), body), -1);
          exchange.close();
        });
    server.start();
  }

  String url() {
    return "http://127.0.0.1:" + server.getAddress().getPort() + "/hook";
  }

  /** The status to answer with. */
  private int take(Map<String, List<String>> headers, byte[] body) {
    try {
      events.add(WebhookEvent.verify(secret, headers, body));
    } catch (WebhookVerificationException forged) {
      return 401;
    }
    lastHeaders = headers;
    lastBody = body;
    return 204;
  }

  /** Whether the last request is refused under another signature. */
  boolean refusesForgery() {
    Map<String, List<String>> headers = new HashMap<>();
    lastHeaders.forEach((name, values) -> headers.put(name.toLowerCase(), values));
    headers.put("webhook-signature", List.of("v1,Zm9yZ2Vk"));
    return take(headers, lastBody) == 401;
  }

  void close() {
    server.stop(0);
  }
}
