package io.tollway.examples;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Timestamp;
import io.grpc.ManagedChannel;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.BlockingClientCall;
import io.tollway.catalog.v1.Aggregation;
import io.tollway.catalog.v1.CatalogServiceGrpc;
import io.tollway.catalog.v1.CreateMeterRequest;
import io.tollway.catalog.v1.CreatePlanRequest;
import io.tollway.catalog.v1.CreatePriceRequest;
import io.tollway.catalog.v1.Interval;
import io.tollway.catalog.v1.PerUnitPrice;
import io.tollway.customer.v1.CreateCustomerRequest;
import io.tollway.customer.v1.CustomerServiceGrpc;
import io.tollway.event.v1.EventServiceGrpc;
import io.tollway.event.v1.GetTrailRequest;
import io.tollway.event.v1.TrailNode;
import io.tollway.invoice.v1.InvoiceServiceGrpc;
import io.tollway.invoice.v1.PreviewInvoiceRequest;
import io.tollway.invoice.v1.PreviewMoment;
import io.tollway.sdk.Failure;
import io.tollway.sdk.Pages;
import io.tollway.sdk.Tollway;
import io.tollway.sdk.WebhookEvent;
import io.tollway.subscription.v1.CreateSubscriptionRequest;
import io.tollway.subscription.v1.CreateSubscriptionResponse;
import io.tollway.subscription.v1.Subscription;
import io.tollway.subscription.v1.SubscriptionServiceGrpc;
import io.tollway.type.v1.Money;
import io.tollway.usage.v1.ListUsageRequest;
import io.tollway.usage.v1.ListUsageResponse;
import io.tollway.usage.v1.StreamUsageRequest;
import io.tollway.usage.v1.StreamUsageResponse;
import io.tollway.usage.v1.UsageRecord;
import io.tollway.usage.v1.UsageServiceGrpc;
import io.tollway.webhook.v1.CreateEndpointRequest;
import io.tollway.webhook.v1.CreateEndpointResponse;
import io.tollway.webhook.v1.WebhookServiceGrpc;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Supplier;

/**
 * The scenario of sdk/scenario.json in Java: its argument is the path of the scenario.
 *
 * <p>TOLLWAY_ADDRESS says where the server is, TOLLWAY_LOSSY_ADDRESS where a line to it breaks once, and TOLLWAY_API_KEY is
 * an admin key of a new tenant.
 */
final class Scenario {
  private static final long WAIT_MS = 60_000;
  private static final long POLL_MS = 100;

  private final JsonObject table;
  private final JsonObject given;
  private final ManagedChannel channel;
  private final Inbox inbox;
  private final String customer;
  private String endpoint = "";
  private Subscription subscription = Subscription.getDefaultInstance();

  private Scenario(JsonObject table, ManagedChannel channel, Inbox inbox) {
    this.table = table;
    this.given = table.getAsJsonObject("given");
    this.channel = channel;
    this.inbox = inbox;
    this.customer = text(given.getAsJsonObject("customer"), "external_id");
  }

  private static String text(JsonObject object, String name) {
    return object.get(name).getAsString();
  }

  private static void tell(String step, Map<String, Object> told) {
    System.out.println(new Gson().toJson(Map.of("step", step, "told", told)));
  }

  private JsonObject told(String step) {
    for (JsonElement row : table.getAsJsonArray("steps")) {
      if (text(row.getAsJsonObject(), "step").equals(step)) {
        return row.getAsJsonObject().getAsJsonObject("told");
      }
    }
    throw new IllegalArgumentException(step);
  }

  /** What is found in the end. */
  private static <T> T until(Supplier<Optional<T>> found) throws InterruptedException {
    for (long end = System.currentTimeMillis() + WAIT_MS; System.currentTimeMillis() < end; Thread.sleep(POLL_MS)) {
      Optional<T> result = found.get();
      if (result.isPresent()) {
        return result.get();
      }
    }
    throw new IllegalStateException("nothing came within " + WAIT_MS + " ms");
  }

  private void createMeter() {
    JsonObject meter = given.getAsJsonObject("meter");
    CatalogServiceGrpc.newBlockingStub(channel)
        .createMeter(
            CreateMeterRequest.newBuilder()
                .setKey(text(meter, "key"))
                .setDisplayName(text(meter, "display_name"))
                .setAggregation(Aggregation.AGGREGATION_SUM)
                .build());
  }

  private static CreateCustomerRequest newCustomer(JsonObject row) {
    return CreateCustomerRequest.newBuilder()
        .setExternalId(text(row, "external_id"))
        .setDisplayName(text(row, "display_name"))
        .build();
  }

