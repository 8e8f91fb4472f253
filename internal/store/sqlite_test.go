package store_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/storetest"
)

func TestSQLite_Conformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Open {
		path := filepath.Join(t.TempDir(), "layover.db")
		return func(t *testing.T) storetest.Store {
			db, err := store.OpenSQLite(t.Context(), path)
			require.NoError(t, err)
			return db
		}
	})
}
