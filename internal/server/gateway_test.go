package server_test

import (
	"encoding/json"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server"
)

func table(revision uint64, address string) route.Spec {
	return route.Spec{Revision: revision, Environment: "shop", Services: []route.Service{{Name: "cart", Versions: []route.Version{
		{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "a", Address: address}}},
	}}}}
}

func TestTraefik(t *testing.T) {
	settings := traefik.Settings{Mode: traefik.Hybrid}
	e := newEnv(t, func(o *server.Options) {
		o.Gateway.Traefik = traefik.NewSource(func() traefik.Settings { return settings })
	})
	e.SetTable(table(2, "10.0.0.1:80"))

	p := e.ask(t, http.MethodGet, "/gateway/traefik", "").problem(t)
	require.Equal(t, http.StatusConflict, p.Status)
	require.Contains(t, p.Hint, "gateway.traefik.proxy")
	var report api.GatewayReport
	require.NoError(t, json.Unmarshal([]byte(e.ask(t, http.MethodGet, "/api/v1/gateway/traefik", "").body), &report))
	require.Len(t, report.Problems, 1)
	require.Contains(t, report.Problems[0], "no address of a Layover proxy")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	settings.Proxies = []string{"http://" + l.Addr().String()}
	first := e.ask(t, http.MethodGet, "/gateway/traefik", "")
	require.Equal(t, http.StatusOK, first.StatusCode)
	etag := first.Header.Get("ETag")
	config, err := traefik.Parse([]byte(first.body))
	require.NoError(t, err)
	require.Len(t, config.HTTP.Routers, 3)

	e.SetTable(table(3, "10.0.0.1:80")) // nothing that Traefik would see
	again := e.ask(t, http.MethodGet, "/gateway/traefik", "", "If-None-Match: "+etag)
	require.Equal(t, http.StatusNotModified, again.StatusCode)
	require.Empty(t, again.body)
	e.SetTable(table(4, "10.0.0.2:80"))
	changed := e.ask(t, http.MethodGet, "/gateway/traefik", "", "If-None-Match: "+etag)
	require.Equal(t, http.StatusOK, changed.StatusCode)
	require.Contains(t, changed.body, "http://10.0.0.2:80")
	settings.EntryPoints = []string{"websecure"}
	require.Contains(t, e.ask(t, http.MethodGet, "/gateway/traefik", "").body, "websecure", "other settings, on the same table")

	report = api.GatewayReport{}
	require.NoError(t, json.Unmarshal([]byte(e.ask(t, http.MethodGet, "/api/v1/gateway/traefik", "").body), &report))
	require.Empty(t, report.Problems)
	require.Equal(t, 3, report.Routers)
	require.NotEmpty(t, report.Lines)
	require.Len(t, report.Askers, 1, "what has no Accept is Traefik's provider")
	require.Equal(t, "127.0.0.1", report.Askers[0].From)
	require.NoError(t, l.Close())
	require.NoError(t, json.Unmarshal([]byte(e.ask(t, http.MethodGet, "/api/v1/gateway/traefik", "").body), &report))
	require.Len(t, report.Problems, 1)
	require.Contains(t, report.Problems[0], "no connection to Layover's proxy")
}

// Traefik that asks no more goes on with an old configuration.
func TestTraefikAsksNoMore(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	source := traefik.NewSource(func() traefik.Settings {
		return traefik.Settings{Mode: traefik.Hybrid, Proxies: []string{"http://" + l.Addr().String()}}
	})
	e := newEnv(t, func(o *server.Options) { o.Gateway.Traefik = source })
	e.SetTable(table(2, "10.0.0.1:80"))
	e.ask(t, http.MethodGet, "/gateway/traefik", "", "Accept: */*")
	report := func() (r api.GatewayReport) {
		require.NoError(t, json.Unmarshal([]byte(e.ask(t, http.MethodGet, "/api/v1/gateway/traefik", "").body), &r))
		return r
	}
	require.Empty(t, report().Askers, "a person with curl")
	now := time.Now()
	for _, ago := range []time.Duration{195, 190, 185} {
		source.Askers.Asked("10.0.0.3", now.Add(-ago*time.Second), true)
	}
	r := report()
	require.Len(t, r.Problems, 1)
	require.Contains(t, r.Problems[0], "Traefik at 10.0.0.3 has not asked for the configuration for 3m, and did every 5s before: see whether it runs")
	require.True(t, r.Askers[0].Late)
	source.Askers.Asked("10.0.0.4", now, true)
	require.Empty(t, report().Problems, "one of several may have gone for good")
	require.Equal(t, "shop", report().Environment)
}

func TestTraefikIsOff(t *testing.T) {
	e := newEnv(t)
	for _, path := range []string{"/gateway/traefik", "/api/v1/gateway/traefik"} {
		p := e.ask(t, http.MethodGet, path, "").problem(t)
		require.Equal(t, http.StatusNotFound, p.Status)
		require.Contains(t, p.Hint, "gateway.traefik.mode")
	}
}
