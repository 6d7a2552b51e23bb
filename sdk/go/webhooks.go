package tollway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// ErrInvalidWebhook means that a request is not from the sender, or not from now: answer 401.
var ErrInvalidWebhook = errors.New("the webhook is not signed by this endpoint's secret, or is not of now")

// WebhookEvent is an event as delivered. Handle each ID once, and drop what has a lower ResourceVersion than you have.
type WebhookEvent struct {
	ID              string          `json:"-"`
	Type            string          `json:"type"`
	ResourceID      string          `json:"resource_id"`
	ResourceVersion int64           `json:"resource_version,string"`
	Data            json.RawMessage `json:"data"`
}

// VerifyWebhook is the event of a request: secret is the endpoint's, body the bytes as they came.
func VerifyWebhook(secret string, header http.Header, body []byte) (*WebhookEvent, error) {
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, err
	}
	if err := verifier.Verify(body, header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidWebhook, err)
	}
	event := &WebhookEvent{ID: header.Get(standardwebhooks.HeaderWebhookID)}
	if err := json.Unmarshal(body, event); err != nil {
		return nil, err
	}
	return event, nil
}
