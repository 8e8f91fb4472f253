package ecstest

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFaultsHitTheirShare(t *testing.T) {
	t.Parallel()
	const calls = 2000
	refused := func(f Faults, service, action string) (throttled, failed int) {
		s := &faultState{set: f}
		s.seed(1)
		for range calls {
			switch err := s.refuse(&request{ctx: t.Context(), service: service, action: action}); {
			case err == nil:
			case err.code == throttling:
				throttled++
			default:
				require.Equal(t, "ServerException", err.code)
				require.Equal(t, http.StatusInternalServerError, err.status)
				failed++
			}
		}
		return throttled, failed
	}
	for _, c := range []struct {
		name, service, action string
		faults                Faults
		throttled, failed     float64
	}{
		{"none", "ecs", "ListTasks", Faults{}, 0, 0},
		{"lists", "ecs", "ListTasks", Faults{Throttle: 0.3}, 0.3, 0},
		{"descriptions", "ecs", "DescribeTasks", Faults{Throttle: 0.3}, 0.3, 0},
		{"not what changes", "ecs", "RunTask", Faults{Throttle: 0.3}, 0, 0},
		{"not other services", "logs", "DescribeLogGroups", Faults{Throttle: 0.3, Fail: 1}, 0, 0},
		{"what is named", "ecs", "RunTask", Faults{Throttle: 1, ThrottleActions: []string{"RunTask"}}, 1, 0},
		{"not what is not", "ecs", "ListTasks", Faults{Throttle: 1, ThrottleActions: []string{"RunTask"}}, 0, 0},
		{"failures", "ecs", "RunTask", Faults{Fail: 0.1}, 0, 0.1},
	} {
		throttled, failed := refused(c.faults, c.service, c.action)
		require.InDelta(t, c.throttled*calls, throttled, 0.05*calls*c.throttled, c.name)
		require.InDelta(t, c.failed*calls, failed, 0.2*calls*c.failed, c.name)
	}
}

func TestQuotaRefills(t *testing.T) {
	t.Parallel()
	_, q := limitOf("ecs", "RegisterTaskDefinition")
	at := time.Unix(0, 0)
	took := func() (n int) {
		for q.take(at) {
			n++
		}
		return n
	}
	require.Equal(t, 20, took(), "the burst")
	at = at.Add(3 * time.Second)
	require.Equal(t, 3, took(), "one a second")
	at = at.Add(time.Hour)
	require.Equal(t, 20, took(), "never more than the burst")
}

func TestLatencyEndsWithTheCall(t *testing.T) {
	t.Parallel()
	s := &faultState{set: Faults{Latency: 30 * time.Millisecond}}
	s.seed(1)
	start := time.Now()
	require.Nil(t, s.refuse(&request{ctx: t.Context(), service: "ecs", action: "ListTasks"}))
	require.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)
}
