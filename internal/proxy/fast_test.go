package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

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

// TestFast_SlowAnswerIsNotAskedForTwice holds that an instance which takes too long is not
// taken for one that has closed the connection.
func TestFast_SlowAnswerIsNotAskedForTwice(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		var asked atomic.Int64
		o := newOrigin(t, func(f *far) {
			for f.head() != nil {
				if asked.Add(1) == 1 {
					f.say(okAnswer)
				}
			}
		})
		w := newPathWorld(t, path, Options{AnswerTimeout: 150 * time.Millisecond}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		client.head(t)
		client.exactly(t, 2)
		client.raw(t, get("/"))
		require.Equal(t, "HTTP/1.1 504 Gateway Timeout", client.head(t)[0])
		require.EqualValues(t, 2, asked.Load())
	})
}
