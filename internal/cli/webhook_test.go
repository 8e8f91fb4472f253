package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
)

func TestHooks(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, `
webhooks:
  - {name: a, url: "http://x", secret_file: secret}
  - {name: b, url_env: THE_URL, secret_env: THE_SECRET}
  - {name: c, url: "http://x"}
`)
	file, err := config.Load(filepath.Join(dir, "layover.yaml"))
	require.NoError(t, err)
	env := map[string]string{"THE_URL": "https://hooks/1", "THE_SECRET": "two"}
	getenv := func(name string) string { return env[name] }
	_, err = hooks(file, getenv)
	require.ErrorContains(t, err, "the webhook a: open "+dir)
	require.Equal(t, exitUsage, exitCode(err))

	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte(" one\n"), 0o600))
	found, err := hooks(file, getenv)
	require.NoError(t, err)
	require.Equal(t, "https://hooks/1", found[1].URL)
	for i, want := range []string{"one", "two"} {
		got, err := found[i].Secret()
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	require.Nil(t, found[2].Secret)
	require.NoError(t, os.WriteFile(secret, []byte("three"), 0o600))
	got, err := found[0].Secret()
	require.NoError(t, err)
	require.Equal(t, "three", string(got), "a new secret counts at once")

	for _, bad := range []string{" \n", strings.Repeat("x", maxSecret+1)} {
		require.NoError(t, os.WriteFile(secret, []byte(bad), 0o600))
		_, err = found[0].Secret()
		require.Error(t, err)
	}
	require.NoError(t, os.WriteFile(secret, []byte("one"), 0o600))
	for name, says := range map[string]string{"THE_URL": "the webhook b: the variable THE_URL has no URL", "THE_SECRET": "the webhook b: the variable THE_SECRET has no secret"} {
		before := env[name]
		env[name] = ""
		_, err = hooks(file, getenv)
		require.ErrorContains(t, err, says)
		env[name] = before
	}
}

// killable is layover server as a program of its own.
type killable struct {
	*api.Client
	cmd *exec.Cmd
	url string
}

func startKillable(t *testing.T, dir string) *killable {
	t.Helper()
	said := &lockedBuffer{}
	self, err := os.Executable()
	require.NoError(t, err)
	k := &killable{cmd: exec.CommandContext(t.Context(), self, "server", "-f", filepath.Join(dir, "layover.yaml"), "--data", filepath.Join(dir, "data"))}
	k.cmd.Env = append(os.Environ(), asProgram+"=1", "LAYOVER_SERVER_LISTEN=127.0.0.1:0")
	k.cmd.Stderr = said
	require.NoError(t, k.cmd.Start())
	t.Cleanup(k.kill)
	address := regexp.MustCompile(`server  (http://\S+)\n`)
	require.Eventually(t, func() bool { return address.MatchString(said.String()) }, 20*time.Second, time.Millisecond, said)
	k.url = address.FindStringSubmatch(said.String())[1]
	k.Client, err = api.NewClient(k.url)
	require.NoError(t, err)
	t.Cleanup(k.Close)
	require.Eventually(t, func() bool {
		_, err := k.Service(t.Context(), "cart")
		return err == nil
	}, 20*time.Second, time.Millisecond, "the file is applied")
	return k
}

func (k *killable) kill() {
	_ = k.cmd.Process.Kill()
	_ = k.cmd.Wait() // that it was killed
}

