package storetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func webhookTests() map[string]func(*testing.T, *subject) {
	return map[string]func(*testing.T, *subject){
		"no position is stored at first": func(t *testing.T, s *subject) {
			_, known, err := s.WebhookPosition(t.Context(), "chat")
			require.NoError(t, err)
			require.False(t, known)
		},
		"a position of each webhook": func(t *testing.T, s *subject) {
			require.NoError(t, s.PutWebhookPosition(t.Context(), "chat", 7))
			require.NoError(t, s.PutWebhookPosition(t.Context(), "audit", 0))
			require.NoError(t, s.PutWebhookPosition(t.Context(), "chat", 8))
			s.bothWays(t, func(t *testing.T) {
				require.EqualValues(t, 8, position(t, s, "chat"))
				require.EqualValues(t, 0, position(t, s, "audit"))
			})
		},
		"every field of a dead letter is kept, but for the ID": func(t *testing.T, s *subject) {
			want := full[api.DeadLetter](t)
			want.Webhook = "chat" // a name
			require.NoError(t, s.AddDeadLetter(t.Context(), want, 10))
			require.Equal(t, want.Event.ID, position(t, s, want.Webhook), "the webhook is behind its event")
			want.ID = 1
			s.bothWays(t, func(t *testing.T) {
				all, err := s.DeadLetters(t.Context())
				require.NoError(t, err)
				same(t, []api.DeadLetter{want}, all)
				one, err := s.DeadLetter(t.Context(), 1)
				require.NoError(t, err)
				same(t, want, one)
			})
		},
		"of each webhook the newest stay": func(t *testing.T, s *subject) {
			for i := range 4 {
				for _, name := range []string{"a", "b"} {
					require.NoError(t, s.AddDeadLetter(t.Context(), api.DeadLetter{Webhook: name, Attempts: i}, 2))
				}
			}
			require.Equal(t, []string{"5 a 2", "6 b 2", "7 a 3", "8 b 3"}, letters(t, s))
			require.NoError(t, s.DeleteDeadLetter(t.Context(), 8))
			s.reopen(t)
			require.NoError(t, s.AddDeadLetter(t.Context(), api.DeadLetter{Webhook: "b", Attempts: 9}, 2))
			require.Equal(t, []string{"5 a 2", "6 b 2", "7 a 3", "9 b 9"}, letters(t, s), "no ID comes twice")
		},
		"a dead letter is changed, and deleted": func(t *testing.T, s *subject) {
			require.NoError(t, s.AddDeadLetter(t.Context(), api.DeadLetter{Webhook: "a"}, 2))
			require.NoError(t, s.PutDeadLetter(t.Context(), api.DeadLetter{ID: 1, Webhook: "a", Attempts: 5}))
			s.bothWays(t, func(t *testing.T) { require.Equal(t, []string{"1 a 5"}, letters(t, s)) })
			require.NoError(t, s.DeleteDeadLetter(t.Context(), 1))
			require.Empty(t, letters(t, s))
			require.ErrorIs(t, s.DeleteDeadLetter(t.Context(), 1), control.ErrNotStored)
			require.ErrorIs(t, s.PutDeadLetter(t.Context(), api.DeadLetter{ID: 1}), control.ErrNotStored)
			_, err := s.DeadLetter(t.Context(), 1)
			require.ErrorIs(t, err, control.ErrNotStored)
			all, err := s.DeadLetters(t.Context())
			require.NoError(t, err)
			require.NotNil(t, all)
		},
		"what could not be read back leaves the webhook where it is": func(t *testing.T, s *subject) {
			require.NoError(t, s.PutWebhookPosition(t.Context(), "a", 3))
			require.Error(t, s.AddDeadLetter(t.Context(), api.DeadLetter{Webhook: "a", Event: api.Event{ID: 4, Took: -1}}, 2))
			require.EqualValues(t, 3, position(t, s, "a"))
			require.Empty(t, letters(t, s))
		},
	}
}

func position(t *testing.T, s *subject, webhook string) int64 {
	t.Helper()
	at, known, err := s.WebhookPosition(t.Context(), webhook)
	require.NoError(t, err)
	require.True(t, known)
	return at
}

func letters(t *testing.T, s *subject) []string {
	t.Helper()
	all, err := s.DeadLetters(t.Context())
	require.NoError(t, err)
	var out []string
	for _, d := range all {
		out = append(out, fmt.Sprint(d.ID, " ", d.Webhook, " ", d.Attempts))
	}
	return out
}
