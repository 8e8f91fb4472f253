package control_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// TestHammer changes its mind about one version again and again, from several sides
// and at any moment of what goes on, and looks whether the last wish holds.
func TestHammer(t *testing.T) {
	b := newBench(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range 6 {
		var group sync.WaitGroup
		for side := range 3 {
			random := rand.New(rand.NewPCG(seed, uint64(round*10+side)))
			group.Go(func() {
				for range 8 {
					wish(b, random.IntN(6))
					pause := time.NewTimer(time.Duration(random.IntN(30)) * time.Millisecond)
					<-pause.C
				}
			})
		}
		group.Wait()
		last := round % 3
		switch last {
		case 0:
			b.up("feature-1", map[string]string{"ROUND": fmt.Sprint(round)})
			require.Equal(t, fmt.Sprint(round), b.answer("feature-1").Env["ROUND"])
		case 1:
			wish(b, 0) // there may be none to stop
			_, err := b.Stop(t.Context(), key("feature-1"), control.By{})
			require.NoError(t, err)
			b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
		case 2:
			wish(b, 0)
			_, err := b.Remove(t.Context(), key("feature-1"), control.By{})
			require.NoError(t, err)
			b.until(func() bool {
				_, err := b.Version(t.Context(), key("feature-1"))
				return control.CodeOf(err) == api.CodeNotFound && b.routed("feature-1") == nil
			}, func() string { return "it is still there" })
		}
		want := 0
		if last == 0 {
			want = 1
		}
		b.until(func() bool {
			statuses, err := b.runtime.List(t.Context())
			return err == nil && len(statuses) == want
		}, func() string {
			statuses, _ := b.runtime.List(t.Context())
			return fmt.Sprintf("want %d instances, there are %+v", want, statuses)
		})
	}
	require.False(t, b.hasEvent("feature-1", api.EventOrphanEnded), "what a keeper ends is no orphan")
}

// wish asks for one of several things; that there is no such version is no error here.
func wish(b *bench, what int) {
	ctx := b.t.Context()
	var err error
	switch what {
	case 0:
		_, err = b.Deploy(ctx, key("feature-1"), api.Deployment{})
	case 1:
		_, err = b.Deploy(ctx, key("feature-1"), api.Deployment{Overrides: api.Overrides{Env: map[string]string{"APP_EXIT": "3"}}})
	case 2:
		_, err = b.Deploy(ctx, key("feature-1"), api.Deployment{Overrides: api.Overrides{Env: map[string]string{"APP_LISTEN": "no"}}})
	case 3:
		_, err = b.Stop(ctx, key("feature-1"), control.By{})
	case 4:
		_, err = b.Restart(ctx, key("feature-1"), control.By{})
	case 5:
		_, err = b.Remove(ctx, key("feature-1"), control.By{})
	}
	if control.CodeOf(err) != api.CodeNotFound && err != nil {
		b.t.Error(err)
	}
}
