package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func TestLeased(t *testing.T) {
	inBubble(t, api.Service{IdleSleep: minutes(30)}, func(t *testing.T, w *clockwork) {
		w.deploy("main", api.Deployment{})
		w.deploy("x", api.Deployment{})
		w.deploy("awake", api.Deployment{IdleSleep: api.Never})
		w.deploy("ends", api.Deployment{IdleSleep: api.Never, TTL: minutes(90)})
		require.Equal(t, map[string]bool{"cart@x": true, "cart@ends": true}, w.Leased())
	})
}

// An instance that others than proxies send requests to is there until its drain time is over,
// although no proxy has any request to it.
func TestWholeDrain(t *testing.T) {
	service := api.Service{Drain: api.Duration(20 * time.Second)}
	inBubbleWith(t, service, func(o *control.Options) { o.WholeDrain = true }, func(t *testing.T, w *clockwork) {
		w.deploy("x", api.Deployment{})
		w.deploy("x", api.Deployment{Overrides: api.Overrides{Env: map[string]string{"A": "b"}}})
		require.Equal(t, 2, w.runtime.instances())
		w.pass(18 * time.Second)
		require.Equal(t, 2, w.runtime.instances())
		w.pass(3 * time.Second)
		require.Equal(t, 1, w.runtime.instances())
	})
}
