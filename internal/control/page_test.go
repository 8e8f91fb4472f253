package control_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
)

// Pages of any size, one behind the other, are all versions in their order.
func TestPagesOfVersions(t *testing.T) {
	t.Parallel()
	db, err := store.OpenSQLite(t.Context(), t.TempDir()+"/layover.db")
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	var all []string
	for _, service := range []string{"cart", "cart-2", "pricing"} {
		require.NoError(t, db.PutService(t.Context(), api.Service{Name: service, Hosts: []string{service + ".localhost"}}))
		for i := range 20 {
			key := control.Key{Service: service, Version: fmt.Sprintf("v-%02d", i)}
			all = append(all, key.String())
			require.NoError(t, db.UpdateVersion(t.Context(), key, func(*control.VersionRecord) (*control.VersionRecord, error) {
				return &control.VersionRecord{Key: key, Desired: control.DesiredStopped, Generations: []control.Generation{{Number: 1}}}, nil
			}))
		}
	}
	c, err := control.New(t.Context(), control.Options{Environment: "test", Store: db})
	require.NoError(t, err)
	for _, limit := range []int{1, 2, 7, 59, 60, 61, 1000} {
		require.Equal(t, all, pages(t, c, control.Page{Limit: limit}), limit)
	}
	require.Equal(t, all[20:40], pages(t, c, control.Page{Limit: 3, Service: "cart-2"}))
	require.Equal(t, []string{"cart@v-05", "cart-2@v-05", "pricing@v-05"}, pages(t, c, control.Page{Limit: 2, Version: "v-05"}))
	require.Empty(t, pages(t, c, control.Page{Limit: 2, Service: "nothing"}))
}

func pages(t *testing.T, c *control.Control, p control.Page) (ids []string) {
	t.Helper()
	for {
		versions, next, err := c.VersionPage(context.Background(), p)
		require.NoError(t, err)
		require.LessOrEqual(t, len(versions), p.Limit)
		for _, v := range versions {
			ids = append(ids, v.ID())
		}
		if next == "" {
			return ids
		}
		require.Equal(t, next, ids[len(ids)-1])
		p.After.Service, p.After.Version = versions[len(versions)-1].Service, versions[len(versions)-1].Name
	}
}
