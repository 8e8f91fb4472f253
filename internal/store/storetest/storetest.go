// Package storetest has the conformance suite of [control.Store], [forge.Store], [testrun.Store] and [webhook.Store]: what their
// contracts say, sentence by sentence, as tests for any implementation.
package storetest

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/forge"
	"github.com/layover-dev/layover/internal/testrun"
	"github.com/layover-dev/layover/internal/webhook"
)

// Store is a store under test. Close ends its use in an orderly way; the data stay.
type Store interface {
	control.Store
	forge.Store
	testrun.Store
	webhook.Store
	io.Closer
}

// Open opens a store. Every call of one Open is over the same data, and comes
// after the store of the call before was closed.
type Open func(t *testing.T) Store

// Run runs the suite. Each test calls place for an Open over data of its own,
// empty at first.
func Run(t *testing.T, place func(t *testing.T) Open) {
	t.Helper()
	areas := map[string]map[string]func(*testing.T, *subject){
		"services": serviceTests(),
		"versions": versionTests(),
		"update":   updateTests(),
		"routes":   routeTests(),
		"events":   eventTests(),
		"revision": revisionTests(),
		"webhooks": webhookTests(),
		"testruns": testRunTests(),
		"forges":   deliveryTests(),
		"context":  contextTests(),
	}
	for area, tests := range areas {
		t.Run(area, func(t *testing.T) {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					s := &subject{open: place(t)}
					s.Store = s.open(t)
					t.Cleanup(func() { require.NoError(t, s.Close()) })
					test(t, s)
				})
			}
		})
	}
}

// subject is the store that a test works on.
type subject struct {
	Store
	open Open
}

// reopen closes the store and opens it anew over the same data.
func (s *subject) reopen(t *testing.T) {
	t.Helper()
	require.NoError(t, s.Close())
	s.Store = s.open(t)
}

// bothWays runs check on the store, and again after it was reopened.
func (s *subject) bothWays(t *testing.T, check func(t *testing.T)) {
	t.Helper()
	t.Run("at once", check)
	s.reopen(t)
	t.Run("reopened", check)
}

// put makes record what is stored under its key.
func (s *subject) put(ctx context.Context, record control.VersionRecord) error {
	return s.UpdateVersion(ctx, record.Key, func(*control.VersionRecord) (*control.VersionRecord, error) {
		return &record, nil
	})
}

// get returns the record of key, nil where there is none.
func (s *subject) get(t *testing.T, key control.Key) *control.VersionRecord {
	t.Helper()
	all, err := s.Versions(t.Context())
	require.NoError(t, err)
	for _, r := range all {
		if r.Key == key {
			return &r
		}
	}
	return nil
}
