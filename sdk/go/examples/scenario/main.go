// The scenario of sdk/scenario.json in Go: `scenario <path of the scenario>`.
//
// TOLLWAY_ADDRESS says where the server is, TOLLWAY_LOSSY_ADDRESS where a line to it breaks once, and TOLLWAY_API_KEY is an
// admin key of a new tenant.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	tollway "github.com/tollway/tollway/sdk/go"
	catalogv1 "github.com/tollway/tollway/sdk/go/gen/tollway/catalog/v1"
	customerv1 "github.com/tollway/tollway/sdk/go/gen/tollway/customer/v1"
	eventv1 "github.com/tollway/tollway/sdk/go/gen/tollway/event/v1"
	invoicev1 "github.com/tollway/tollway/sdk/go/gen/tollway/invoice/v1"
	subscriptionv1 "github.com/tollway/tollway/sdk/go/gen/tollway/subscription/v1"
	usagev1 "github.com/tollway/tollway/sdk/go/gen/tollway/usage/v1"
	webhookv1 "github.com/tollway/tollway/sdk/go/gen/tollway/webhook/v1"
)

const (
	wait = time.Minute
	poll = 100 * time.Millisecond
)

type newCustomer struct {
	ExternalID  string `json:"external_id"`
	DisplayName string `json:"display_name"`
}

func (c newCustomer) request() *customerv1.CreateCustomerRequest {
	return &customerv1.CreateCustomerRequest{ExternalId: c.ExternalID, DisplayName: c.DisplayName}
}

type table struct {
	Given struct {
		Meter struct {
			Key         string `json:"key"`
			DisplayName string `json:"display_name"`
		} `json:"meter"`
		Plan struct {
			Key          string `json:"key"`
			DisplayName  string `json:"display_name"`
			CurrencyCode string `json:"currency_code"`
			UnitAmount   string `json:"unit_amount"`
		} `json:"plan"`
		Customer        newCustomer `json:"customer"`
		LateCustomer    newCustomer `json:"late_customer"`
		WebhookSubjects []string    `json:"webhook_subjects"`
		Usage           struct {
			Records  int    `json:"records"`
			Batch    int    `json:"batch"`
			Quantity string `json:"quantity"`
		} `json:"usage"`
		PageSize   int32 `json:"page_size"`
		TrailDepth int32 `json:"trail_depth"`
	} `json:"given"`
	Steps []struct {
		Step string `json:"step"`
		Told struct {
			MinorUnits int64    `json:"minor_units"`
			Path       []string `json:"path"`
		} `json:"told"`
	} `json:"steps"`
	Errors []struct {
		Error string `json:"error"`
	} `json:"errors"`
}

type told map[string]any

func tell(step string, what told) {
	if err := json.NewEncoder(os.Stdout).Encode(told{"step": step, "told": what}); err != nil {
		log.Fatal(err)
	}
}

type scenario struct {
	client       *tollway.Client
	table        table
	inbox        *inbox
	endpoint     string
	subscription *subscriptionv1.Subscription
}

func (s *scenario) customer() string { return s.table.Given.Customer.ExternalID }

func (s *scenario) createMeter(ctx context.Context) error {
	_, err := s.client.Catalog.CreateMeter(ctx, &catalogv1.CreateMeterRequest{
		Key:         s.table.Given.Meter.Key,
		DisplayName: s.table.Given.Meter.DisplayName,
		Aggregation: catalogv1.Aggregation_AGGREGATION_SUM,
	})
	return err
}

