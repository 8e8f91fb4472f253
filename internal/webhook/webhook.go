// Package webhook sends the events of an environment to other programs.
//
// Each hook goes through the log of events on its own, in its order, and stores how far it is:
// a server that starts goes on where the last one was. What cannot be delivered is
// tried again, and in the end put aside as a dead letter, which a person can send again. A
// delivery may come twice, when a server is killed between sending and storing; it
// has the same event ID then.
package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Log is the log of events, in their order. WaitEvents returns when there is one above after.
type Log interface {
	Events(ctx context.Context, after int64, limit int) ([]api.Event, error)
	WaitEvents(ctx context.Context, after int64) error
	LastEvent(ctx context.Context) (int64, error)
}

// Store keeps how far each hook is, and the dead letters.
type Store interface {
	// WebhookPosition returns the ID of the last event a hook is done with, and false
	// where none was stored.
	WebhookPosition(ctx context.Context, hook string) (int64, bool, error)
	PutWebhookPosition(ctx context.Context, hook string, position int64) error

	// AddDeadLetter keeps d under a new ID, and moves the hook behind its event, both or
	// neither. Of one hook the newest keep letters stay.
	AddDeadLetter(ctx context.Context, d api.DeadLetter, keep int) error
	// DeadLetters returns all, oldest first. The others return
	// [control.ErrNotStored] for an unknown one.
	DeadLetters(ctx context.Context) ([]api.DeadLetter, error)
	DeadLetter(ctx context.Context, id int64) (api.DeadLetter, error)
	PutDeadLetter(ctx context.Context, d api.DeadLetter) error
	DeleteDeadLetter(ctx context.Context, id int64) error
}

// The formats of a delivery.
const (
	FormatJSON  = "json"
	FormatSlack = "slack"
)

// Hook is where events are sent to.
type Hook struct {
	Name     string
	URL      string
	Format   string                 // FormatJSON, also where empty, or FormatSlack
	Events   []string               // see [api.EventType.Matches]; none means all
	Secret   func() ([]byte, error) // asked for each delivery; nil where nothing is signed
	RetryFor time.Duration          // how long a delivery is tried; 0 means an hour
}

func (h Hook) wants(t api.EventType) bool {
	return len(h.Events) == 0 || slices.ContainsFunc(h.Events, t.Matches)
}

// Options are what a Sender is made from. Log and Store are required.
type Options struct {
	Environment  string
	Hooks        []Hook
	Log          Log
	Store        Store
	Logger       *slog.Logger
	Timeout      time.Duration // of one try; 0 means 10 s
	FirstPause   time.Duration // before the second try; it doubles; 0 means a second
	LongestPause time.Duration // where the doubling ends; 0 means a minute
}

// keepLetters bounds the dead letters of a hook.
const keepLetters = 1000

// Sender sends the events of one environment to its hooks. It is safe for concurrent use.
type Sender struct {
	opts   Options
	log    *slog.Logger
	client *http.Client
	queues []*queue
}

// New finds out where each hook is in the log; a new one begins at the end. It sends nothing:
// [Sender.Run] does.
func New(ctx context.Context, opts Options) (*Sender, error) {
	opts.Timeout = cmp.Or(opts.Timeout, 10*time.Second)
	opts.FirstPause = cmp.Or(opts.FirstPause, time.Second)
	opts.LongestPause = cmp.Or(opts.LongestPause, time.Minute)
	s := &Sender{opts: opts, log: cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)), client: newClient(opts.Timeout)}
	last, err := opts.Log.LastEvent(ctx)
	if err != nil {
		return nil, err
	}
	for _, hook := range opts.Hooks {
		hook.Format, hook.RetryFor = cmp.Or(hook.Format, FormatJSON), cmp.Or(hook.RetryFor, time.Hour)
		position, known, err := opts.Store.WebhookPosition(ctx, hook.Name)
		if err != nil {
			return nil, err
		}
		if !known || position > last { // the log of a backup may end earlier
			position = last
			if err := opts.Store.PutWebhookPosition(ctx, hook.Name, position); err != nil {
				return nil, err
			}
		}
		s.queues = append(s.queues, &queue{s: s, hook: hook, position: position, stored: position})
	}
	return s, nil
}

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	group, ctx := errgroup.WithContext(ctx)
	for _, q := range s.queues {
		group.Go(func() error {
			q.run(ctx)
			return nil
		})
	}
	return group.Wait()
}

// Webhooks returns how far each hook is.
func (s *Sender) Webhooks(ctx context.Context) ([]api.Webhook, error) {
	last, err := s.opts.Log.LastEvent(ctx)
	if err != nil {
		return nil, err
	}
	letters, err := s.opts.Store.DeadLetters(ctx)
	if err != nil {
		return nil, err
	}
	dead := map[string]int{}
	for _, d := range letters {
		dead[d.Webhook]++
	}
	out := []api.Webhook{}
	for _, q := range s.queues {
		view := q.view()
		view.Behind, view.Dead = max(0, last-view.Position), dead[view.Name]
		out = append(out, view)
	}
	return out, nil
}

// DeadLetters returns the deliveries that were given up, oldest first.
func (s *Sender) DeadLetters(ctx context.Context) ([]api.DeadLetter, error) {
	return s.opts.Store.DeadLetters(ctx)
}

// Resend tries a dead letter once more. Where that works it is deleted.
func (s *Sender) Resend(ctx context.Context, id int64) (api.DeadLetter, error) {
	d, err := s.opts.Store.DeadLetter(ctx, id)
	if errors.Is(err, control.ErrNotStored) {
		return d, unknownLetter(id)
	}
	if err != nil {
		return d, err
	}
	q := s.queue(d.Webhook)
	if q == nil {
		return d, &control.Error{
			Code: api.CodeConflict, Message: fmt.Sprintf("the webhook %s of dead letter %d is not configured any more", d.Webhook, id),
			Hint: "name it in layover.yaml again, and restart the server",
		}
	}
	sent := s.send(ctx, q.hook, d.Event)
	if sent == nil {
		q.delivered()
		if err := s.opts.Store.DeleteDeadLetter(ctx, id); err != nil && !errors.Is(err, control.ErrNotStored) {
			return d, err
		}
		return d, nil
	}
	if ctx.Err() != nil {
		return d, ctx.Err()
	}
	d.Attempts++
	d.Reason = sent.Error()
	if err := s.opts.Store.PutDeadLetter(ctx, d); err != nil && !errors.Is(err, control.ErrNotStored) {
		return d, err
	}
	return d, &control.Error{
		Code: api.CodeUnavailable, Message: fmt.Sprintf("dead letter %d was not delivered to %s: %s", id, d.Webhook, sent),
		Hint: "it is kept; try again once the receiver takes it",
	}
}

func unknownLetter(id int64) error {
	return &control.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no dead letter %d", id), Hint: "see: layover webhook dead"}
}

func (s *Sender) queue(name string) *queue {
	for _, q := range s.queues {
		if q.hook.Name == name {
			return q
		}
	}
	return nil
}
