package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
)

func eventTests() map[string]func(*testing.T, *subject) {
	return map[string]func(*testing.T, *subject){
		"none": func(t *testing.T, s *subject) {
			s.bothWays(t, func(t *testing.T) {
				require.Equal(t, []api.Event{}, events(t, s, 0, 10))
				last, err := s.LastEvent(t.Context())
				require.NoError(t, err)
				require.Zero(t, last)
			})
		},
		"every field is kept, but for the ID": func(t *testing.T, s *subject) {
			want := full[api.Event](t)
			id, err := s.AppendEvent(t.Context(), want)
			require.NoError(t, err)
			want.ID = id
			s.bothWays(t, func(t *testing.T) { same(t, []api.Event{want}, events(t, s, 0, 10)) })
		},
		"a megabyte is kept": func(t *testing.T, s *subject) {
			appendEvents(t, s, megabyte())
			s.bothWays(t, func(t *testing.T) { require.Equal(t, megabyte(), events(t, s, 0, 1)[0].Message) })
		},
		"IDs grow one by one, also after reopening": func(t *testing.T, s *subject) {
			require.Equal(t, []int64{1, 2, 3}, appendEvents(t, s, "a", "b", "c"))
			s.reopen(t)
			require.Equal(t, []int64{4, 5}, appendEvents(t, s, "d", "e"))
			last, err := s.LastEvent(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 5, last)
		},
		"pages": eventPages,
		"the ID in an event does not matter": func(t *testing.T, s *subject) {
			for range 2 {
				_, err := s.AppendEvent(t.Context(), api.Event{ID: 7})
				require.NoError(t, err)
			}
			got := events(t, s, 0, 10)
			require.Len(t, got, 2)
			require.EqualValues(t, 1, got[0].ID)
			require.EqualValues(t, 2, got[1].ID)
		},
		"an event that could not be read back is refused, and takes no ID": func(t *testing.T, s *subject) {
			_, err := s.AppendEvent(t.Context(), api.Event{Took: -1})
			require.Error(t, err)
			require.Empty(t, events(t, s, 0, 10))
			require.Equal(t, []int64{1}, appendEvents(t, s, "a"))
		},
		"appended at once, an event never shows up below one that was seen": followEvents,
	}
}

func eventPages(t *testing.T, s *subject) {
	appendEvents(t, s, "a", "b", "c", "d", "e")
	tests := map[string]struct {
		after int64
		limit int
		want  []string
	}{
		"all":                {0, 10, []string{"a", "b", "c", "d", "e"}},
		"exactly all":        {0, 5, []string{"a", "b", "c", "d", "e"}},
		"the first page":     {0, 2, []string{"a", "b"}},
		"a page further on":  {2, 2, []string{"c", "d"}},
		"the last page":      {4, 2, []string{"e"}},
		"behind the last":    {5, 2, nil},
		"far behind":         {1 << 62, 2, nil},
		"before the first":   {-5, 2, []string{"a", "b"}},
		"no limit is none":   {0, 0, nil},
		"a limit below zero": {0, -1, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			page := events(t, s, test.after, test.limit)
			require.NotNil(t, page)
			for _, e := range page {
				got = append(got, e.Message)
			}
			require.Equal(t, test.want, got)
		})
	}
}

// followEvents appends from several goroutines while one follows: it pages on from
// the last ID it has seen, and must meet all of them.
func followEvents(t *testing.T, s *subject) {
	const writers, times = 6, 25
	group, ctx := errgroup.WithContext(t.Context())
	for range writers {
		group.Go(func() error {
			for i := range times {
				if _, err := s.AppendEvent(ctx, api.Event{Message: fmt.Sprint(i)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		for after := int64(0); after < writers*times; {
			page, err := s.Events(ctx, after, 10)
			if err != nil {
				return err
			}
			for _, e := range page {
				if e.ID != after+1 {
					return fmt.Errorf("event %d came after %d", e.ID, after)
				}
				after = e.ID
			}
		}
		return nil
	})
	require.NoError(t, group.Wait())
}

func revisionTests() map[string]func(*testing.T, *subject) {
	next := func(t *testing.T, s *subject) uint64 {
		t.Helper()
		n, err := s.NextRevision(t.Context())
		require.NoError(t, err)
		return n
	}
	return map[string]func(*testing.T, *subject){
		"adds one, also after reopening": func(t *testing.T, s *subject) {
			for want := uint64(1); want <= 3; want++ {
				require.Equal(t, want, next(t, s))
			}
			s.reopen(t)
			require.Equal(t, uint64(4), next(t, s))
		},
		"does not count events": func(t *testing.T, s *subject) {
			appendEvents(t, s, "a", "b")
			require.Equal(t, uint64(1), next(t, s))
			require.Equal(t, []int64{3}, appendEvents(t, s, "c"))
		},
		"never the same twice": func(t *testing.T, s *subject) {
			const callers, times = 8, 20
			var mu sync.Mutex
			seen := map[uint64]bool{}
			group, ctx := errgroup.WithContext(t.Context())
			for range callers {
				group.Go(func() error {
					var last uint64
					for range times {
						n, err := s.NextRevision(ctx)
						if err != nil {
							return err
						}
						if n <= last {
							return fmt.Errorf("revision %d came after %d", n, last)
						}
						last = n
						mu.Lock()
						seen[n] = true
						mu.Unlock()
					}
					return nil
				})
			}
			require.NoError(t, group.Wait())
			require.Len(t, seen, callers*times)
			require.Equal(t, uint64(callers*times+1), next(t, s))
		},
	}
}

func events(t *testing.T, s *subject, after int64, limit int) []api.Event {
	t.Helper()
	page, err := s.Events(t.Context(), after, limit)
	require.NoError(t, err)
	return page
}

// appendEvents appends an event for each message, and returns their IDs.
func appendEvents(t *testing.T, s *subject, messages ...string) []int64 {
	t.Helper()
	var ids []int64
	for _, message := range messages {
		id, err := s.AppendEvent(context.WithoutCancel(t.Context()), api.Event{Type: api.EventDeployStep, Message: message})
		require.NoError(t, err)
		ids = append(ids, id)
	}
	return ids
}
