package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/server/servertest"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a program that gets webhooks. It notes the requests in their order.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []request
	answer func(w http.ResponseWriter, n int) // n counts the requests from 1; nil answers 200
}

type request struct {
	header http.Header
	body   []byte
}

func newReceiver(t *testing.T, answer func(w http.ResponseWriter, n int)) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, request{req.Header.Clone(), body})
		n, answer := len(r.got), r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(w, n)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answers(answer func(w http.ResponseWriter, n int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.got...)
}

// ids are the IDs of the events it got, in order.
func (r *receiver) ids() []int {
	var out []int
	for _, one := range r.requests() {
		id, _ := strconv.Atoi(one.header.Get(api.HeaderEventID))
		out = append(out, id)
	}
	return out
}

// bench is a sender over a real store. The log outlives it, as that of an environment does.
type bench struct {
	*webhook.Sender
	t     *testing.T
	log   *servertest.Control
	path  string
	hooks []webhook.Hook
	end   func()
}

func newBench(t *testing.T, hooks ...webhook.Hook) *bench {
	t.Helper()
	t.Parallel()
	b := &bench{t: t, log: servertest.New(), path: filepath.Join(t.TempDir(), "layover.db"), hooks: hooks}
	b.start()
	t.Cleanup(func() { b.end() })
	return b
}

func (b *bench) start() {
	b.t.Helper()
	db, err := store.OpenSQLite(b.t.Context(), b.path)
	require.NoError(b.t, err)
	b.Sender, err = webhook.New(b.t.Context(), webhook.Options{
		Environment: "shop", Hooks: b.hooks, Log: b.log, Store: db,
		Timeout: 2 * time.Second, FirstPause: time.Millisecond, LongestPause: 4 * time.Millisecond,
	})
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := b.Sender
	go func() { done <- s.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		require.NoError(b.t, <-done)
		require.NoError(b.t, db.Close())
	})
}

func (b *bench) emit(n int) {
	for range n {
		b.log.Emit(api.Event{Type: api.EventDeployDone, Service: "cart", Version: "x", Message: "cart@x is up"})
	}
}

func (b *bench) view() api.Webhook {
	b.t.Helper()
	all, err := b.Webhooks(b.t.Context())
	require.NoError(b.t, err)
	return all[0]
}

func (b *bench) dead() []api.DeadLetter {
	b.t.Helper()
	all, err := b.DeadLetters(b.t.Context())
	require.NoError(b.t, err)
	return all
}

func (b *bench) until(ok func() bool, what string) {
	b.t.Helper()
	require.Eventually(b.t, ok, 20*time.Second, time.Millisecond, what)
}

func upTo(n int) []int {
	var out []int
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

func status(code int) func(http.ResponseWriter, int) {
	return func(w http.ResponseWriter, _ int) { w.WriteHeader(code) }
}

func TestEventsAreSentInOrderAndSigned(t *testing.T) {
	r := newReceiver(t, nil)
	secret := []byte("s3cret")
	b := newBench(t, webhook.Hook{Name: "audit", URL: r.URL, Secret: func() ([]byte, error) { return secret, nil }})
	b.emit(30)
	b.until(func() bool { return len(r.requests()) == 30 && b.view().Behind == 0 }, "30 events")
	require.Equal(t, upTo(30), r.ids())
	for i, one := range r.requests() {
		var d api.WebhookDelivery
		require.NoError(t, json.Unmarshal(one.body, &d))
		require.EqualValues(t, i+1, d.Event.ID)
		require.Equal(t, "shop", d.Environment)
		require.Equal(t, "audit", d.Webhook)
		require.Equal(t, "deploy.done", one.header.Get(api.HeaderEventType))
		require.Equal(t, "application/json", one.header.Get("Content-Type"))
		signature := one.header.Get(api.HeaderSignature)
		require.NoError(t, api.VerifyWebhook(time.Now(), time.Minute, signature, one.body, secret))
		require.Error(t, api.VerifyWebhook(time.Now(), time.Minute, signature, one.body, []byte("other")))
		require.Error(t, api.VerifyWebhook(time.Now(), time.Minute, signature, append(one.body, ' '), secret))
	}
	require.EqualValues(t, 30, b.view().Delivered)
}

func TestOnlyWhatIsWantedIsSent(t *testing.T) {
	r := newReceiver(t, nil)
	b := newBench(t, webhook.Hook{Name: "some", URL: r.URL, Events: []string{"deploy.failed", "version.*"}})
	for _, kind := range []api.EventType{
		api.EventDeployStarted, api.EventDeployFailed, api.EventDeployDone, api.EventVersionStopped, api.EventRouteChanged, api.EventVersionOverruled,
	} {
		b.log.Emit(api.Event{Type: kind, Message: string(kind)})
	}
	b.until(func() bool { return b.view().Behind == 0 }, "all are looked at")
	var got []string
	for _, one := range r.requests() {
		got = append(got, one.header.Get(api.HeaderEventType))
		require.Empty(t, one.header.Get(api.HeaderSignature))
	}
	require.Equal(t, []string{"deploy.failed", "version.stopped", "version.overruled"}, got)
}

// A receiver that fails is tried again, and gets nothing out of order.
func TestTriedAgain(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, n int){
		"500": func(w http.ResponseWriter, n int) { w.WriteHeader(500) },
		"429": func(w http.ResponseWriter, n int) { w.WriteHeader(429) },
		"cut off": func(http.ResponseWriter, int) {
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, func(w http.ResponseWriter, n int) {
				if n%3 != 0 {
					answer(w, n)
				}
			})
			b := newBench(t, webhook.Hook{Name: "audit", URL: r.URL})
			b.emit(4)
			b.until(func() bool { return b.view().Position == 4 }, "all are delivered")
			require.Equal(t, []int{1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4}, r.ids())
			require.Empty(t, b.dead())
			require.Empty(t, b.view().LastError)
		})
	}
}

