package cli

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/proxy"
)

// TestProxyOptions_Defaults holds that the file and the proxy have the same defaults.
func TestProxyOptions_Defaults(t *testing.T) {
	o := proxyOptions(config.Default(), nil)
	require.Equal(t, proxy.Health{
		ConnectFailures: proxy.DefaultConnectFailures, ServerErrors: -1,
		FirstPause: proxy.DefaultFirstPause, LongestPause: proxy.DefaultLongestPause,
	}, o.Health)
	require.Equal(t, proxy.Concurrency{PerVersion: proxy.DefaultRequestsPerVersion, Queue: proxy.DefaultQueue, Wait: proxy.DefaultQueueWait}, o.Concurrency)
	require.Equal(t, proxy.Connections{All: proxy.DefaultConnections, PerClient: proxy.DefaultConnectionsPerClient}, o.Connections)
	require.Equal(t, proxy.BodyRate{BytesPerSecond: proxy.DefaultBodyRate, Grace: proxy.DefaultBodyGrace}, o.BodyRate)
	require.Equal(t, proxy.HeaderLimits{Bytes: proxy.DefaultHeaderBytes, Fields: proxy.DefaultHeaderFields, Memory: proxy.DefaultHeaderMemory}, o.Header)
	require.Equal(t, proxy.DefaultHeaderTimeout, o.HeaderTimeout)
	require.Equal(t, proxy.DefaultIdleTimeout, o.IdleTimeout)
}

func TestEnvironment_WritesTheAccessLog(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, config.FileName)
	require.NoError(t, os.WriteFile(name, []byte(`
proxy:
  listen: 127.0.0.1:0
  access_log: {file: access.log, format: logfmt}
server: {listen: "127.0.0.1:0"}
`), 0o600))
	file, err := config.Load(name)
	require.NoError(t, err)
	env, err := openEnvironment(t.Context(), file, filepath.Join(dir, "data"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, env.close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	require.NoError(t, env.run(ctx, func(context.Context) error {
		defer cancel()
		res, err := http.Get(env.proxyURL() + "/path")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		return res.Body.Close()
	}))
	text, err := os.ReadFile(filepath.Join(dir, "access.log"))
	require.NoError(t, err)
	require.Contains(t, string(text), "path=/path status=404 error=unknown-host")
}
