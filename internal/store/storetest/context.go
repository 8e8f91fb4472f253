package storetest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func contextTests() map[string]func(*testing.T, *subject) {
	return map[string]func(*testing.T, *subject){
		"one that has ended gives its error and changes nothing":       endedContext,
		"one that ends during edit changes nothing":                    endsDuringEdit,
		"a call that waits for a writer ends with its context":         endsWhileWaiting,
		"ends at any time: an error changes nothing, no error is kept": endsAnyTime,
	}
}

func endedContext(t *testing.T, s *subject) {
	require.NoError(t, s.PutService(t.Context(), api.Service{Name: "cart"}))
	require.NoError(t, s.PutRoute(t.Context(), api.NamedRoute{Name: "team"}))
	record := control.VersionRecord{Key: cartMain(), Owner: "ada"}
	require.NoError(t, s.put(t.Context(), record))

	ended, end := context.WithCancel(t.Context())
	end()
	calls := map[string]func() error{
		"Services":      func() error { _, err := s.Services(ended); return err },
		"PutService":    func() error { return s.PutService(ended, api.Service{Name: "new"}) },
		"DeleteService": func() error { return s.DeleteService(ended, "cart") },
		"Versions":      func() error { _, err := s.Versions(ended); return err },
		"UpdateVersion": func() error { return s.put(ended, control.VersionRecord{Key: cartMain(), Owner: "grace"}) },
		"Routes":        func() error { _, err := s.Routes(ended); return err },
		"PutRoute":      func() error { return s.PutRoute(ended, api.NamedRoute{Name: "new"}) },
		"DeleteRoute":   func() error { return s.DeleteRoute(ended, "team") },
		"AppendEvent":   func() error { _, err := s.AppendEvent(ended, api.Event{}); return err },
		"Events":        func() error { _, err := s.Events(ended, 0, 1); return err },
		"LastEvent":     func() error { _, err := s.LastEvent(ended); return err },
		"NextRevision":  func() error { _, err := s.NextRevision(ended); return err },
	}
	for name, call := range calls {
		require.ErrorIs(t, call(), context.Canceled, name)
	}

	s.bothWays(t, func(t *testing.T) {
		services, err := s.Services(t.Context())
		require.NoError(t, err)
		same(t, []api.Service{{Name: "cart"}}, services)
		routes, err := s.Routes(t.Context())
		require.NoError(t, err)
		same(t, []api.NamedRoute{{Name: "team"}}, routes)
		versions, err := s.Versions(t.Context())
		require.NoError(t, err)
		same(t, []control.VersionRecord{record}, versions)
		require.Empty(t, events(t, s, 0, 1))
	})
	revision, err := s.NextRevision(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), revision)
}

func endsDuringEdit(t *testing.T, s *subject) {
	record := control.VersionRecord{Key: cartMain(), Owner: "ada"}
	require.NoError(t, s.put(t.Context(), record))
	results := map[string]*control.VersionRecord{"a change": {Key: cartMain()}, "a deletion": nil}
	for name, result := range results {
		ctx, end := context.WithCancel(t.Context())
		err := s.UpdateVersion(ctx, cartMain(), func(*control.VersionRecord) (*control.VersionRecord, error) {
			end()
			return result, nil
		})
		require.ErrorIs(t, err, context.Canceled, name)
		same(t, &record, s.get(t, cartMain()))
	}
}

func endsWhileWaiting(t *testing.T, s *subject) {
	ctx, end := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer end()
	require.NoError(t, s.UpdateVersion(t.Context(), cartMain(), func(*control.VersionRecord) (*control.VersionRecord, error) {
		_, err := s.NextRevision(ctx) // a store that runs both at once may answer, any other must not wait for ever
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		return &control.VersionRecord{Key: cartMain()}, nil
	}))
	require.NotNil(t, s.get(t, cartMain()))
}

func endsAnyTime(t *testing.T, s *subject) {
	const callers, times = 4, 40
	var kept, refused atomic.Int64
	group, ctx := errgroup.WithContext(t.Context())
	for c := range callers {
		group.Go(func() error {
			for i := range times {
				wait := time.Duration((c*times+i)%50) * 20 * time.Microsecond
				short, end := context.WithTimeout(ctx, wait)
				_, err := s.AppendEvent(short, api.Event{})
				end()
				if err == nil {
					kept.Add(1)
				} else {
					refused.Add(1)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.NotZero(t, refused.Load(), "no context ended in time")
	require.Len(t, events(t, s, 0, callers*times), int(kept.Load()))
	require.Equal(t, []int64{kept.Load() + 1}, appendEvents(t, s, "after"))
}
