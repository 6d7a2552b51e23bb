package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	tollway "github.com/tollway/tollway/sdk/go"
	catalogv1 "github.com/tollway/tollway/sdk/go/gen/tollway/catalog/v1"
	customerv1 "github.com/tollway/tollway/sdk/go/gen/tollway/customer/v1"
	eventv1 "github.com/tollway/tollway/sdk/go/gen/tollway/event/v1"
	invoicev1 "github.com/tollway/tollway/sdk/go/gen/tollway/invoice/v1"
	subscriptionv1 "github.com/tollway/tollway/sdk/go/gen/tollway/subscription/v1"
	tenantv1 "github.com/tollway/tollway/sdk/go/gen/tollway/tenant/v1"
	webhookv1 "github.com/tollway/tollway/sdk/go/gen/tollway/webhook/v1"
)

const (
	nowhere = "127.0.0.1:1"
	nobody  = "twk_nobody"
)

// fail makes the call that fails in this way.
func (s *scenario) fail(ctx context.Context, way string) error {
	address := os.Getenv("TOLLWAY_ADDRESS")
	switch way {
	case "invalid":
		_, err := s.client.Catalog.CreateMeter(ctx, &catalogv1.CreateMeterRequest{
			DisplayName: "Nameless", Aggregation: catalogv1.Aggregation_AGGREGATION_SUM,
		})
		return err
	case "unauthenticated":
		return listCustomers(ctx, address, nobody)
	case "permission":
		return s.writeAsReader(ctx, address)
	case "not_found":
		_, err := s.client.Customers.GetCustomer(ctx, &customerv1.GetCustomerRequest{
			Name: &customerv1.GetCustomerRequest_ExternalId{ExternalId: "nobody"},
		})
		return err
	case "already_exists":
		return s.createMeter(ctx)
	case "conflict":
		_, err := s.client.Webhooks.UpdateEndpoint(ctx, &webhookv1.UpdateEndpointRequest{
			EndpointId: s.endpoint, Etag: "another", Description: "new",
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}},
		})
		return err
	case "precondition":
		_, err := s.client.Subscriptions.UncancelSubscription(ctx,
			&subscriptionv1.UncancelSubscriptionRequest{SubscriptionId: s.subscription.Id})
		return err
	case "exhausted":
		return s.rotateUntilRefused(ctx)
	case "out_of_range":
		return s.addItem(ctx, "999999999999")
	case "unavailable":
		return listCustomers(ctx, nowhere, nobody)
	case "deadline":
		return s.watchBriefly(ctx, 500*time.Millisecond)
	}
	return fmt.Errorf("this program does not know how to fail as %q", way)
}

func listCustomers(ctx context.Context, address, key string) error {
	other, err := tollway.Dial(address, key)
	if err != nil {
		return err
	}
	defer other.Close()
	_, err = other.Customers.ListCustomers(ctx, &customerv1.ListCustomersRequest{})
	return err
}

func (s *scenario) writeAsReader(ctx context.Context, address string) error {
	made, err := s.client.Tenants.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{
		DisplayName: "reader", Scopes: []tenantv1.Scope{tenantv1.Scope_SCOPE_READ},
	})
	if err != nil {
		return err
	}
	reader, err := tollway.Dial(address, made.Secret)
	if err != nil {
		return err
	}
	defer reader.Close()
	_, err = reader.Customers.CreateCustomer(ctx, &customerv1.CreateCustomerRequest{
		ExternalId: "DL", DisplayName: "Delta",
	})
	return err
}

func (s *scenario) watchBriefly(ctx context.Context, long time.Duration) error {
	short, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	stream, err := s.client.Events.WatchEvents(short, &eventv1.WatchEventsRequest{})
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

func (s *scenario) rotateUntilRefused(ctx context.Context) error {
	for range 10 {
		_, err := s.client.Webhooks.RotateEndpointSecret(ctx, &webhookv1.RotateEndpointSecretRequest{
			EndpointId: s.endpoint,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scenario) addItem(ctx context.Context, many string) error {
	_, err := s.client.InvoiceItems.AddInvoiceItem(ctx, &invoicev1.AddInvoiceItemRequest{
		Owner: &invoicev1.AddInvoiceItemRequest_SubscriptionId{SubscriptionId: s.subscription.Id},
		Item:  &invoicev1.NewInvoiceItem{Description: "everything", Quantity: many, UnitAmount: many},
	})
	return err
}
