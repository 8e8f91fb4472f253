package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/gateway/redis/redistest"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/server/servertest"
)

const gatewayFile = `
environment: edge
gateway:
  traefik:
    mode: full
services:
  cart:
    health: {kind: tcp, interval: 1h}
    run:
      external: {url: "http://%s"}
    versions:
      feature-1: {url: "http://%s"}
      sleepy: {url: "http://%s", ttl: 72h}
`

// run runs a command against the server, and returns its exit code and what it wrote.
func (s *runningServer) run(t *testing.T, stdin string, args ...string) (code int, out, said string) {
	t.Helper()
	var o, e bytes.Buffer
	app := newApp(strings.NewReader(stdin), &o, &e, []string{"LAYOVER_SERVER=" + s.URL()})
	code = execute(t.Context(), app, args)
	return code, o.String(), e.String()
}

// The whole of it on a real server: the configuration by HTTP and in Redis, the check, and the comparison.
func TestGateway(t *testing.T) {
	dir, main, feature, sleepy := t.TempDir(), listenTCP(t), listenTCP(t), listenTCP(t)
	writeFile(t, dir, gatewayFile, main, feature, sleepy)
	proxy := listenTCP(t)
	environ := []string{"LAYOVER_GATEWAY_TRAEFIK_PROXY=http://" + proxy}
	redis, err := redistest.Start(t.TempDir())
	if !errors.Is(err, redistest.ErrMissing) {
		require.NoError(t, err)
		t.Cleanup(redis.Stop)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "redis.secret"), []byte(redistest.Password+"\n"), 0o600))
		environ = append(environ, "LAYOVER_GATEWAY_TRAEFIK_REDIS_ADDRESS="+redis.Address, "LAYOVER_GATEWAY_TRAEFIK_REDIS_PASSWORD_FILE=redis.secret")
	}
	s := startServer(t, dir, environ...)
	s.table(t, func(table *route.Table) bool {
		cart := table.Service("cart")
		return ready(table) && cart.Version("feature-1") != nil && cart.Version("feature-1").State == route.Ready &&
			cart.Version("sleepy") != nil && cart.Version("sleepy").State == route.Ready
	})

	code, out, _ := s.run(t, "", "gateway", "show")
	require.Equal(t, exitOK, code)
	config, err := traefik.Parse([]byte(out))
	require.NoError(t, err)
	require.Equal(t, []traefik.Server{{URL: "http://" + feature}}, config.HTTP.Services["layover--edge--cart--instances--feature-1"].LoadBalancer.Servers)
	require.NotContains(t, config.HTTP.Routers, "layover--edge--cart--version--sleepy", "its activity has to be seen")

	code, out, said := s.run(t, "", "gateway", "check")
	require.Equal(t, exitOK, code, said)
	require.Contains(t, out, "proxy\tversions with idle_sleep or ttl\t1 of them")
	require.Contains(t, out, "nowhere\tlong baggage")
	checkRunningTraefik(t, s, config)

	code, _, said = s.run(t, "", "gateway", "diff", "cart.localhost", "--route", "feature-1")
	require.Equal(t, exitOK, code, said)
	require.Contains(t, said, "1 requests: 1 answered by Traefik itself, 0 by way of")
	code, out, _ = s.run(t, "", "gateway", "diff", "cart.localhost", "-H", "baggage: k="+strings.Repeat("v", 8200)+",dynamic_route=feature-1")
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "Layover sends it to cart@main, and Traefik to cart@feature-1")
	require.Contains(t, out, "8,192 bytes")

	recorded := `{"url":"cart.localhost/a","route":"feature-1~x"}
{"host":"cart.localhost:80","path":"/","route":"feature-1","by":"cookie"}
{"RequestHost":"cart.localhost","RequestAddr":"cart.localhost:80","RequestPath":"/?q","ServiceAddr":"` + main + `","ServiceName":"cart@docker","request_Baggage":"dynamic_route=main"}
{"RequestHost":"cart.localhost","RequestPath":"/","ServiceAddr":"` + main + `","ServiceName":"cart@docker","request_Baggage":"dynamic_route=feature-1"}
{"url":"elsewhere.test"}
{"RequestHost":"cart.localhost","RequestPath":"/","ServiceAddr":"` + proxy + `","request_Baggage":"dynamic_route=feature-1~x"}
`
	code, out, said = s.run(t, recorded, "gateway", "diff", "--file", "-")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "line 4, cart.localhost/: Traefik sent it to "+main+" (cart@docker), and Layover decides for cart@feature-1\n", out)
	require.Contains(t, said, "6 requests: 2 answered by Traefik itself, 3 by way of Layover's proxy, 1 of other hosts; 1 differ")
	for _, bad := range []string{"", "{}", "x", `{"url":":"}`} {
		code, _, _ = s.run(t, bad, "gateway", "diff", "--file", "-")
		require.Equal(t, exitUsage, code, bad)
	}
	if redis == nil {
		t.Skip("the configuration in Redis: " + redistest.ErrMissing.Error())
	}
	inRedis := func() bool {
		data, err := s.TraefikConfig(t.Context())
		require.NoError(t, err)
		config, err := traefik.Parse(data)
		require.NoError(t, err)
		found, err := redis.Keys("traefik/*")
		require.NoError(t, err)
		return maps.Equal(found, config.Pairs("traefik"))
	}
	require.Eventually(t, inRedis, 10*time.Second, 10*time.Millisecond)
	_, err = s.Stop(t.Context(), "cart", "feature-1", "")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		found, err := redis.Keys("traefik/*feature-1*")
		require.NoError(t, err)
		return len(found) == 0 && inRedis()
	}, 10*time.Second, 10*time.Millisecond)
	require.NotContains(t, s.said.String(), redistest.Password)
}