// While a receiver fails, one sees why and when it goes on; others do not wait for it.
func TestAFailingReceiverIsSeen(t *testing.T) {
	bad, good := newReceiver(t, func(w http.ResponseWriter, _ int) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(503)
		_, _ = io.WriteString(w, "down\nfor \x1b[31mnow")
	}), newReceiver(t, nil)
	b := newBench(t, webhook.Hook{Name: "bad", URL: bad.URL + "/secret?token=1"}, webhook.Hook{Name: "good", URL: good.URL})
	b.emit(3)
	b.until(func() bool { return len(good.requests()) == 3 && b.view().Failures > 0 }, "the good one gets all")
	view := b.view()
	require.Equal(t, "it answered 503: down for  [31mnow", view.LastError)
	require.Equal(t, bad.URL, view.URL, "without what may be secret")
	require.EqualValues(t, 3, view.Behind)
	require.NotNil(t, view.NextTry)
	wait := time.Until(*view.NextTry)
	require.Greater(t, wait, 4*time.Minute, "Retry-After counts")
	require.LessOrEqual(t, wait, 5*time.Minute, "but not for ever")
	require.Len(t, bad.requests(), 1)
}

// The next server goes on where this one ended, however it ended, and loses nothing.
func TestARestartGoesOn(t *testing.T) {
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	r := newReceiver(t, nil)
	b := newBench(t, webhook.Hook{Name: "audit", URL: r.URL})
	b.emit(2)
	b.until(func() bool { return b.view().Position == 2 }, "the first are delivered")
	r.answers(func(_ http.ResponseWriter, n int) {
		if n == 4 {
			arrived <- struct{}{}
			<-release
		}
	})
	b.emit(2)
	<-arrived // the fourth is under way, and not answered
	b.end()
	close(release)
	b.emit(2) // while no server runs
	r.answers(nil)
	b.start()
	b.until(func() bool { return b.view().Position == 6 }, "the rest is delivered")
	require.Equal(t, []int{1, 2, 3, 4, 4, 5, 6}, r.ids(), "what was not answered comes once more, and nothing else")
	b.end()
	b.start()
	require.Zero(t, b.view().Behind)
	require.Len(t, r.requests(), 7)
}

func TestANewHookBeginsAtTheEnd(t *testing.T) {
	old, added := newReceiver(t, nil), newReceiver(t, nil)
	b := newBench(t, webhook.Hook{Name: "old", URL: old.URL})
	b.emit(3)
	b.until(func() bool { return b.view().Position == 3 }, "delivered")
	b.end()
	b.hooks = append(b.hooks, webhook.Hook{Name: "added", URL: added.URL})
	b.start()
	b.emit(1)
	b.until(func() bool { return len(added.requests()) == 1 && len(old.requests()) == 4 }, "both get the next one")
	require.Equal(t, []int{4}, added.ids())
}

