// Package tollway is the client of Tollway: one connection, and a generated client for each service.
//
//	client, err := tollway.Dial("billing.example.com:443", key, tollway.WithTLS(credentials.NewTLS(nil)))
//	answer, err := client.Customers.GetCustomer(ctx, &customerv1.GetCustomerRequest{...})
package tollway

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	catalogv1 "github.com/tollway/tollway/sdk/go/gen/tollway/catalog/v1"
	customerv1 "github.com/tollway/tollway/sdk/go/gen/tollway/customer/v1"
	eventv1 "github.com/tollway/tollway/sdk/go/gen/tollway/event/v1"
	invoicev1 "github.com/tollway/tollway/sdk/go/gen/tollway/invoice/v1"
	operationsv1 "github.com/tollway/tollway/sdk/go/gen/tollway/operations/v1"
	ratingv1 "github.com/tollway/tollway/sdk/go/gen/tollway/rating/v1"
	replayv1 "github.com/tollway/tollway/sdk/go/gen/tollway/replay/v1"
	schedulerv1 "github.com/tollway/tollway/sdk/go/gen/tollway/scheduler/v1"
	subscriptionv1 "github.com/tollway/tollway/sdk/go/gen/tollway/subscription/v1"
	tenantv1 "github.com/tollway/tollway/sdk/go/gen/tollway/tenant/v1"
	usagev1 "github.com/tollway/tollway/sdk/go/gen/tollway/usage/v1"
	webhookv1 "github.com/tollway/tollway/sdk/go/gen/tollway/webhook/v1"
)

const (
	defaultTimeout = 30 * time.Second
	// An invoice of ten thousand lines as a page; the library's own limit is 4 MiB.
	answerBytesMax = 32 << 20
	// A call that did not reach a server, or met a busy one, is tried again. That is safe for every call: those that
	// change something carry a request id, and usage records their own keys.
	serviceConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "5s", "backoffMultiplier": 3,
		"retryableStatusCodes": ["UNAVAILABLE"]}}]}`
)

// Client is a connection to Tollway. It is safe for use by many goroutines.
type Client struct {
	Connection *grpc.ClientConn

	Backfills         usagev1.BackfillServiceClient
	Catalog           catalogv1.CatalogServiceClient
	CreditNotes       invoicev1.CreditNoteServiceClient
	Credits           invoicev1.CreditServiceClient
	Customers         customerv1.CustomerServiceClient
	Discounts         invoicev1.DiscountServiceClient
	Documents         invoicev1.DocumentServiceClient
	Events            eventv1.EventServiceClient
	InvoiceItems      invoicev1.InvoiceItemServiceClient
	Invoices          invoicev1.InvoiceServiceClient
	Operations        operationsv1.OperationsServiceClient
	Payments          invoicev1.PaymentServiceClient
	Rating            ratingv1.RatingServiceClient
	Replays           replayv1.ReplayServiceClient
	Scheduler         schedulerv1.SchedulerServiceClient
	Subscriptions     subscriptionv1.SubscriptionServiceClient
	Tenants           tenantv1.TenantServiceClient
	Thresholds        usagev1.ThresholdServiceClient
	Usage             usagev1.UsageServiceClient
	WebhookDeliveries webhookv1.WebhookDeliveryServiceClient
	WebhookRecoveries webhookv1.WebhookRecoveryServiceClient
	Webhooks          webhookv1.WebhookServiceClient
}

type options struct {
	transport credentials.TransportCredentials
	tenant    string
	timeout   time.Duration
	dial      []grpc.DialOption
}

// Option changes how Dial connects.
type Option func(*options)

// WithTLS turns TLS on. Without it the line is plain, which a server accepts on its own machine only.
func WithTLS(transport credentials.TransportCredentials) Option {
	return func(o *options) { o.transport = transport }
}

// WithTenant names the tenant to act for, with an operator's key.
func WithTenant(tenant string) Option { return func(o *options) { o.tenant = tenant } }

// WithTimeout sets the deadline of calls whose context has none, 30 seconds by default. Streams have none.
func WithTimeout(timeout time.Duration) Option { return func(o *options) { o.timeout = timeout } }

// WithDialOptions adds options of grpc's own.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, dial...) }
}

// Dial makes a client that connects with its first call.
func Dial(address, key string, given ...Option) (*Client, error) {
	o := options{transport: insecure.NewCredentials(), timeout: defaultTimeout}
	for _, option := range given {
		option(&o)
	}
	calls := caller{key: key, tenant: o.tenant, timeout: o.timeout}
	connection, err := grpc.NewClient(address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(o.transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytesMax)),
		grpc.WithChainUnaryInterceptor(calls.unary),
		grpc.WithChainStreamInterceptor(calls.stream),
	}, o.dial...)...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Connection:        connection,
		Backfills:         usagev1.NewBackfillServiceClient(connection),
		Catalog:           catalogv1.NewCatalogServiceClient(connection),
		CreditNotes:       invoicev1.NewCreditNoteServiceClient(connection),
		Credits:           invoicev1.NewCreditServiceClient(connection),
		Customers:         customerv1.NewCustomerServiceClient(connection),
		Discounts:         invoicev1.NewDiscountServiceClient(connection),
		Documents:         invoicev1.NewDocumentServiceClient(connection),
		Events:            eventv1.NewEventServiceClient(connection),
		InvoiceItems:      invoicev1.NewInvoiceItemServiceClient(connection),
		Invoices:          invoicev1.NewInvoiceServiceClient(connection),
		Operations:        operationsv1.NewOperationsServiceClient(connection),
		Payments:          invoicev1.NewPaymentServiceClient(connection),
		Rating:            ratingv1.NewRatingServiceClient(connection),
		Replays:           replayv1.NewReplayServiceClient(connection),
		Scheduler:         schedulerv1.NewSchedulerServiceClient(connection),
		Subscriptions:     subscriptionv1.NewSubscriptionServiceClient(connection),
		Tenants:           tenantv1.NewTenantServiceClient(connection),
		Thresholds:        usagev1.NewThresholdServiceClient(connection),
		Usage:             usagev1.NewUsageServiceClient(connection),
		WebhookDeliveries: webhookv1.NewWebhookDeliveryServiceClient(connection),
		WebhookRecoveries: webhookv1.NewWebhookRecoveryServiceClient(connection),
		Webhooks:          webhookv1.NewWebhookServiceClient(connection),
	}, nil
}

// Close ends the connection, and every call on it.
func (c *Client) Close() error { return c.Connection.Close() }