// checkRunningTraefik asks one, as Traefik's API answers, with and without what is wrong.
func checkRunningTraefik(t *testing.T, s *runningServer, config *traefik.Config) {
	t.Helper()
	var foreign atomic.Bool
	list := func(w http.ResponseWriter, items []map[string]any) {
		w.Header().Set("X-Next-Page", "1")
		_ = json.NewEncoder(w).Encode(items)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/version", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Version":"3.6.12"}`)) })
	mux.HandleFunc("/api/overview", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"providers":["HTTP"]}`)) })
	mux.HandleFunc("/api/entrypoints", func(w http.ResponseWriter, _ *http.Request) { list(w, []map[string]any{{"name": "web"}}) })
	mux.HandleFunc("/api/http/routers", func(w http.ResponseWriter, _ *http.Request) {
		items := []map[string]any{}
		for name, r := range config.HTTP.Routers {
			items = append(items, map[string]any{"name": name + "@http", "provider": "http", "service": r.Service, "rule": r.Rule, "priority": r.Priority, "status": "enabled", "entryPoints": []string{"web"}})
		}
		if foreign.Load() {
			items = append(items, map[string]any{"name": "cart@docker", "provider": "docker", "rule": "Host(`cart.localhost`)", "priority": 9_000_000, "status": "enabled", "entryPoints": []string{"web"}})
		}
		list(w, items)
	})
	mux.HandleFunc("/api/http/services", func(w http.ResponseWriter, _ *http.Request) {
		items := []map[string]any{}
		for name, s := range config.HTTP.Services {
			items = append(items, map[string]any{"name": name + "@http", "provider": "http", "status": "enabled", "loadBalancer": s.LoadBalancer})
		}
		list(w, items)
	})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ops" || password != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	defer api.Close()
	known := strings.Replace(api.URL, "http://", "http://ops:s3cret@", 1)

	code, _, said := s.run(t, "", "gateway", "check", "--traefik", known)
	require.Equal(t, exitOK, code, said)
	require.Contains(t, said, fmt.Sprintf("Traefik 3.6.12 at %s: %d of %[2]d routers, from its provider http; the newest configuration\n", api.URL, len(config.HTTP.Routers)))
	foreign.Store(true)
	var out, errs bytes.Buffer
	app := newApp(nil, &out, &errs, []string{"LAYOVER_SERVER=" + s.URL(), "LAYOVER_TRAEFIK=" + known + "," + api.URL})
	require.Equal(t, exitFailed, execute(t.Context(), app, []string{"gateway", "check", "--json"}))
	var check gatewayCheck
	require.NoError(t, json.Unmarshal(out.Bytes(), &check))
	require.Len(t, check.Problems, 2)
	require.Contains(t, check.Problems[0], "at "+api.URL+": the router cart@docker (provider docker, priority 9000000) goes before Layover's router")
	require.Contains(t, check.Problems[1], "lets nobody in")
	require.Len(t, check.Traefik, 2)
	require.True(t, check.Traefik[0].Newest)
	require.NotContains(t, out.String()+errs.String()+said, "s3cret")

	code, _, said = s.run(t, "", "gateway", "check", "--traefik", "ops:s3cret@traefik")
	require.Equal(t, exitUsage, code)
	require.Contains(t, said, "http://traefik.internal:8080")
	require.NotContains(t, said, "s3cret")
}

