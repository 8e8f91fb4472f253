package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers of a webhook's request.
const (
	HeaderWebhook   = "Layover-Webhook"   // name of the webhook
	HeaderEventType = "Layover-Event"     // type of the event
	HeaderEventID   = "Layover-Event-Id"  // the same when a delivery is repeated
	HeaderSignature = "Layover-Signature" // t=UNIX SECONDS,v1=HMAC-SHA256 of "SECONDS.BODY" in hex
)

// WebhookDelivery is the body of a webhook's request in the format json.
type WebhookDelivery struct {
	Environment string `json:"environment" doc:"Name of the environment"`
	Webhook     string `json:"webhook" doc:"Name of the webhook"`
	Event       Event  `json:"event"`
}

// Webhook is one webhook, and how far it is.
type Webhook struct {
	Name      string     `json:"name"`
	URL       string     `json:"url" doc:"Scheme and host; the rest may be secret" example:"https://hooks.slack.com"`
	Format    string     `json:"format" enum:"json,slack"`
	Events    []string   `json:"events,omitempty" doc:"Which events it gets; none means all"`
	Position  int64      `json:"position" doc:"ID of the last event that is done with"`
	Behind    int64      `json:"behind" doc:"Events of the log it has not looked at yet"`
	Delivered uint64     `json:"delivered" doc:"Deliveries since the server started"`
	Lost      int64      `json:"lost,omitempty" doc:"Events that left the log before the webhook came to them, since the server started"`
	Failures  int        `json:"failures,omitempty" doc:"Failed tries in a row"`
	LastError string     `json:"last_error,omitempty" doc:"Why the last try failed; empty where it worked"`
	NextTry   *time.Time `json:"next_try,omitempty" doc:"When a failed delivery is tried again"`
	Dead      int        `json:"dead" doc:"Deliveries that were given up"`
}

// DeadLetter is a delivery that was given up.
type DeadLetter struct {
	ID       int64     `json:"id" example:"12"`
	Webhook  string    `json:"webhook"`
	Event    Event     `json:"event"`
	Reason   string    `json:"reason" doc:"Why the last try failed"`
	Attempts int       `json:"attempts"`
	At       time.Time `json:"at" doc:"When it was given up"`
}

// SignWebhook returns the value of [HeaderSignature] for a body that is sent at t.
func SignWebhook(t time.Time, body, secret []byte) string {
	seconds := strconv.FormatInt(t.Unix(), 10)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(webhookMAC(seconds, body, secret))
}

// VerifyWebhook says whether a request of a webhook comes from somebody who has the secret, and
// was sent within tolerance of now, so that nobody can send it again later. header is the
// value of [HeaderSignature].
func VerifyWebhook(now time.Time, tolerance time.Duration, header string, body, secret []byte) error {
	var seconds, signature string
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "t":
			seconds = value
		case "v1":
			signature = value
		}
	}
	t, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return fmt.Errorf("%s has no time", HeaderSignature)
	}
	got, err := hex.DecodeString(signature)
	if err != nil || !hmac.Equal(got, webhookMAC(seconds, body, secret)) {
		return fmt.Errorf("%s is not of this body and secret", HeaderSignature)
	}
	if age := now.Sub(time.Unix(t, 0)).Abs(); age > tolerance {
		return fmt.Errorf("the request was sent %s ago", age)
	}
	return nil
}

func webhookMAC(seconds string, body, secret []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(seconds + ".")) // a hash takes everything
	_, _ = mac.Write(body)
	return mac.Sum(nil)
}

// Webhooks returns the webhooks of the server, in the order of its configuration.
func (c *Client) Webhooks(ctx context.Context) ([]Webhook, error) {
	var out List[Webhook]
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"webhooks"}}, &out)
	return out.Items, err
}

// DeadLetters returns the deliveries that were given up, oldest first.
func (c *Client) DeadLetters(ctx context.Context) ([]DeadLetter, error) {
	var out List[DeadLetter]
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"webhooks", "dead"}}, &out)
	return out.Items, err
}

// ResendDeadLetter tries a delivery that was given up once more. Where that works it is no
// longer among the dead letters.
func (c *Client) ResendDeadLetter(ctx context.Context, id int64) (DeadLetter, error) {
	var out DeadLetter
	err := c.do(ctx, call{method: http.MethodPost, path: []string{"webhooks", "dead", strconv.FormatInt(id, 10), "resend"}}, &out)
	return out, err
}
