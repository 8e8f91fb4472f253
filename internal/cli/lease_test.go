package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const sleepyFile = `
environment: sleepy
services:
  pricing:
    health: {path: /healthz, interval: 50ms}
    run: {process: {command: [%q, shop, pricing]}}
    env: {` + asProgram + `: "1"}
    versions: {pr-1: {}}
`

// However many requests come, and through whichever proxy: a version is woken once.
func TestSleepBehindProxiesApart(t *testing.T) {
	dir, program := t.TempDir(), self(t)
	writeFile(t, dir, sleepyFile, program)
	s := startServer(t, dir)
	state := func(want api.State) func() bool {
		return func() bool {
			v, err := s.Version(t.Context(), "pricing", "pr-1")
			return err == nil && v.State == want && (want != api.StateAsleep || len(v.Instances) == 0)
		}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, version := range []string{"main", "pr-1"} {
			_, err := s.Remove(ctx, "pricing", version, "")
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool {
			versions, err := s.Versions(ctx, api.VersionFilter{})
			return err == nil && len(versions) == 0
		}, patience, 5*time.Millisecond)
	}()
	require.Eventually(t, state(api.StateRunning), patience, 5*time.Millisecond)
	var proxies []*proxyProcess
	for _, id := range []string{"edge-1", "edge-2"} {
		proxies = append(proxies, startProxy(t, program, "--server", s.URL(), "--id", id))
	}
	_, err := s.Sleep(t.Context(), "pricing", "pr-1", "")
	require.NoError(t, err)
	require.Eventually(t, state(api.StateAsleep), patience, 5*time.Millisecond)

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	var asking sync.WaitGroup
	failures := make(chan error, 40)
	for i := range cap(failures) {
		asking.Go(func() { failures <- askPricing(client, proxies[i%2].address) })
	}
	asking.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
	after, err := s.Events(t.Context(), api.EventFilter{Service: "pricing", Version: "pr-1", Limit: 1000})
	require.NoError(t, err)
	woken := slices.DeleteFunc(after.Items, func(e api.Event) bool { return e.Type != api.EventVersionWaking })
	require.Len(t, woken, 1)
	require.Contains(t, woken[0].Message, "a request came")
}

// askPricing asks for pr-1 through a proxy.
func askPricing(client *http.Client, proxy string) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+proxy+"/healthz", nil)
	if err != nil {
		return err
	}
	req.Host = "pricing.localhost"
	req.Header.Set("Baggage", "dynamic_route=pr-1")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if by := res.Header.Get("Layover-Served-By"); err == nil && (res.StatusCode != http.StatusNoContent || !strings.HasPrefix(by, "pricing@pr-1;")) {
		err = fmt.Errorf("%s by %s: %s", res.Status, by, text)
	}
	return err
}

func TestFlagsOfLeases(t *testing.T) {
	var d durationFlag
	require.NoError(t, d.Set("3d"))
	require.Equal(t, 72*time.Hour, time.Duration(d))
	require.NoError(t, d.Set("never"))
	require.Equal(t, api.Never, api.Duration(d))
	for _, bad := range []string{"", "0", "-1h", "3 days"} {
		require.Error(t, d.Set(bad), bad)
	}

	var at timeFlag
	require.NoError(t, at.Set("2199-05-01"))
	require.Equal(t, time.Date(2199, 5, 2, 0, 0, 0, 0, time.Local), time.Time(at), "a date is meant with its whole day")
	require.NoError(t, at.Set("2199-05-01 18:30"))
	require.NoError(t, at.Set("2199-05-01T18:30:00+02:00"))
	require.True(t, time.Date(2199, 5, 1, 16, 30, 0, 0, time.UTC).Equal(time.Time(at)))
	for _, bad := range []string{"", "tomorrow", "2001-01-01", "2199-13-01"} {
		require.Error(t, at.Set(bad), bad)
	}
}

func TestDeployAsksForALease(t *testing.T) {
	c := newTerminal(t)
	require.Equal(t, exitOK, c.run(t.Context(), "deploy", "cart@pr-1", "--no-wait", "--ttl", "3d", "--idle-sleep", "30m", "--protect-until", "2199-05-01"), c.err.String())
	d := c.Deployment(control.Key{Service: "cart", Version: "pr-1"})
	require.Equal(t, 72*time.Hour, time.Duration(d.TTL))
	require.Equal(t, 30*time.Minute, time.Duration(d.IdleSleep))
	require.Equal(t, 2199, d.ProtectUntil.Year())

	require.Equal(t, exitOK, c.run(t.Context(), "extend", "cart@pr-1", "--by", "2d"), c.err.String())
	require.Contains(t, c.out.String(), "cart@pr-1 stays until ")
	require.Equal(t, exitOK, c.run(t.Context(), "extend", "cart@pr-1", "--by", "2d", "--json"), c.err.String())
	require.Contains(t, c.out.String(), `"ends_at"`)
	require.Equal(t, exitUsage, c.run(t.Context(), "extend", "cart@pr-1", "--by", "2d", "--until", "2199-05-01"), c.err.String())
	require.Equal(t, exitUsage, c.run(t.Context(), "extend", "cart"), c.err.String())
}
