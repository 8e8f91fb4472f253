package proxy

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func taken(b *budget, answers uint64) int {
	n := 0
	for b.take(answers) {
		n++
	}
	return n
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b budget
		require.Equal(t, retryAtOnce, taken(&b, 0))
		require.Equal(t, 20, taken(&b, 100), "a fifth of the answers")
		require.Zero(t, taken(&b, 104))
		require.Equal(t, 1, taken(&b, 105))
		time.Sleep(time.Second)
		require.Equal(t, retryFloor, taken(&b, 105))
		time.Sleep(time.Hour)
		require.Equal(t, retryBurst, taken(&b, 1_000_000), "what was not used is not saved up")
	})
}

func TestProxy_RetriesWithinTheBudget(t *testing.T) {
	dead := []string{deadAddress(t), deadAddress(t)}
	w := newWorld(t, Options{Health: Health{ConnectFailures: -1}}, service("cart", ready("main", dead...)))
	require.NotContains(t, w.get(t, "cart.localhost", "/").problem(t).Detail, "budget")
	for taken(&w.versions.of("cart@main").budget, 0) > 0 {
		continue
	}
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusBadGateway, a.StatusCode)
	require.Contains(t, a.problem(t).Detail, "budget")
}