  private void subscribe() {
    CreateEndpointRequest.Builder wanted = CreateEndpointRequest.newBuilder().setUrl(inbox.url());
    given.getAsJsonArray("webhook_subjects").forEach(subject -> wanted.addSubjects(subject.getAsString()));
    CreateEndpointResponse made = WebhookServiceGrpc.newBlockingStub(channel).createEndpoint(wanted.build());
    endpoint = made.getEndpoint().getId();
    inbox.secret = made.getSecret();
    createMeter();
    JsonObject plan = given.getAsJsonObject("plan");
    JsonObject meter = given.getAsJsonObject("meter");
    CatalogServiceGrpc.CatalogServiceBlockingStub catalog = CatalogServiceGrpc.newBlockingStub(channel);
    catalog.createPlan(
        CreatePlanRequest.newBuilder()
            .setKey(text(plan, "key"))
            .setDisplayName(text(plan, "display_name"))
            .setCurrencyCode(text(plan, "currency_code"))
            .setInterval(Interval.INTERVAL_MONTH)
            .build());
    catalog.createPrice(
        CreatePriceRequest.newBuilder()
            .setPlanKey(text(plan, "key"))
            .setMeterKey(text(meter, "key"))
            .setDisplayName(text(meter, "display_name"))
            .setPerUnit(PerUnitPrice.newBuilder().setUnitAmount(text(plan, "unit_amount")))
            .build());
    CustomerServiceGrpc.newBlockingStub(channel).createCustomer(newCustomer(given.getAsJsonObject("customer")));
    CreateSubscriptionRequest request =
        CreateSubscriptionRequest.newBuilder()
            .setRequestId("the scenario's subscription")
            .setExternalCustomerId(customer)
            .setPlanKey(text(plan, "key"))
            .build();
    SubscriptionServiceGrpc.SubscriptionServiceBlockingStub subscriptions =
        SubscriptionServiceGrpc.newBlockingStub(channel);
    CreateSubscriptionResponse first = subscriptions.createSubscription(request);
    CreateSubscriptionResponse again = subscriptions.createSubscription(request);
    subscription = first.getSubscription();
    tell(
        "subscribe",
        Map.of(
            "customer", customer,
            "items", subscription.getItemsCount(),
            "repeat_is_the_same", first.equals(again)));
  }

  /** One customer, though the first answer is lost. */
  private void loseAnAnswer() {
    ManagedChannel lossy =
        Tollway.at(System.getenv("TOLLWAY_LOSSY_ADDRESS"), System.getenv("TOLLWAY_API_KEY")).connect();
    CreateCustomerRequest request = newCustomer(given.getAsJsonObject("late_customer"));
    String made = CustomerServiceGrpc.newBlockingStub(lossy).createCustomer(request).getCustomer().getExternalId();
    lossy.shutdown();
    tell("lost_answer", Map.of("customer", made));
  }

  /** Every record twice; each counts once. */
  private void streamUsage() throws InterruptedException, StatusException {
    int accepted = stream()[0];
    int duplicate = stream()[1];
    tell("stream_usage", Map.of("accepted", accepted, "duplicate", duplicate));
  }

  /** How many were accepted, and how many duplicates. */
  private int[] stream() throws InterruptedException, StatusException {
    BlockingClientCall<StreamUsageRequest, StreamUsageResponse> stream =
        UsageServiceGrpc.newBlockingV2Stub(channel).streamUsage();
    for (StreamUsageRequest batch : batches()) {
      stream.write(batch);
    }
    stream.halfClose();
    int[] counts = {0, 0};
    for (StreamUsageResponse answer = stream.read(); answer != null; answer = stream.read()) {
      counts[0] += answer.getAccepted();
      counts[1] += answer.getDuplicate();
    }
    return counts;
  }

  private List<StreamUsageRequest> batches() {
    JsonObject usage = given.getAsJsonObject("usage");
    int records = usage.get("records").getAsInt();
    int batch = usage.get("batch").getAsInt();
    // The subscription covers its own start.
    Timestamp start = subscription.getStartTime();
    List<StreamUsageRequest> batches = new ArrayList<>();
    for (int first = 0; first < records; first += batch) {
      StreamUsageRequest.Builder request = StreamUsageRequest.newBuilder();
      for (int number = first; number < Math.min(first + batch, records); number++) {
        request.addRecords(
            UsageRecord.newBuilder()
                .setIdempotencyKey("record-" + number)
                .setMeterKey(text(given.getAsJsonObject("meter"), "key"))
                .setExternalCustomerId(customer)
                .setTimestamp(start)
                .setQuantity(text(usage, "quantity")));
      }
      batches.add(request.build());
    }
    return batches;
  }

