package storetest

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func serviceTests() map[string]func(*testing.T, *subject) {
	list := func(t *testing.T, s *subject) []api.Service {
		t.Helper()
		all, err := s.Services(t.Context())
		require.NoError(t, err)
		return all
	}
	return map[string]func(*testing.T, *subject){
		"an empty list is not nil": func(t *testing.T, s *subject) {
			require.Equal(t, []api.Service{}, list(t, s))
		},
		"every field is kept": func(t *testing.T, s *subject) {
			want := full[api.Service](t)
			require.NoError(t, s.PutService(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, []api.Service{want}, list(t, s)) })
		},
		"a megabyte is kept": func(t *testing.T, s *subject) {
			want := api.Service{Name: "cart", Env: map[string]string{"BIG": megabyte()}}
			require.NoError(t, s.PutService(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, []api.Service{want}, list(t, s)) })
		},
		"put replaces whole": func(t *testing.T, s *subject) {
			require.NoError(t, s.PutService(t.Context(), api.Service{Name: "cart", Hosts: []string{"a"}, Default: "blue"}))
			want := api.Service{Name: "cart", Protocol: "h2c"}
			require.NoError(t, s.PutService(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, []api.Service{want}, list(t, s)) })
		},
		"ordered by name": func(t *testing.T, s *subject) {
			for _, i := range rand.Perm(len(names())) { //nolint:gosec // any order will do
				require.NoError(t, s.PutService(t.Context(), api.Service{Name: names()[i]}))
			}
			var got []string
			for _, service := range list(t, s) {
				got = append(got, service.Name)
			}
			require.Equal(t, names(), got)
			require.True(t, slices.IsSorted(got))
		},
		"a list is a copy": func(t *testing.T, s *subject) {
			want := full[api.Service](t)
			require.NoError(t, s.PutService(t.Context(), want))
			first := list(t, s)
			first[0].Hosts[0] = "changed"
			clear(first[0].Env)
			first[0].Run.Docker.Image = "changed"
			same(t, []api.Service{want}, list(t, s))
		},
		"what was put may be changed afterwards": func(t *testing.T, s *subject) {
			put := full[api.Service](t)
			require.NoError(t, s.PutService(t.Context(), put))
			clear(put.Env)
			same(t, []api.Service{full[api.Service](t)}, list(t, s))
		},
		"delete takes its versions with it, and nothing else": func(t *testing.T, s *subject) {
			for _, service := range []string{"car", "cart", "carts"} {
				require.NoError(t, s.PutService(t.Context(), api.Service{Name: service}))
				for _, version := range []string{"main", "pr-1"} {
					require.NoError(t, s.put(t.Context(), control.VersionRecord{Key: control.Key{Service: service, Version: version}}))
				}
			}
			require.NoError(t, s.PutRoute(t.Context(), api.NamedRoute{Name: "cart"}))
			require.NoError(t, s.DeleteService(t.Context(), "cart"))
			s.bothWays(t, func(t *testing.T) {
				require.Len(t, list(t, s), 2)
				all, err := s.Versions(t.Context())
				require.NoError(t, err)
				require.Equal(t, []string{"car@main", "car@pr-1", "carts@main", "carts@pr-1"}, keys(all))
				routes, err := s.Routes(t.Context())
				require.NoError(t, err)
				require.Len(t, routes, 1)
			})
		},
		"delete of an unknown one is ErrNotStored": func(t *testing.T, s *subject) {
			require.NoError(t, s.PutService(t.Context(), api.Service{Name: "cart"}))
			require.ErrorIs(t, s.DeleteService(t.Context(), "Cart"), control.ErrNotStored)
			require.ErrorIs(t, s.DeleteService(t.Context(), ""), control.ErrNotStored)
			require.NoError(t, s.DeleteService(t.Context(), "cart"))
			require.ErrorIs(t, s.DeleteService(t.Context(), "cart"), control.ErrNotStored)
		},
		"text is no SQL": func(t *testing.T, s *subject) {
			name := `x'); DROP TABLE services; -- " $1 ? %s`
			require.NoError(t, s.PutService(t.Context(), api.Service{Name: name}))
			require.Equal(t, name, list(t, s)[0].Name)
			require.NoError(t, s.DeleteService(t.Context(), name))
			require.Empty(t, list(t, s))
		},
	}
}

func routeTests() map[string]func(*testing.T, *subject) {
	list := func(t *testing.T, s *subject) []api.NamedRoute {
		t.Helper()
		all, err := s.Routes(t.Context())
		require.NoError(t, err)
		return all
	}
	return map[string]func(*testing.T, *subject){
		"an empty list is not nil": func(t *testing.T, s *subject) {
			require.Equal(t, []api.NamedRoute{}, list(t, s))
		},
		"every field is kept": func(t *testing.T, s *subject) {
			want := full[api.NamedRoute](t)
			require.NoError(t, s.PutRoute(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, []api.NamedRoute{want}, list(t, s)) })
		},
		"put replaces whole": func(t *testing.T, s *subject) {
			require.NoError(t, s.PutRoute(t.Context(), full[api.NamedRoute](t)))
			want := api.NamedRoute{Name: full[api.NamedRoute](t).Name, Picks: map[string]string{"cart": "pr-1"}}
			require.NoError(t, s.PutRoute(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, []api.NamedRoute{want}, list(t, s)) })
		},
		"ordered by name": func(t *testing.T, s *subject) {
			for _, i := range rand.Perm(len(names())) { //nolint:gosec // any order will do
				require.NoError(t, s.PutRoute(t.Context(), api.NamedRoute{Name: names()[i]}))
			}
			var got []string
			for _, r := range list(t, s) {
				got = append(got, r.Name)
			}
			require.Equal(t, names(), got)
		},
		"a list is a copy": func(t *testing.T, s *subject) {
			require.NoError(t, s.PutRoute(t.Context(), full[api.NamedRoute](t)))
			clear(list(t, s)[0].Picks)
			same(t, []api.NamedRoute{full[api.NamedRoute](t)}, list(t, s))
		},
		"delete": func(t *testing.T, s *subject) {
			for _, name := range []string{"a", "b"} {
				require.NoError(t, s.PutRoute(t.Context(), api.NamedRoute{Name: name}))
			}
			require.NoError(t, s.DeleteRoute(t.Context(), "a"))
			require.ErrorIs(t, s.DeleteRoute(t.Context(), "a"), control.ErrNotStored)
			s.bothWays(t, func(t *testing.T) { same(t, []api.NamedRoute{{Name: "b"}}, list(t, s)) })
		},
	}
}

// keys returns the keys of records as text, in their order.
func keys(records []control.VersionRecord) []string {
	var all []string
	for _, r := range records {
		all = append(all, r.String())
	}
	return all
}
