package cli

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestIdentityOutlivesARename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	first, err := readIdentity(path, "shop")
	require.NoError(t, err)
	require.Regexp(t, `^shop-[0-9a-f]{8}$`, first)
	again, err := readIdentity(path, "renamed")
	require.NoError(t, err)
	require.Equal(t, first, again, "its instances are found again")

	other, err := readIdentity(filepath.Join(t.TempDir(), "id"), "shop")
	require.NoError(t, err)
	require.NotEqual(t, first, other)
}

func TestIdentityOfACutShortFileIsMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	identity, err := readIdentity(path, "shop")
	require.NoError(t, err)
	require.Regexp(t, `^shop-[0-9a-f]{8}$`, identity)
}

// TestUp_LastWords: what instances write while `layover up` ends is sent.
func TestUp_LastWords(t *testing.T) {
	sink := sendsTelemetry(t)
	dir := t.TempDir()
	writeFile(t, dir, `environment: dev
services:
  cart:
    run:
      process:
        command: [sh, -c, "trap 'echo its-last-words; exit 0' TERM; echo it-runs; while :; do sleep 0.05; done"]
`)
	app := newApp(nil, &lockedBuffer{}, &lockedBuffer{}, append(os.Environ(), "LAYOVER_SERVER_LISTEN=127.0.0.1:0", "LAYOVER_PROXY_LISTEN=127.0.0.1:0"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() { code <- execute(ctx, app, []string{"up", "-f", filepath.Join(dir, "layover.yaml")}) }()
	require.Eventually(t, sink.has("it-runs"), patience, 5*time.Millisecond)
	cancel()
	<-code
	require.True(t, sink.has("its-last-words")())
}