  private void walkPages() {
    UsageServiceGrpc.UsageServiceBlockingStub usage = UsageServiceGrpc.newBlockingStub(channel);
    ListUsageRequest.Builder request =
        ListUsageRequest.newBuilder().setExternalCustomerId(customer).setPageSize(given.get("page_size").getAsInt());
    int pages = 0;
    int records = 0;
    for (ListUsageResponse page :
        Pages.of(
            token -> usage.listUsage(request.setPageToken(token).build()), ListUsageResponse::getNextPageToken)) {
      pages++;
      records += page.getRecordsCount();
    }
    tell("pages", Map.of("pages", pages, "records", records));
  }

  private void preview() throws InterruptedException {
    long minorUnits = told("preview").get("minor_units").getAsLong();
    PreviewInvoiceRequest request =
        PreviewInvoiceRequest.newBuilder()
            .setSubscriptionId(subscription.getId())
            .setMoment(PreviewMoment.PREVIEW_MOMENT_NOW)
            .build();
    Money total =
        until(
            () ->
                Optional.of(InvoiceServiceGrpc.newBlockingStub(channel).previewInvoice(request).getInvoice().getTotal())
                    .filter(amount -> amount.getMinorUnits() >= minorUnits));
    tell("preview", Map.of("currency", total.getCurrencyCode(), "minor_units", total.getMinorUnits()));
  }

  private WebhookEvent webhook() throws InterruptedException {
    WebhookEvent created =
        until(() -> inbox.events.stream().filter(event -> event.type().equals("subscription.created")).findFirst());
    tell("webhook", Map.of("forged", inbox.refusesForgery() ? "refused" : "taken", "subject", created.type()));
    return created;
  }

  /** From the event that made the subscription active back to the root. */
  private void trail(WebhookEvent created) throws InterruptedException {
    String subject = told("trail").getAsJsonArray("path").get(0).getAsString();
    GetTrailRequest request =
        GetTrailRequest.newBuilder()
            .setEventId(created.id())
            .setLinkDepth(given.get("trail_depth").getAsInt())
            .build();
    List<String> path =
        until(
            () -> {
              List<TrailNode> nodes = EventServiceGrpc.newBlockingStub(channel).getTrail(request).getNodesList();
              return nodes.stream()
                  .filter(node -> node.getEvent().getSubject().equals(subject))
                  .findFirst()
                  .map(node -> walk(nodes, node));
            });
    tell("trail", Map.of("path", path));
  }

  private static List<String> walk(List<TrailNode> nodes, TrailNode from) {
    List<String> path = new ArrayList<>(List.of(from.getEvent().getSubject()));
    for (int at = from.getParent(); at >= 0; at = nodes.get(at).getParent()) {
      path.add(nodes.get(at).getEvent().getSubject());
    }
    return path;
  }

  /** One error of each kind. */
  private void meetErrors() throws Exception {
    Failures failures = new Failures(channel, endpoint, subscription.getId(), this::createMeter);
    for (JsonElement row : table.getAsJsonArray("errors")) {
      String way = text(row.getAsJsonObject(), "error");
      try {
        failures.fail(way);
      } catch (StatusRuntimeException thrown) {
        Failure failure = Failure.of(thrown);
        Map<String, Object> told = new LinkedHashMap<>();
        told.put("code", failure.code().name());
        told.put("reason", failure.reasonName());
        failure.violations().stream().findFirst().ifPresent(wrong -> told.put("field", wrong.getField()));
        tell(way, told);
      }
    }
  }

  public static void main(String[] arguments) throws Exception {
    JsonObject table = JsonParser.parseString(Files.readString(Path.of(arguments[0]))).getAsJsonObject();
    ManagedChannel channel =
        Tollway.at(System.getenv("TOLLWAY_ADDRESS"), System.getenv("TOLLWAY_API_KEY")).connect();
    Inbox inbox = new Inbox();
    try {
      Scenario scenario = new Scenario(table, channel, inbox);
      scenario.subscribe();
      scenario.loseAnAnswer();
      scenario.streamUsage();
      scenario.walkPages();
      scenario.preview();
      scenario.trail(scenario.webhook());
      scenario.meetErrors();
    } finally {
      inbox.close();
      channel.shutdown();
    }
  }
}
