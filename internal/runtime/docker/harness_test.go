package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireEngine returns a client of a Docker Engine that answers, or skips the test.
func requireEngine(t *testing.T) *client.Client {
	t.Helper()
	engine, unusable, err := connect("")
	require.NoError(t, err)
	require.NoError(t, unusable)
	t.Cleanup(func() { _ = engine.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		t.Skipf("left out: %s needs a Docker Engine, and none answers: %v", t.Name(), err)
	}
	return engine
}

// newRuntime returns a runtime over an environment of its own, which is empty
// again when the test ends.
func newRuntime(t *testing.T, engine *client.Client, opts Options) *Runtime {
	t.Helper()
	if opts.Environment == "" {
		opts.Environment = "test-" + strings.ToLower(rand.Text()[:8])
	}
	r, err := New(opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.Background()
		found, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: r.filter()})
		require.NoError(t, err)
		for _, c := range found.Items {
			require.NoError(t, r.remove(ctx, c.ID))
		}
		require.NoError(t, r.Close())
	})
	return r
}

var buildApp = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "layover-docker-test")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	target := filepath.Join(dir, "app")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", target, "./testdata/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the test application: %w\n%s", err, out)
	}
	return os.ReadFile(target)
})

// newImage makes an image of the test application and nothing else, under a name
// of its own, and returns the name. It is removed when the test ends.
func newImage(t *testing.T, engine *client.Client, changes ...string) string {
	t.Helper()
	binary, err := buildApp()
	require.NoError(t, err)
	if changes == nil {
		changes = []string{`ENTRYPOINT ["/app"]`}
	}
	return importImage(t, engine, binary, changes...)
}

// importImage makes an image of a static program, as /app, and nothing else.
func importImage(t *testing.T, engine *client.Client, binary []byte, changes ...string) string {
	t.Helper()
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	add := func(name string, mode int64, content []byte) {
		require.NoError(t, out.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)}))
		_, err := out.Write(content)
		require.NoError(t, err)
	}
	add("app", 0o755, binary)
	add("notes.txt", 0o644, []byte("no program"))
	require.NoError(t, out.Close())

	name := "layover-test-" + strings.ToLower(rand.Text()[:8]) + ":v1"
	result, err := engine.ImageImport(t.Context(), client.ImageImportSource{Source: &layer, SourceName: "-"}, name,
		client.ImageImportOptions{Changes: changes})
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, result)
	require.NoError(t, err)
	require.NoError(t, result.Close())
	t.Cleanup(func() { removeImage(t, engine, name) })
	return name
}

// removeImage removes an image and the containers that were made of it.
func removeImage(t *testing.T, engine *client.Client, name string) {
	t.Helper()
	left, err := engine.ContainerList(context.Background(), client.ContainerListOptions{
		All: true, Filters: client.Filters{}.Add("ancestor", name),
	})
	require.NoError(t, err)
	for _, c := range left.Items {
		_, err := engine.ContainerRemove(context.Background(), c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		require.NoError(t, err)
	}
	_, err = engine.ImageRemove(context.Background(), name, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	if !cerrdefs.IsNotFound(err) {
		require.NoError(t, err)
	}
}

func workload(id, image string, command ...string) control.Workload {
	return control.Workload{
		ID: id, Environment: "test", Service: "cart", Version: "feature-1", Generation: 3,
		Run: api.Run{Docker: &api.Docker{Image: image, Command: command}},
	}
}

// eventually polls until check is content.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	require.Eventually(t, check, 20*time.Second, 10*time.Millisecond, what)
}

// get asks an instance, until it listens, and returns what it answers.
func get(t *testing.T, status control.Status, path string) string {
	t.Helper()
	require.Len(t, status.Addresses, 1)
	ask := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var body []byte
	eventually(t, "an answer to "+path, func() bool {
		resp, err := ask.Get("http://" + status.Addresses[0].HostPort + path)
		if err != nil {
			return false
		}
		defer resp.Body.Close() //nolint:errcheck // nothing follows from it
		body, err = io.ReadAll(resp.Body)
		return err == nil
	})
	return string(body)
}

// lines reads a log to its end.
func lines(t *testing.T, log control.LogReader) []api.LogLine {
	t.Helper()
	defer log.Close() //nolint:errcheck // nothing follows from it
	var out []api.LogLine
	for {
		line, err := log.Next()
		if err == io.EOF { //nolint:errorlint // the contract is the bare value
			return out
		}
		require.NoError(t, err)
		out = append(out, line)
	}
}

func userError(t *testing.T, err error) *control.Error {
	t.Helper()
	var known *control.Error
	require.ErrorAs(t, err, &known)
	return known
}

// engineThatFailsWith returns a client whose every connection fails.
func engineThatFailsWith(t *testing.T, err error) *client.Client {
	t.Helper()
	engine, newErr := client.New(client.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, err }))
	require.NoError(t, newErr)
	return engine
}

// silentSocket returns a socket that takes every connection and says nothing.
func silentSocket(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	held := make(chan []net.Conn, 1)
	go func() {
		var all []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil {
				held <- all
				return
			}
			all = append(all, conn)
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		for _, conn := range <-held {
			require.NoError(t, conn.Close())
		}
	})
	return path
}