// The server is killed while a receiver has not answered yet, and while one is away: every event
// arrives, in order, and what was given up is seen and sent again from the command line.
func TestWebhooksSurviveAKill(t *testing.T) {
	var mu sync.Mutex
	var got []int64
	status, hang := http.StatusOK, make(chan struct{})
	hanging := false
	arrived := make(chan struct{}, 1000)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var d api.WebhookDelivery
		if api.VerifyWebhook(time.Now(), time.Minute, r.Header.Get(api.HeaderSignature), body, []byte("s3cret")) != nil || json.Unmarshal(body, &d) != nil {
			t.Errorf("not signed: %s", body)
			return
		}
		mu.Lock()
		code, wait := status, hanging
		if code == http.StatusOK && !wait {
			got = append(got, d.Event.ID)
		}
		mu.Unlock()
		arrived <- struct{}{}
		if wait {
			<-hang
		}
		w.WriteHeader(code)
	}))
	defer receiver.Close()
	defer close(hang)
	answers := func(code int, wait bool) {
		mu.Lock()
		defer mu.Unlock()
		status, hanging = code, wait
	}

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret\n"), 0o600))
	writeFile(t, dir, `
environment: hooks
webhooks:
  - {name: audit, url: "%s/x", secret_file: secret}
services:
  cart:
    health: {kind: tcp, interval: 1h}
    run: {external: {url: "http://%s"}}
`, receiver.URL, listenTCP(t))
	k := startKillable(t, dir)
	act := func(name string) {
		v, err := k.Deploy(t.Context(), "cart", name, api.Deployment{Owner: "ana"})
		require.NoError(t, err)
		_, err = k.WaitDeploy(t.Context(), "cart", name, v.Generation, nil)
		require.NoError(t, err)
	}
	done := func() bool {
		all, err := k.Webhooks(t.Context())
		return err == nil && len(all) == 1 && all[0].Behind == 0
	}
	act("a")
	require.Eventually(t, done, 20*time.Second, 5*time.Millisecond)

	answers(http.StatusOK, true)
	for len(arrived) > 0 {
		<-arrived
	}
	act("b")
	<-arrived
	k.kill() // a delivery is under way
	answers(http.StatusBadGateway, false)
	k = startKillable(t, dir)
	for len(arrived) > 0 {
		<-arrived
	}
	act("c")
	<-arrived
	k.kill() // the receiver is away
	answers(http.StatusOK, false)
	k = startKillable(t, dir)
	act("d")
	require.Eventually(t, done, 30*time.Second, 5*time.Millisecond)
	last, err := k.LastEvent(t.Context())
	require.NoError(t, err)
	mu.Lock()
	for i, id := range got {
		require.EqualValues(t, i+1, id, "every event once, in order: %v", got)
	}
	require.Len(t, got, int(last))
	mu.Unlock()

	// Refused for good: a dead letter.
	answers(http.StatusForbidden, false)
	_, err = k.Stop(t.Context(), "cart", "d", "")
	require.NoError(t, err)
	layover := func(want int, args ...string) string {
		var out lockedBuffer
		app := newApp(nil, &out, &out, []string{"LAYOVER_SERVER=" + k.url, "LAYOVER_OWNER=ana"})
		require.Equal(t, want, execute(context.WithoutCancel(t.Context()), app, args), out.String())
		return out.String()
	}
	require.Eventually(t, func() bool { return strings.Contains(layover(exitOK, "webhook", "dead"), "cart@d is stopped") }, 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, done, 20*time.Second, 5*time.Millisecond)
	require.Regexp(t, `^audit\tjson\thttp://127.0.0.1:\d+\tall\t\d+\t0\t\d+\tit answered 403\n$`, layover(exitOK, "webhook", "ls"))
	require.Contains(t, layover(exitFailed, "webhook", "resend", "1"), "error: dead letter 1 was not delivered to audit: it answered 403\n")
	answers(http.StatusOK, false)
	require.Equal(t, "dead letter 1 is delivered to audit\n", layover(exitOK, "webhook", "resend", "1"))
	layover(exitOK, "webhook", "resend", "--all")
	require.Empty(t, layover(exitOK, "webhook", "dead"))
	require.Equal(t, "[]\n", layover(exitOK, "webhook", "dead", "--json"))
	require.Contains(t, layover(exitUsage, "webhook", "resend", "1"), "there is no dead letter 1")
	for _, bad := range [][]string{{"resend"}, {"resend", "x"}, {"resend", "0"}, {"resend", "1", "--all"}} {
		require.NotEmpty(t, layover(exitUsage, append([]string{"webhook"}, bad...)...), fmt.Sprint(bad))
	}
}

func TestNoWebhooks(t *testing.T) {
	c := newTerminal(t)
	require.Equal(t, exitOK, c.run(t.Context(), "webhook", "ls"))
	require.Contains(t, c.err.String(), "no webhooks")
	require.Equal(t, exitOK, c.run(t.Context(), "webhook", "ls", "--json"))
	require.Equal(t, "[]\n", c.out.String())
	require.Equal(t, exitUsage, c.run(t.Context(), "webhook", "resend", "1"))
}
