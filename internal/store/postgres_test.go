package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/postgrestest"
	"github.com/layover-dev/layover/internal/store/storetest"
)

func TestPostgres_Conformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Open {
		address := postgrestest.URL(t)
		return func(t *testing.T) storetest.Store {
			db, err := store.OpenPostgres(t.Context(), address)
			require.NoError(t, err)
			return db
		}
	})
}