// subscribe makes what a subscription needs, and subscribes.
func (s *scenario) subscribe(ctx context.Context) error {
	given := s.table.Given
	made, err := s.client.Webhooks.CreateEndpoint(ctx, &webhookv1.CreateEndpointRequest{
		Url: s.inbox.url, Subjects: given.WebhookSubjects,
	})
	if err != nil {
		return err
	}
	s.endpoint = made.Endpoint.Id
	s.inbox.trust(made.Secret)
	if err := s.createMeter(ctx); err != nil {
		return err
	}
	if _, err := s.client.Catalog.CreatePlan(ctx, &catalogv1.CreatePlanRequest{
		Key:          given.Plan.Key,
		DisplayName:  given.Plan.DisplayName,
		CurrencyCode: given.Plan.CurrencyCode,
		Interval:     catalogv1.Interval_INTERVAL_MONTH,
	}); err != nil {
		return err
	}
	if _, err := s.client.Catalog.CreatePrice(ctx, &catalogv1.CreatePriceRequest{
		Plan:        &catalogv1.CreatePriceRequest_PlanKey{PlanKey: given.Plan.Key},
		MeterKey:    given.Meter.Key,
		DisplayName: given.Meter.DisplayName,
		Model: &catalogv1.CreatePriceRequest_PerUnit{
			PerUnit: &catalogv1.PerUnitPrice{UnitAmount: given.Plan.UnitAmount},
		},
	}); err != nil {
		return err
	}
	if _, err := s.client.Customers.CreateCustomer(ctx, given.Customer.request()); err != nil {
		return err
	}
	request := &subscriptionv1.CreateSubscriptionRequest{
		RequestId: "the scenario's subscription",
		Customer:  &subscriptionv1.CreateSubscriptionRequest_ExternalCustomerId{ExternalCustomerId: s.customer()},
		Plan:      &subscriptionv1.CreateSubscriptionRequest_PlanKey{PlanKey: given.Plan.Key},
	}
	first, err := s.client.Subscriptions.CreateSubscription(ctx, request)
	if err != nil {
		return err
	}
	again, err := s.client.Subscriptions.CreateSubscription(ctx, request)
	if err != nil {
		return err
	}
	s.subscription = first.Subscription
	tell("subscribe", told{
		"customer":           s.customer(),
		"items":              len(first.Subscription.Items),
		"repeat_is_the_same": proto.Equal(first, again),
	})
	return nil
}

// lostAnswer makes one customer, though the first answer is lost.
func (s *scenario) lostAnswer(ctx context.Context) error {
	lossy, err := tollway.Dial(os.Getenv("TOLLWAY_LOSSY_ADDRESS"), os.Getenv("TOLLWAY_API_KEY"))
	if err != nil {
		return err
	}
	defer lossy.Close()
	made, err := lossy.Customers.CreateCustomer(ctx, s.table.Given.LateCustomer.request())
	if err != nil {
		return err
	}
	tell("lost_answer", told{"customer": made.Customer.ExternalId})
	return nil
}

// streamUsage sends every record twice; each counts once.
func (s *scenario) streamUsage(ctx context.Context) error {
	accepted, _, err := s.stream(ctx)
	if err != nil {
		return err
	}
	_, duplicate, err := s.stream(ctx)
	if err != nil {
		return err
	}
	tell("stream_usage", told{"accepted": accepted, "duplicate": duplicate})
	return nil
}

func (s *scenario) stream(ctx context.Context) (accepted, duplicate int32, err error) {
	stream, err := s.client.Usage.StreamUsage(ctx)
	if err != nil {
		return 0, 0, err
	}
	usage := s.table.Given.Usage
	for start := 0; start < usage.Records; start += usage.Batch {
		batch := &usagev1.StreamUsageRequest{}
		for number := start; number < min(start+usage.Batch, usage.Records); number++ {
			batch.Records = append(batch.Records, &usagev1.UsageRecord{
				IdempotencyKey: "record-" + strconv.Itoa(number),
				MeterKey:       s.table.Given.Meter.Key,
				Customer:       &usagev1.UsageRecord_ExternalCustomerId{ExternalCustomerId: s.customer()},
				// The subscription covers its own start.
				Timestamp: s.subscription.StartTime,
				Quantity:  usage.Quantity,
			})
		}
		if err := stream.Send(batch); err != nil {
			return 0, 0, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return 0, 0, err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return accepted, duplicate, nil
		}
		if err != nil {
			return 0, 0, err
		}
		accepted, duplicate = accepted+answer.Accepted, duplicate+answer.Duplicate
	}
}

// pages walks all usage.
func (s *scenario) pages(ctx context.Context) error {
	pages, records := 0, 0
	request := &usagev1.ListUsageRequest{
		Customer: &usagev1.ListUsageRequest_ExternalCustomerId{ExternalCustomerId: s.customer()},
		PageSize: s.table.Given.PageSize,
	}
	for page, err := range tollway.Pages(ctx, s.client.Usage.ListUsage, request) {
		if err != nil {
			return err
		}
		pages, records = pages+1, records+len(page.Records)
	}
	tell("pages", told{"pages": pages, "records": records})
	return nil
}

