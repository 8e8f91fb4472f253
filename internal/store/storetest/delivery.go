package storetest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func deliveryTests() map[string]func(*testing.T, *subject) {
	has := func(t *testing.T, s *subject, ids ...string) bool {
		t.Helper()
		stored, err := s.HasDelivery(t.Context(), ids)
		require.NoError(t, err)
		return stored
	}
	return map[string]func(*testing.T, *subject){
		"one that is stored is known, by any of its names": func(t *testing.T, s *subject) {
			require.False(t, has(t, s, "a"))
			require.NoError(t, s.PutDeliveries(t.Context(), []string{"a", "b"}, 10))
			s.bothWays(t, func(t *testing.T) {
				require.True(t, has(t, s, "a"))
				require.True(t, has(t, s, "c", "b"))
				require.False(t, has(t, s, "c"))
				require.False(t, has(t, s))
			})
		},
		"the newest stay, and one that comes again is new": func(t *testing.T, s *subject) {
			for _, id := range []string{"a", "b", "c", "a", "d"} {
				require.NoError(t, s.PutDeliveries(t.Context(), []string{id}, 3))
			}
			require.False(t, has(t, s, "b"))
			for _, id := range []string{"c", "a", "d"} {
				require.True(t, has(t, s, id), id)
			}
		},
	}
}
