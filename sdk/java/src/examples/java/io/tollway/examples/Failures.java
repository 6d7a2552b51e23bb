package io.tollway.examples;

import com.google.protobuf.FieldMask;
import io.grpc.ManagedChannel;
import io.tollway.catalog.v1.Aggregation;
import io.tollway.catalog.v1.CatalogServiceGrpc;
import io.tollway.catalog.v1.CreateMeterRequest;
import io.tollway.customer.v1.CreateCustomerRequest;
import io.tollway.customer.v1.CustomerServiceGrpc;
import io.tollway.customer.v1.GetCustomerRequest;
import io.tollway.customer.v1.ListCustomersRequest;
import io.tollway.event.v1.EventServiceGrpc;
import io.tollway.event.v1.WatchEventsRequest;
import io.tollway.invoice.v1.AddInvoiceItemRequest;
import io.tollway.invoice.v1.InvoiceItemServiceGrpc;
import io.tollway.invoice.v1.NewInvoiceItem;
import io.tollway.sdk.Tollway;
import io.tollway.subscription.v1.SubscriptionServiceGrpc;
import io.tollway.subscription.v1.UncancelSubscriptionRequest;
import io.tollway.tenant.v1.CreateApiKeyRequest;
import io.tollway.tenant.v1.Scope;
import io.tollway.tenant.v1.TenantServiceGrpc;
import io.tollway.webhook.v1.RotateEndpointSecretRequest;
import io.tollway.webhook.v1.UpdateEndpointRequest;
import io.tollway.webhook.v1.WebhookServiceGrpc;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** Calls that fail, by the name of the error. */
record Failures(ManagedChannel channel, String endpoint, String subscription, Runnable createMeter) {
  private static final String NOWHERE = "127.0.0.1:1";
  private static final String NOBODY = "twk_nobody";
  private static final String ADDRESS = System.getenv("TOLLWAY_ADDRESS");
  private static final String MANY = "999999999999";

  void fail(String way) {
    switch (way) {
      case "invalid" ->
          CatalogServiceGrpc.newBlockingStub(channel)
              .createMeter(
                  CreateMeterRequest.newBuilder()
                      .setDisplayName("Nameless")
                      .setAggregation(Aggregation.AGGREGATION_SUM)
                      .build());
      case "unauthenticated" -> listCustomers(ADDRESS);
      case "permission" -> writeAsReader();
      case "not_found" ->
          CustomerServiceGrpc.newBlockingStub(channel)
              .getCustomer(GetCustomerRequest.newBuilder().setExternalId("nobody").build());
      case "already_exists" -> createMeter.run();
      case "conflict" ->
          WebhookServiceGrpc.newBlockingStub(channel)
              .updateEndpoint(
                  UpdateEndpointRequest.newBuilder()
                      .setEndpointId(endpoint)
                      .setEtag("another")
                      .setDescription("new")
                      .setUpdateMask(FieldMask.newBuilder().addPaths("description"))
                      .build());
      case "precondition" ->
          SubscriptionServiceGrpc.newBlockingStub(channel)
              .uncancelSubscription(
                  UncancelSubscriptionRequest.newBuilder().setSubscriptionId(subscription).build());
      case "exhausted" -> rotateUntilRefused();
      case "out_of_range" ->
          InvoiceItemServiceGrpc.newBlockingStub(channel)
              .addInvoiceItem(
                  AddInvoiceItemRequest.newBuilder()
                      .setSubscriptionId(subscription)
                      .setItem(
                          NewInvoiceItem.newBuilder()
                              .setDescription("everything")
                              .setQuantity(MANY)
                              .setUnitAmount(MANY))
                      .build());
      case "unavailable" -> listCustomers(NOWHERE);
      case "deadline" ->
          EventServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(500, TimeUnit.MILLISECONDS)
              .watchEvents(WatchEventsRequest.getDefaultInstance())
              .forEachRemaining(ignored -> {});
      default -> throw new IllegalArgumentException("this program does not know how to fail as " + way);
    }
  }

  private static void listCustomers(String address) {
    with(
        address,
        NOBODY,
        other -> CustomerServiceGrpc.newBlockingStub(other).listCustomers(ListCustomersRequest.getDefaultInstance()));
  }

  private void writeAsReader() {
    String secret =
        TenantServiceGrpc.newBlockingStub(channel)
            .createApiKey(
                CreateApiKeyRequest.newBuilder().setDisplayName("reader").addScopes(Scope.SCOPE_READ).build())
            .getSecret();
    CreateCustomerRequest request =
        CreateCustomerRequest.newBuilder().setExternalId("DL").setDisplayName("Delta").build();
    with(ADDRESS, secret, reader -> CustomerServiceGrpc.newBlockingStub(reader).createCustomer(request));
  }

  private static void with(String address, String key, Consumer<ManagedChannel> call) {
    ManagedChannel other = Tollway.at(address, key).connect();
    try {
      call.accept(other);
    } finally {
      other.shutdownNow();
    }
  }

  private void rotateUntilRefused() {
    RotateEndpointSecretRequest request =
        RotateEndpointSecretRequest.newBuilder().setEndpointId(endpoint).build();
    for (int rotation = 0; rotation < 10; rotation++) {
      WebhookServiceGrpc.newBlockingStub(channel).rotateEndpointSecret(request);
    }
  }
}
