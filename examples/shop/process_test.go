package shop

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// command returns the test binary as the program shop, with env and nothing else
// in its environment.
func command(ctx context.Context, env map[string]string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = []string{"SHOP_TEST_MAIN=1"}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// startProcess runs main of a service as a process of its own, which ends with
// the test by SIGTERM, and must do so with exit code 0.
func (f *forwarder) startProcess(t *testing.T, service string) {
	t.Helper()
	ctx, kill := context.WithTimeout(context.Background(), time.Minute)
	cmd := command(ctx, f.env(service, "main", nil), service)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	t.Cleanup(func() {
		defer kill()
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		var log strings.Builder
		for lines.Scan() {
			log.WriteString(lines.Text() + "\n")
		}
		require.NoError(t, cmd.Wait())
		require.Contains(t, log.String(), "msg=ended service="+service+" version=main")
		require.Regexp(t, `msg=request .* trace_id=[0-9a-f]{32}`, log.String())
	})
	require.True(t, lines.Scan(), "%s ended before it listened", service)
	addr := regexp.MustCompile(`msg=listening .*addr=(\S+)`).FindStringSubmatch(lines.Text())
	require.Len(t, addr, 2, lines.Text())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backends[service+"@main"] = addr[1]
}

func TestMain_RunsTheShopAsProcesses(t *testing.T) {
	f := newForwarder(t)
	for _, service := range Services() {
		f.startProcess(t, service)
	}
	resp, body := f.get(t, "/", "baggage: "+testRoute)
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	require.Equal(t, "cart@main", decode(t, body).Calls[0].Routed, "HTTP_PROXY leads to the forwarder")
	require.Equal(t, "feature-1", f.baggage(t, Inventory).Member("dynamic_route").Value())
}

func TestMain_ExitCodes(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)

	cases := map[string]struct {
		args []string
		env  map[string]string
		code int
		out  string
		err  string
	}{
		"no service":      {code: 2, err: "usage: shop SERVICE"},
		"unknown service": {args: []string{"checkout"}, code: 2, err: "storefront, cart, pricing"},
		"two services":    {args: []string{Cart, Pricing}, code: 2, err: "usage: shop SERVICE"},
		"bad setting": {
			args: []string{Pricing}, env: map[string]string{"PRICING_DISCOUNT": "half"},
			code: 2, err: `shop pricing: PRICING_DISCOUNT is "half": want a whole number from 0 to 100`,
		},
		"told to crash": {
			args: []string{Cart}, env: map[string]string{"SHOP_CRASH": "1"},
			code: 3, out: `msg="crashing because SHOP_CRASH is set" service=cart version=main`,
		},
		"port in use": {
			args: []string{Cart}, env: map[string]string{"PORT": port},
			code: 1, out: "address already in use",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var stdout, stderr bytes.Buffer
			cmd := command(ctx, tc.env, tc.args...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			var exit *exec.ExitError
			require.ErrorAs(t, cmd.Run(), &exit)
			require.Equal(t, tc.code, exit.ExitCode())
			require.Contains(t, stdout.String(), tc.out)
			require.Contains(t, stderr.String(), tc.err)
		})
	}
}

func TestMain_EndsDuringTheStartDelay(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	env := map[string]string{"SHOP_START_DELAY": "1h", "PORT": "0"}
	cmd := command(ctx, env, Cart)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan())
	require.Contains(t, lines.Text(), "waiting because SHOP_START_DELAY is set")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.False(t, lines.Scan(), lines.Text())
	require.NoError(t, cmd.Wait())
}

func TestMain_ServesOnDuringTheStopDelay(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := command(ctx, map[string]string{"SHOP_STOP_DELAY": "500ms", "SHOP_BUILD": "b7", "PORT": "0"}, Storefront)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan())
	addr := regexp.MustCompile(`msg=listening .*addr=(\S+)`).FindStringSubmatch(lines.Text())
	require.Len(t, addr, 2, lines.Text())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.True(t, lines.Scan())
	require.Contains(t, lines.Text(), "serving on because SHOP_STOP_DELAY is set")
	resp, err := http.Get("http://" + addr[1] + "/healthz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	for lines.Scan() {
	}
	require.NoError(t, cmd.Wait())
}