// until asks until something is found, or the context ends.
func until(ctx context.Context, found func() (bool, error)) error {
	for {
		if ok, err := found(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// preview is the amount so far, once all records count.
func (s *scenario) preview(ctx context.Context, minorUnits int64) error {
	request := &invoicev1.PreviewInvoiceRequest{
		What:   &invoicev1.PreviewInvoiceRequest_SubscriptionId{SubscriptionId: s.subscription.Id},
		Moment: invoicev1.PreviewMoment_PREVIEW_MOMENT_NOW,
	}
	return until(ctx, func() (bool, error) {
		answer, err := s.client.Invoices.PreviewInvoice(ctx, request)
		if err != nil || answer.Invoice.Total.MinorUnits < minorUnits {
			return false, err
		}
		total := answer.Invoice.Total
		tell("preview", told{"currency": total.CurrencyCode, "minor_units": total.MinorUnits})
		return true, nil
	})
}

// webhook waits for what was delivered, and forges it.
func (s *scenario) webhook(ctx context.Context) (created *tollway.WebhookEvent, err error) {
	err = until(ctx, func() (bool, error) {
		created = s.inbox.first("subscription.created")
		return created != nil, nil
	})
	if err != nil {
		return nil, err
	}
	forged := "taken"
	if s.inbox.forge() {
		forged = "refused"
	}
	tell("webhook", told{"forged": forged, "subject": created.Type})
	return created, nil
}

// trail walks from the event that made the subscription active back to the root.
func (s *scenario) trail(ctx context.Context, created *tollway.WebhookEvent, subject string) error {
	request := &eventv1.GetTrailRequest{
		Start: &eventv1.GetTrailRequest_EventId{EventId: created.ID}, LinkDepth: s.table.Given.TrailDepth,
	}
	return until(ctx, func() (bool, error) {
		answer, err := s.client.Events.GetTrail(ctx, request)
		if err != nil {
			return false, err
		}
		for _, node := range answer.Nodes {
			if node.Event.Subject != subject {
				continue
			}
			path := []string{subject}
			for at := node.Parent; at >= 0; at = answer.Nodes[at].Parent {
				path = append(path, answer.Nodes[at].Event.Subject)
			}
			tell("trail", told{"path": path})
			return true, nil
		}
		return false, nil
	})
}

func (s *scenario) steps(ctx context.Context) error {
	if err := s.subscribe(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{s.lostAnswer, s.streamUsage, s.pages} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	var minorUnits int64
	var path []string
	for _, row := range s.table.Steps {
		minorUnits = max(minorUnits, row.Told.MinorUnits)
		path = append(path, row.Told.Path...)
	}
	if err := s.preview(ctx, minorUnits); err != nil {
		return err
	}
	created, err := s.webhook(ctx)
	if err != nil {
		return err
	}
	return s.trail(ctx, created, path[0])
}

// errors meets one error of each kind.
func (s *scenario) errors(ctx context.Context) {
	for _, row := range s.table.Errors {
		var failed *tollway.Error
		if err := s.fail(ctx, row.Error); !errors.As(err, &failed) {
			log.Fatalf("%s: %v", row.Error, err)
		}
		what := told{"code": codeName(failed.Code.String()), "reason": failed.ReasonName}
		if len(failed.Violations) > 0 {
			what["field"] = failed.Violations[0].Field
		}
		tell(row.Error, what)
	}
}

// codeName writes a code as the protocol does: InvalidArgument is INVALID_ARGUMENT.
func codeName(name string) string {
	var written strings.Builder
	for i, letter := range name {
		if i > 0 && 'A' <= letter && letter <= 'Z' {
			written.WriteByte('_')
		}
		written.WriteRune(letter)
	}
	return strings.ToUpper(written.String())
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	s := &scenario{inbox: receive()}
	if err := json.Unmarshal(text, &s.table); err != nil {
		log.Fatal(err)
	}
	s.client, err = tollway.Dial(os.Getenv("TOLLWAY_ADDRESS"), os.Getenv("TOLLWAY_API_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	defer s.client.Close()
	if err := s.steps(ctx); err != nil {
		log.Fatal(err)
	}
	s.errors(ctx)
}
