package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

// Webhooks sends events to other programs. Its errors that may be shown are
// [*control.Error].
type Webhooks interface {
	Webhooks(ctx context.Context) ([]api.Webhook, error)
	DeadLetters(ctx context.Context) ([]api.DeadLetter, error)
	Resend(ctx context.Context, id int64) (api.DeadLetter, error)
}

func (s *Server) registerWebhooks() {
	register(s, operation{
		id: "list-webhooks", tag: tagWebhooks, method: http.MethodGet, path: "/api/v1/webhooks",
		summary:     "List webhooks",
		description: "Returns the webhooks of the configuration: how far each is in the events, and why it does not go on, where it does not.",
	}, func(ctx context.Context, _ *struct{}) (*answer[api.List[api.Webhook]], error) {
		webhooks, err := s.webhooks.Webhooks(ctx)
		return listOf(webhooks), err
	})

	register(s, operation{
		id: "list-dead-letters", tag: tagWebhooks, method: http.MethodGet, path: "/api/v1/webhooks/dead", standby: fromStore,
		summary:     "List dead letters",
		description: "Returns the deliveries that were given up, oldest first. Of each webhook the newest 1,000 are kept.",
	}, func(ctx context.Context, _ *struct{}) (*answer[api.List[api.DeadLetter]], error) {
		letters, err := s.webhooks.DeadLetters(ctx)
		return listOf(letters), err
	})

	register(s, operation{
		id: "resend-dead-letter", tag: tagWebhooks, method: http.MethodPost, path: "/api/v1/webhooks/dead/{id}/resend",
		summary:     "Send a dead letter again",
		description: "Tries the delivery once more, and answers when it is known whether that worked. Then it is no longer a dead letter; else it is kept.",
		errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *struct {
		ActorHeader
		ID int64 `path:"id" minimum:"1" doc:"ID of the dead letter" example:"12"`
	},
	) (*answer[api.DeadLetter], error) {
		letter, err := s.webhooks.Resend(ctx, in.ID)
		return reply(letter), err
	})
}

// noWebhooks is a server that sends nothing.
type noWebhooks struct{}

func (noWebhooks) Webhooks(context.Context) ([]api.Webhook, error)       { return nil, nil }
func (noWebhooks) DeadLetters(context.Context) ([]api.DeadLetter, error) { return nil, nil }
func (noWebhooks) Resend(context.Context, int64) (api.DeadLetter, error) {
	return api.DeadLetter{}, notFoundf("name webhooks in layover.yaml", "this server has no webhooks")
}
