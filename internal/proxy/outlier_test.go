package proxy

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOutlier_PausesGrowAndOneAnswerResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutliers(Health{ConnectFailures: 3, FirstPause: time.Second, LongestPause: 5 * time.Second})
		var one outlier
		o.unreachable(&one)
		o.unreachable(&one)
		o.answered(&one, http.StatusOK, time.Now())
		o.unreachable(&one)
		o.unreachable(&one)
		require.False(t, o.out(&one), "an answer in between: not in a row")
		o.unreachable(&one)
		require.True(t, o.out(&one))

		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			o.unreachable(&one)
			o.answered(&one, http.StatusOK, time.Now()) // both sent before the pause
			time.Sleep(pause - time.Nanosecond)
			require.True(t, o.out(&one), pause)
			time.Sleep(pause/4 + 2)
			require.False(t, o.out(&one), pause)
			o.unreachable(&one) // one is enough now
			require.True(t, o.out(&one), pause)
		}

		time.Sleep(10 * time.Second)
		o.answered(&one, http.StatusInternalServerError, time.Now()) // an answer all the same
		o.unreachable(&one)
		o.unreachable(&one)
		require.False(t, o.out(&one), "everything begins anew")
		o.unreachable(&one)
		require.True(t, o.out(&one))
		time.Sleep(time.Nanosecond)
		o.answered(&one, http.StatusOK, time.Now())
		require.False(t, o.out(&one), "asked during the pause, as all others were out too, and well again")
	})
}

func TestOutlier_ServerErrorsWhereAsked(t *testing.T) {
	asked, not := newOutliers(Health{ServerErrors: 2}), newOutliers(Health{ConnectFailures: -1})
	var one, other outlier
	for range 10 {
		not.answered(&other, http.StatusBadGateway, time.Now())
		not.unreachable(&other)
	}
	require.False(t, not.out(&other))

	asked.answered(&one, http.StatusServiceUnavailable, time.Now())
	asked.answered(&one, http.StatusNotFound, time.Now())
	asked.answered(&one, http.StatusInternalServerError, time.Now())
	require.False(t, asked.out(&one))
	asked.answered(&one, http.StatusNotImplemented, time.Now())
	require.True(t, asked.out(&one))
}

func TestOutlier_GoodAnswersCostNothing(t *testing.T) {
	o := newOutliers(Health{})
	var one outlier
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if o.out(&one) {
			t.Error("out")
		}
		o.answered(&one, http.StatusOK, time.Now())
	}))
}

func TestProxy_TakesOutWhatCannotBeReached(t *testing.T) {
	good, dead := says(t, "good"), deadAddress(t)
	version := ready("main", good, dead)
	w := newWorld(t, Options{Health: Health{ConnectFailures: 2}}, service("cart", version))
	for range 20 {
		require.Equal(t, "good", w.get(t, "cart.localhost", "/").text)
	}
	require.Equal(t, 1, w.Ejected())
	require.True(t, w.outliers.out(&w.flights.of(nil, version.Instances[1].ID).outlier))

	w.set(t, service("cart", ready("main", good, dead)), service("other"))
	require.Equal(t, 1, w.Ejected(), "a new table forgets nothing of the same instance")
	w.set(t, service("cart", ready("main", good)))
	require.Zero(t, w.Ejected())
}

func TestProxy_NeverTakesOutTheLast(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	flaky := func() string {
		return instance(t, func(w http.ResponseWriter, _ *http.Request) {
			if broken.Load() {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
	}
	w := newWorld(t, Options{Health: Health{ServerErrors: 1}}, service("cart", ready("main", flaky(), flaky())),
		service("single", ready("main", flaky())))
	for _, host := range []string{"cart.localhost", "single.localhost"} {
		for range 4 {
			require.Equal(t, http.StatusInternalServerError, w.get(t, host, "/").StatusCode)
		}
	}
	require.Equal(t, 3, w.Ejected())
	broken.Store(false)
	for range 4 {
		require.Equal(t, http.StatusOK, w.get(t, "cart.localhost", "/").StatusCode)
		require.Equal(t, http.StatusOK, w.get(t, "single.localhost", "/").StatusCode)
	}
}
