package io.tollway.sdk;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.standardwebhooks.Webhook;
import com.standardwebhooks.exceptions.WebhookVerificationException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** An event as delivered. Handle each id once, and drop what has a lower resource version than you have. */
public record WebhookEvent(String id, String type, String resourceId, long resourceVersion, JsonObject data) {
  private static final String ID = "webhook-id";

  /**
   * The event of a request, once its signature held.
   *
   * @param secret the endpoint's
   * @param headers as the server has them, by names in any case
   * @param body the bytes as they came
   * @throws WebhookVerificationException when it is not from the sender, or not from now: answer 401
   */
  public static WebhookEvent verify(String secret, Map<String, List<String>> headers, byte[] body)
      throws WebhookVerificationException {
    Map<String, List<String>> sorted = new TreeMap<>(String.CASE_INSENSITIVE_ORDER);
    sorted.putAll(headers);
    String text = new String(body, StandardCharsets.UTF_8);
    new Webhook(secret).verify(text, sorted);
    JsonObject event = JsonParser.parseString(text).getAsJsonObject();
    return new WebhookEvent(
        sorted.get(ID).get(0),
        event.get("type").getAsString(),
        event.get("resource_id").getAsString(),
        event.get("resource_version").getAsLong(),
        event.getAsJsonObject("data"));
  }
}