// Redis that cannot be written is told once, and once that it can be again.
func TestGatewayTellsOfRedis(t *testing.T) {
	redis, err := redistest.Start(t.TempDir())
	if errors.Is(err, redistest.ErrMissing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(redis.Stop)
	dir := t.TempDir()
	writeFile(t, dir, gatewayFile, listenTCP(t), listenTCP(t), listenTCP(t))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "redis.secret"), []byte(redistest.Password), 0o600))
	environ := []string{
		"LAYOVER_GATEWAY_TRAEFIK_PROXY=http://" + listenTCP(t), "LAYOVER_GATEWAY_TRAEFIK_REDIS_ADDRESS=" + redis.Address, "LAYOVER_GATEWAY_TRAEFIK_REDIS_PASSWORD_FILE=redis.secret",
	}
	s := startServer(t, dir, environ...)
	told := func() (types []api.EventType) {
		list, err := s.Events(t.Context(), api.EventFilter{Limit: 1000})
		require.NoError(t, err)
		for _, e := range list.Items {
			if e.Type.Matches("gateway.*") {
				types = append(types, e.Type)
				require.Contains(t, e.Message, redis.Address)
			}
		}
		return types
	}
	becomes := func(want ...api.EventType) {
		t.Helper()
		require.Eventually(t, func() bool { return slices.Equal(told(), want) }, 40*time.Second, 20*time.Millisecond)
	}
	require.Eventually(t, func() bool {
		r, err := s.TraefikReport(t.Context())
		return err == nil && r.Redis != nil && r.Redis.Written
	}, 20*time.Second, 10*time.Millisecond)
	require.Empty(t, told())
	redis.Stop()
	becomes(api.EventGatewayBroken)
	code, _, said := s.run(t, "", "gateway", "check")
	require.Equal(t, exitFailed, code)
	require.Regexp(t, "problem: the configuration is not written to Redis at "+redis.Address+", for [0-9]+s now: .*; Traefik goes on with the one it has", said)
	code, _, said = s.run(t, "", "gateway", "show")
	require.Equal(t, exitOK, code)
	require.Contains(t, said, "problem: the configuration is not written to Redis")

	// A server that takes over knows what was told.
	require.Equal(t, exitOK, s.end())
	s = startServer(t, dir, environ...)
	require.NoError(t, redis.Restart())
	becomes(api.EventGatewayBroken, api.EventGatewayMended)
	require.NotContains(t, s.said.String(), redistest.Password)
}

func TestGatewayCheckFails(t *testing.T) {
	c := newTerminal(t)
	require.Equal(t, exitUsage, c.run(t.Context(), "gateway", "check"), "it is off")
	require.Contains(t, c.err.String(), "gateway.traefik.mode")
	require.Equal(t, exitUsage, c.run(t.Context(), "gateway", "diff"))

	// A proxy that nobody answers at.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	control := servertest.New()
	s, err := server.New(server.Options{Control: control, Gateway: server.Gateway{Traefik: traefik.NewSource(func() traefik.Settings {
		return traefik.Settings{Mode: traefik.Hybrid, Proxies: []string{"http://" + l.Addr().String()}}
	})}})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: s.Handler()}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	defer func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	}()
	c.app.Server = "http://" + listener.Addr().String()
	require.Equal(t, exitFailed, c.run(t.Context(), "gateway", "check"))
	require.Contains(t, c.err.String(), "problem: no connection to Layover's proxy at http://"+l.Addr().String())
	require.Equal(t, exitFailed, c.run(t.Context(), "gateway", "check", "--json"))
	var report api.GatewayReport
	require.NoError(t, json.Unmarshal(c.out.Bytes(), &report))
	require.Len(t, report.Problems, 1)
}