// What cannot be delivered is put aside, and can be sent again.
func TestDeadLetters(t *testing.T) {
	for name, test := range map[string]struct {
		answer   func(http.ResponseWriter, int)
		retryFor time.Duration
		reason   string
		tries    []int
	}{
		"refused":    {status(403), time.Hour, "it answered 403", []int{1, 2}},
		"redirected": {func(w http.ResponseWriter, _ int) { w.Header().Set("Location", "/"); w.WriteHeader(307) }, time.Hour, "it answered 307: redirects are not followed", []int{1, 2}},
		"too long":   {status(500), time.Nanosecond, "it answered 500", []int{1, 1, 2}}, // the first one has its time
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, test.answer)
			b := newBench(t, webhook.Hook{Name: "audit", URL: r.URL, RetryFor: test.retryFor})
			b.emit(2)
			b.until(func() bool { return len(b.dead()) == 2 && b.view().Position == 2 }, "both are given up")
			require.Equal(t, test.tries, r.ids())
			d := b.dead()[0]
			require.Equal(t, test.reason, d.Reason)
			require.EqualValues(t, 1, d.Event.ID)
			require.Equal(t, len(test.tries)-1, d.Attempts)
			require.Equal(t, 2, b.view().Dead)

			b.end() // they outlive the server
			b.start()
			_, err := b.Resend(t.Context(), d.ID)
			require.ErrorContains(t, err, "dead letter 1 was not delivered to audit: "+test.reason)
			require.Equal(t, api.CodeUnavailable, control.CodeOf(err))
			require.Equal(t, len(test.tries), b.dead()[0].Attempts)
			r.answers(nil)
			_, err = b.Resend(t.Context(), d.ID)
			require.NoError(t, err)
			require.Equal(t, append(test.tries, 1, 1), r.ids())
			require.Len(t, b.dead(), 1)
			_, err = b.Resend(t.Context(), d.ID)
			require.Equal(t, api.CodeNotFound, control.CodeOf(err))

			b.end()
			b.hooks = []webhook.Hook{{Name: "other", URL: r.URL}}
			b.start()
			_, err = b.Resend(t.Context(), b.dead()[0].ID)
			require.Equal(t, api.CodeConflict, control.CodeOf(err), "%v", err)
		})
	}
}

// An answer without end, one that does not come, and a receiver that is not there are bounded.
func TestBadReceivers(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, n int) {
		switch n {
		case 1:
			for range 1 << 16 {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<10)); err != nil {
					return
				}
			}
		case 2:
			w.Header().Set("X-Large", strings.Repeat("x", 64<<10))
		}
	})
	b := newBench(t, webhook.Hook{Name: "audit", URL: r.URL}, webhook.Hook{Name: "gone", URL: "http://127.0.0.1:1/secret", RetryFor: time.Nanosecond})
	b.emit(2)
	b.until(func() bool { return b.view().Position == 2 }, "delivered in the end")
	require.Equal(t, []int{1, 2, 2}, r.ids())
	b.until(func() bool { return len(b.dead()) == 2 }, "given up")
	require.Contains(t, b.dead()[0].Reason, "connection refused")
	require.NotContains(t, b.dead()[0].Reason, "secret")
}

func TestASecretThatCannotBeRead(t *testing.T) {
	r := newReceiver(t, nil)
	var mu sync.Mutex
	broken := errors.New("no such file")
	b := newBench(t, webhook.Hook{Name: "audit", URL: r.URL, Secret: func() ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		return []byte("new"), broken
	}})
	b.emit(1)
	b.until(func() bool { return strings.Contains(b.view().LastError, "read the secret: no such file") }, "it says so")
	require.Empty(t, r.requests(), "nothing goes out unsigned")
	mu.Lock()
	broken = nil
	mu.Unlock()
	b.until(func() bool { return len(r.requests()) == 1 }, "it goes on")
	one := r.requests()[0]
	require.NoError(t, api.VerifyWebhook(time.Now(), time.Minute, one.header.Get(api.HeaderSignature), one.body, []byte("new")))
}

func TestSlack(t *testing.T) {
	r := newReceiver(t, nil)
	b := newBench(t, webhook.Hook{Name: "chat", URL: r.URL, Format: webhook.FormatSlack})
	b.log.Emit(api.Event{
		Type: api.EventDeployFailed, Service: "cart", Version: "x", Owner: "ana", Actor: "bob",
		Message: "cart@x did not come up: <!channel> & more", LogTail: []string{"one", "a ``` <b>"},
	})
	long := make([]string, 20)
	for i := range long {
		long[i] = strings.Repeat(strconv.Itoa(i%10), 1000)
	}
	b.log.Emit(api.Event{Type: api.EventDeployDone, Owner: "ana", Actor: "Ana", Message: strings.Repeat("ü", 4000), LogTail: long})
	b.log.Emit(api.Event{Type: api.EventDeployFailed, Message: "no", LogTail: long})
	b.until(func() bool { return len(r.requests()) == 3 }, "sent")
	var texts []string
	for _, one := range r.requests() {
		var m map[string]string
		require.NoError(t, json.Unmarshal(one.body, &m))
		require.Len(t, m, 1)
		require.Less(t, len(m["text"]), 3100)
		texts = append(texts, m["text"])
	}
	require.Equal(t, ":x: cart@x did not come up: &lt;!channel&gt; &amp; more, by bob (owner: ana) _shop_\n```\none\na ''' &lt;b&gt;\n```", texts[0])
	require.True(t, strings.HasPrefix(texts[1], ":white_check_mark: üü"))
	require.NotContains(t, texts[1], "owner", "she did it herself")
	require.Equal(t, fmt.Sprintf(":x: no _shop_\n```\n%s\n%s\n```", long[18], long[19]), texts[2], "the last lines that fit")
}
