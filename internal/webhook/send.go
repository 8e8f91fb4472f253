package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/layover-dev/layover/api"
)

const (
	maxAnswer       = 4 << 10  // of an answer that is read
	maxAnswerHeader = 32 << 10 // of its header
	maxReason       = 500      // bytes of why a delivery failed
)

// refusal is an answer other than 2xx.
type refusal struct {
	text  string
	final bool          // to send the same again would not help
	after time.Duration // how long the receiver wants us to wait
}

func (r *refusal) Error() string { return r.text }

func newClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			MaxResponseHeaderBytes: maxAnswerHeader,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        time.Minute,
			ForceAttemptHTTP2:      true,
		},
		// A delivery goes where the configuration says, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send makes one try to deliver e.
func (s *Sender) send(ctx context.Context, hook Hook, e api.Event) error {
	req, err := s.request(ctx, hook, e)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL, which may be secret
		}
		return errors.New(shortened(err.Error()))
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what came is better than nothing
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return refused(resp, text)
}

// request makes the request that delivers e, signed at this moment.
func (s *Sender) request(ctx context.Context, hook Hook, e api.Event) (*http.Request, error) {
	var body []byte
	var err error
	if hook.Format == FormatSlack {
		body, err = json.Marshal(slackMessage{Text: slackText(s.opts.Environment, e)})
	} else {
		body, err = json.Marshal(api.WebhookDelivery{Environment: s.opts.Environment, Webhook: hook.Name, Event: e})
	}
	if err != nil {
		return nil, fmt.Errorf("write the delivery: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "layover-webhook")
	req.Header.Set(api.HeaderWebhook, hook.Name)
	req.Header.Set(api.HeaderEventType, string(e.Type))
	req.Header.Set(api.HeaderEventID, strconv.FormatInt(e.ID, 10))
	if hook.Secret != nil {
		secret, err := hook.Secret()
		if err != nil {
			return nil, fmt.Errorf("read the secret: %w", err)
		}
		req.Header.Set(api.HeaderSignature, api.SignWebhook(time.Now(), body, secret))
	}
	return req, nil
}

// refused makes an error of an answer.
func refused(resp *http.Response, text []byte) *refusal {
	r := &refusal{text: fmt.Sprintf("it answered %d", resp.StatusCode)}
	if line := strings.TrimSpace(string(text)); line != "" {
		r.text += ": " + line
	}
	r.text = shortened(r.text)
	switch status := resp.StatusCode; {
	case status/100 == 3:
		r.text, r.final = fmt.Sprintf("it answered %d: redirects are not followed", status), true
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
	default:
		r.final = true
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		r.after = time.Duration(min(seconds, int(maxRetryWait/time.Second))) * time.Second
	}
	return r
}

// shortened makes text from elsewhere one line of bounded length.
func shortened(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + " …"
	}
	return text
}

// shownURL is what may be told of a URL: its path and query may be a secret.
func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
