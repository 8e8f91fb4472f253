package runtimetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/control"
)

// appPackage is the import path of the test app.
const appPackage = "github.com/layover-dev/layover/internal/runtime/runtimetest/app"

// Answer is what the test app says of itself at /.
type Answer struct {
	PID  int
	Args []string
	Dir  string
	Env  map[string]string
}

// BuildApp builds the test app and returns its path. The file is static, so it
// also runs in an image FROM scratch, and is removed with t.
func BuildApp(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app")
	require.NoError(t, BuildAppTo(path))
	return path
}

// BuildAppTo builds the test app as the file path, for use in a TestMain.
func BuildAppTo(path string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, appPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the test app: %w\n%s", err, out)
	}
	return nil
}

// Ask waits until the app answers at the address, and returns what it says.
func Ask(t testing.TB, address control.Address) Answer {
	t.Helper()
	var answer Answer
	eventually(t, "an answer of "+address.HostPort, func() error {
		body, err := get(address, "/")
		if err != nil {
			return err
		}
		answer = Answer{}
		return json.Unmarshal(body, &answer)
	})
	return answer
}

// Tell sends the app one request that makes it do something, such as /exit?code=3.
func Tell(t testing.TB, address control.Address, path string) {
	t.Helper()
	_, err := get(address, path)
	require.NoError(t, err)
}

func get(address control.Address, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address.HostPort+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Close = true // leaves no connection, and no goroutine, behind
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	return io.ReadAll(response.Body)
}

// eventually calls try until it returns nil, and fails t with its last error after half a minute.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			require.FailNow(t, "waited in vain for "+what, err.Error())
		}
	}
}
