package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/proxy"
)

func TestOTLPHeaders(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "otlp.headers"), []byte(text), 0o600))
	}
	parse := func(settings string) *config.File {
		f, err := config.Parse(filepath.Join(dir, "layover.yaml"), []byte("telemetry: {otlp: {endpoint: 'http://127.0.0.1:4317', "+settings+"}}\n"))
		require.NoError(t, err)
		return f
	}
	env := map[string]string{"KEYS": "api-key=s3cret%3D,X-Team=web", "BAD": "s3cret"}
	getenv := func(name string) string { return env[name] }

	headers, err := otlpHeaders(parse("headers_env: KEYS"), getenv)
	require.NoError(t, err)
	got, err := headers()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"api-key": "s3cret=", "x-team": "web"}, got)

	write("# of the vendor\nApi-Key: s3cret:1\n\nauthorization: Basic eA==\n")
	headers, err = otlpHeaders(parse("headers_file: otlp.headers"), getenv)
	require.NoError(t, err)
	got, err = headers()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"api-key": "s3cret:1", "authorization": "Basic eA=="}, got)
	write("api-key: another")
	got, err = headers()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"api-key": "another"}, got, "a key that is replaced counts")

	for settings, says := range map[string]string{
		"headers_env: NONE": "NONE", "headers_env: BAD": "BAD: header 1 is not name=value", "headers_file: none": "none",
	} {
		_, err := openExporter(parse(settings), getenv, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "s3cret")
	}
	write("api-key s3cret")
	_, err = openExporter(parse("headers_file: otlp.headers"), getenv, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "line 1 is not name: value")
	require.NotContains(t, err.Error(), "s3cret")

	exporter, err := openExporter(config.Default(), getenv, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Nil(t, exporter)
}

func TestSpansAreMadeWhereTheyGoSomewhere(t *testing.T) {
	file := config.Default()
	file.Telemetry.OTLP.Endpoint = "http://127.0.0.1:4317"
	file.Telemetry.Traces.Untrusted = true
	file.Telemetry.Traces.Routes = []config.TracedRoute{{Route: "load-*", Sample: 0.25}}
	exporter, err := openExporter(file, os.Getenv, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	var options proxy.Options
	require.NotNil(t, openSpans(file, exporter, tellerOf(file, "layover-proxy", "up"), &options))
	require.InDelta(t, 0.25, options.Sample("load-1"), 0)
	require.True(t, options.FollowUntrusted)
	require.InDelta(t, 1.0, options.Sample("feature-1"), 0)
	require.InDelta(t, 0.01, options.Sample(""), 0)

	file.Telemetry.OTLP.Signals, options = []string{"logs"}, proxy.Options{}
	require.Nil(t, openSpans(file, exporter, tellerOf(file, "layover-proxy", "up"), &options))
	require.Nil(t, options.Sample, "traceparent fields go on as they come")
}

func TestReceiptList(t *testing.T) {
	node := func(id string, calls ...api.ReceiptNode) api.ReceiptNode {
		service, version, _ := strings.Cut(id, "@")
		return api.ReceiptNode{Hop: api.Hop{Service: service, Version: version, By: "default", Status: 200}, Calls: calls}
	}
	r := api.Receipt{Hops: 3, Roots: []api.ReceiptNode{node("cart@main", node("pricing@main")), node("inventory@main")}}
	r.Roots[0].Route, r.Roots[0].Fallback, r.Roots[1].Lost = "a b", "default", "pr-1"
	asked := 0
	find := receipts(func(_ context.Context, trace string) (api.Receipt, error) {
		require.Equal(t, proxy.TraceID{1}.String(), trace)
		switch asked++; asked {
		case 1:
			return api.Receipt{}, errors.New("not yet")
		case 2:
			return api.Receipt{Hops: 1, Roots: r.Roots[1:]}, nil
		}
		return r, nil
	})
	require.Equal(t, "cart@main; route=a%20b; by=default; fallback=default; depth=1; status=200, pricing@main; by=default; depth=2; status=200, "+
		"inventory@main; by=default; lost=pr-1; depth=1; status=200", find.list(t.Context(), proxy.TraceID{1}))

	many := api.Receipt{Hops: 1000}
	for n := range 1000 {
		many.Roots = append(many.Roots, node(fmt.Sprintf("service-%d@main", n)))
	}
	text := listReceipt(many)
	require.Less(t, len(text), receiptBytes+200)
	require.Regexp(t, `, more=[0-9]+$`, text)
	require.Empty(t, listReceipt(api.Receipt{}))
}

// TestTelemetryEndsWithItsExporter: an exporter that cannot send ends the parts at once. Otherwise it goes on until they have ended.
func TestTelemetryEndsWithItsExporter(t *testing.T) {
	part := func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}
	broken := errors.New("no such target")
	err := runTelemetry(t.Context(), func(context.Context) error { return broken }, part)
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, broken.Error(), "it is told once")

	failed := errors.New("the port is in use")
	var open atomic.Bool
	exporter := func(ctx context.Context) error {
		<-ctx.Done()
		require.False(t, open.Load(), "what a part hands over at its end is sent")
		return nil
	}
	last := func(ctx context.Context) error {
		open.Store(true)
		<-ctx.Done()
		open.Store(false)
		return nil
	}
	require.ErrorIs(t, runTelemetry(t.Context(), exporter, last, func(context.Context) error { return failed }), failed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, runTelemetry(ctx, exporter, last))
}
