package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// everyCall does each call of the runtime once.
func everyCall(r *Runtime) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"start": func(ctx context.Context) error {
			_, err := r.Start(ctx, workload("cart-1", "cart:1"), nil)
			return err
		},
		"stop": func(ctx context.Context) error { return r.Stop(ctx, "cart-1", time.Second) },
		"list": func(ctx context.Context) error {
			_, err := r.List(ctx)
			return err
		},
		"watch": func(ctx context.Context) error { return r.Watch(ctx, func(control.Status) {}) },
		"logs": func(ctx context.Context) error {
			_, err := r.Logs(ctx, "cart-1", control.LogOptions{})
			return err
		},
		"gateway": func(ctx context.Context) error {
			_, err := r.Gateway(ctx)
			return err
		},
	}
}

func TestEngineIsNotThere(t *testing.T) {
	r, err := New(Options{Environment: "dev", Host: "unix://" + filepath.Join(t.TempDir(), "docker.sock")})
	require.NoError(t, err)
	for name, call := range everyCall(r) {
		t.Run(name, func(t *testing.T) {
			known := userError(t, call(t.Context()))
			require.Equal(t, api.CodeUnavailable, known.Code)
			require.Contains(t, known.Message, "Docker does not answer at unix://")
			require.Contains(t, known.Hint, "start Docker")
		})
	}
}

func TestEngineSocketIsNotOurs(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Run("as its error reads", func(t *testing.T) {
			r, err := New(Options{Environment: "dev", Host: "unix:///nonexistent"})
			require.NoError(t, err)
			r.engine = engineThatFailsWith(t, &net.OpError{Op: "dial", Net: "unix", Err: os.ErrPermission})
			_, err = r.List(t.Context())
			require.Contains(t, userError(t, err).Hint, "usermod -aG docker")
		})
		return // root may use every socket
	}
	path := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer listener.Close() //nolint:errcheck // nothing follows from it
	require.NoError(t, os.Chmod(path, 0))
	r, err := New(Options{Environment: "dev", Host: "unix://" + path})
	require.NoError(t, err)
	_, err = r.List(t.Context())
	require.Contains(t, userError(t, err).Hint, "usermod -aG docker")
}

func TestEngineHangs(t *testing.T) {
	r, err := New(Options{Environment: "dev", Host: "unix://" + silentSocket(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	for name, call := range everyCall(r) {
		t.Run(name+" until its context ends", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began := time.Now()
			err := call(ctx)
			require.Less(t, time.Since(began), 10*time.Second)
			if name != "watch" { // whose end is no error
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
		})
	}
	r.queryTimeout = 50 * time.Millisecond
	for name, call := range everyCall(r) {
		t.Run(name+" without a context that ends", func(t *testing.T) {
			known := userError(t, call(t.Context()))
			require.Equal(t, api.CodeUnavailable, known.Code)
			require.Contains(t, known.Message, "does not answer")
		})
	}
}

func TestEndpoint(t *testing.T) {
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("DOCKER_CONTEXT", "")
	dir := dockerConfig(t, `{"currentContext":"desktop"}`)
	writeContext := func(name, meta string) {
		sum := sha256.Sum256([]byte(name))
		folder := filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]))
		require.NoError(t, os.MkdirAll(folder, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "meta.json"), []byte(meta), 0o600))
	}
	writeContext("desktop", `{"Name":"desktop","Endpoints":{"docker":{"Host":"unix:///desktop.sock"}}}`)
	writeContext("remote", `{"Name":"remote","Endpoints":{"docker":{"Host":"ssh://me@box"}}}`)
	for name, test := range map[string]struct {
		host    string
		env     map[string]string
		want    string
		wantErr string
	}{
		"option":              {host: "unix:///option.sock", env: map[string]string{"DOCKER_HOST": "unix:///env.sock"}, want: "unix:///option.sock"},
		"DOCKER_HOST":         {env: map[string]string{"DOCKER_HOST": "unix:///env.sock", "DOCKER_CONTEXT": "desktop"}, want: "unix:///env.sock"},
		"current context":     {want: "unix:///desktop.sock"},
		"default context":     {env: map[string]string{"DOCKER_CONTEXT": "default"}, want: "unix:///var/run/docker.sock"},
		"unknown context":     {env: map[string]string{"DOCKER_CONTEXT": "absent"}, wantErr: `Docker context "absent" cannot be read`},
		"context over ssh":    {env: map[string]string{"DOCKER_CONTEXT": "remote"}, wantErr: "over ssh (ssh://me@box) is not supported"},
		"DOCKER_HOST ssh":     {env: map[string]string{"DOCKER_HOST": "ssh://me@box"}, wantErr: "is not supported"},
		"DOCKER_HOST garbage": {env: map[string]string{"DOCKER_HOST": "garbage"}, wantErr: "the address of Docker cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.env {
				t.Setenv(key, value)
			}
			r, err := New(Options{Environment: "dev", Host: test.host})
			require.NoError(t, err, "configuration that cannot be used must not stop a server that runs no containers")
			if test.wantErr != "" {
				_, err := r.List(t.Context())
				known := userError(t, err)
				require.Equal(t, api.CodeUnavailable, known.Code)
				require.Contains(t, known.Message, test.wantErr)
				require.NotEmpty(t, known.Hint)
				return
			}
			require.Equal(t, test.want, r.engine.DaemonHost())
		})
	}
}
