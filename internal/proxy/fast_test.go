package proxy

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// TestFast_HandsOnItsPlace holds that a request which net/http serves has one place among those of its version.
func TestFast_HandsOnItsPlace(t *testing.T) {
	cart := service("cart", ready("main", h2cInstance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })))
	cart.Protocol = route.H2C
	w := newWorld(t, Options{Concurrency: Concurrency{PerVersion: 1, Queue: -1}}, cart)
	for range 3 {
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		require.Equal(t, http.StatusOK, client.answer(t, http.MethodGet).StatusCode)
	}
}
