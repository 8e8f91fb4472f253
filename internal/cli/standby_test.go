package cli

import (
	"bytes"
	"context"
	"iter"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// Two servers share a store: each answers for both. Where the one that has it is killed, or is paused, the other has
// it some seconds later, with all that was acknowledged; the paused one stands by when it goes on.
func TestServers_ShareAStore(t *testing.T) {
	address := postgrestest.URL(t)
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	first, second := startProgram(t, dir, address), startProgram(t, dir, address)
	for _, p := range []*program{first, second} {
		p.answers(t)
		require.Equal(t, http.StatusForbidden, p.status(t, "evil.example.com"), "a standby guards, too")
		require.Equal(t, http.StatusOK, p.status(t, p.address))
	}
	leader, other := first, second
	if strings.Contains(first.said.String(), "standing by") {
		leader, other = second, first
	}
	require.Contains(t, other.said.String(), "standing by")
	deploy := func(p *program, version string) {
		v, err := p.Deploy(t.Context(), "cart", version, api.Deployment{})
		require.NoError(t, err)
		require.Equal(t, version, v.Name)
	}
	has := func(p *program, versions int) {
		t.Helper()
		all, err := p.Versions(t.Context(), api.VersionFilter{})
		require.NoError(t, err)
		require.Len(t, all, versions)
	}
	deploy(leader, "one")
	watching, endWatch := context.WithTimeout(t.Context(), time.Minute)
	defer endWatch()
	next, end := iter.Pull2(other.FollowTable(watching, api.TablePosition{}))
	defer end()
	until := func(version string) {
		t.Helper()
		for {
			u, err, _ := next()
			require.NoError(t, err)
			if u.Change != nil && slices.ContainsFunc(u.Change.Versions, func(c route.VersionChange) bool { return c.Name == version }) {
				return
			}
			if u.Table != nil && slices.ContainsFunc(u.Table.Services[0].Versions, func(v route.Version) bool { return v.Name == version }) {
				return
			}
		}
	}
	until("one")
	deploy(other, "two")
	until("two")
	has(leader, 3)
	has(other, 3)

	began := time.Now()
	require.NoError(t, leader.command.Process.Signal(syscall.SIGSTOP))
	require.Eventually(t, func() bool { // the signal takes a moment
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := leader.Versions(ctx, api.VersionFilter{})
		return err != nil
	}, time.Minute, 10*time.Millisecond)
	services, err := other.Services(t.Context())
	require.NoError(t, err, "what the store has is read also while no server leads")
	require.Equal(t, "cart", services[0].Name)
	other.answers(t)
	t.Logf("paused: another answers after %s", time.Since(began).Round(10*time.Millisecond))
	deploy(other, "three")
	has(other, 4)
	until("three")
	require.NoError(t, leader.command.Process.Signal(syscall.SIGCONT))
	require.Eventually(t, func() bool { return strings.Contains(leader.said.String(), "standing by") }, time.Minute, 10*time.Millisecond, leader.said)
	require.Contains(t, leader.said.String(), "was taken over by another layover server")
	deploy(leader, "four")
	has(other, 5)
	until("four")

	began = time.Now()
	require.NoError(t, other.command.Process.Kill())
	<-other.ended
	require.Eventually(t, func() bool {
		_, err := leader.Deploy(t.Context(), "cart", "five", api.Deployment{})
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	t.Logf("killed: another deploys after %s", time.Since(began).Round(10*time.Millisecond))
	has(leader, 6)

	third := startProgram(t, dir, address)
	require.Eventually(t, func() bool { return strings.Contains(third.said.String(), "standing by") }, time.Minute, 10*time.Millisecond, third.said)
	began = time.Now()
	require.NoError(t, leader.command.Process.Signal(syscall.SIGTERM))
	<-leader.ended
	require.Eventually(t, func() bool {
		_, err := third.Deploy(t.Context(), "cart", "six", api.Deployment{})
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	t.Logf("ended in good order: another deploys after %s", time.Since(began).Round(10*time.Millisecond))
	has(third, 7)
}

// program is layover server in a process of its own.
type program struct {
	*api.Client
	address string
	command *exec.Cmd
	said    *lockedBuffer
	ended   chan struct{}
}

func startProgram(t *testing.T, dir, store string) *program {
	t.Helper()
	return startProgramAt(t, dir, store, freeAddress(t))
}

// freeAddress is one that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func startProgramAt(t *testing.T, dir, store, address string) *program {
	t.Helper()
	p := &program{address: address, said: &lockedBuffer{}, ended: make(chan struct{})}
	p.command = exec.Command(os.Args[0], "server", "-f", filepath.Join(dir, "layover.yaml"))
	p.command.Env = append(os.Environ(), asProgram+"=1", "LAYOVER_STORE="+store, "LAYOVER_SERVER_LISTEN="+p.address)
	p.command.Stdout, p.command.Stderr = p.said, p.said
	require.NoError(t, p.command.Start())
	go func() {
		defer close(p.ended)
		_ = p.command.Wait()
	}()
	var err error
	p.Client, err = api.NewClient("http://" + p.address)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Close()
		_ = p.command.Process.Kill()
		<-p.ended
		require.False(t, bytes.Contains([]byte(p.said.String()), []byte(postgrestest.Password)))
		if t.Failed() {
			t.Log(p.said)
		}
	})
	return p
}

// answers returns when the server, or the one that it stands by for, answers and has applied its file.
func (p *program) answers(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		all, err := p.Versions(t.Context(), api.VersionFilter{})
		return err == nil && len(all) > 0
	}, time.Minute, 10*time.Millisecond, p.said)
}

// status asks for the environment under the name of host.
func (p *program) status(t *testing.T, host string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.address+"/api/v1/environment", nil)
	require.NoError(t, err)
	r.Host = host
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode
}
