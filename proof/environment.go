package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// environment is `layover up` as a user runs it: the real binary, a layover.yaml
// in a folder, and the command line.
type environment struct {
	dir       string
	binary    string // layover
	proxyPort string
	serverURL string

	variables []string // further ones of the environment of up

	up   *exec.Cmd
	said *lockedBuffer // by up
	http *http.Client
}

// newEnvironment makes a folder with the binary in it. done removes it.
func newEnvironment(ctx context.Context) (e *environment, done func(), err error) {
	if e, done, err = environmentFor(""); err != nil {
		return nil, nil, err
	}
	e.binary = filepath.Join(e.dir, "layover")
	fmt.Println("  building layover")
	if err := goBuild(ctx, e.binary, "cmd/layover"); err != nil {
		done()
		return nil, nil, err
	}
	return e, done, nil
}

// environmentFor makes a folder for a binary that is there. done removes it.
func environmentFor(binary string) (e *environment, done func(), err error) {
	dir, err := os.MkdirTemp("", "layover-proof-")
	if err != nil {
		return nil, nil, err
	}
	e = &environment{dir: dir, binary: binary}
	done = func() {
		_ = e.end()
		_ = os.RemoveAll(dir)
	}
	ports, err := freePorts(2)
	if err != nil {
		done()
		return nil, nil, err
	}
	e.proxyPort, e.serverURL = ports[0], "http://127.0.0.1:"+ports[1]
	proxy := "127.0.0.1:" + e.proxyPort
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, proxy)
	}
	e.http = &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: time.Minute}
	return e, done, nil
}

// goBuild builds a program of this module as a static binary.
func goBuild(ctx context.Context, out, pkg string, tags ...string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", strings.Join(tags, ","), "-o", out, "github.com/layover-dev/layover/"+pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// freePorts returns ports that are free, of those that the system gives to nobody by itself: a server that is
// away for a moment finds its own again.
func freePorts(n int) ([]string, error) {
	const lowest, count = 10_000, 7_000
	var ports []string
	for tries := 0; len(ports) < n; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(count)))
		if err != nil && tries < count {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at once, so that they differ
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}

// write puts the configuration into the folder, for an environment that begins anew.
func (e *environment) write(yaml string) error {
	if err := os.RemoveAll(filepath.Join(e.dir, ".layover")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.dir, "layover.yaml"), []byte(yaml), 0o600)
}

// start runs `layover up`, and waits until its server answers.
func (e *environment) start(ctx context.Context) error {
	e.said = &lockedBuffer{}
	e.up = exec.Command(e.binary, "up", "-f", filepath.Join(e.dir, "layover.yaml"))
	e.up.Env = append(os.Environ(), "LAYOVER_SERVER_LISTEN="+strings.TrimPrefix(e.serverURL, "http://"))
	e.up.Env = append(e.up.Env, e.variables...)
	e.up.Stdout, e.up.Stderr = e.said, e.said
	if err := e.up.Start(); err != nil {
		return err
	}
	client, err := api.NewClient(e.serverURL)
	if err != nil {
		return err
	}
	defer client.Close()
	return until(ctx, time.Minute, func() (bool, error) {
		_, err := client.Versions(ctx, api.VersionFilter{})
		return err == nil, nil
	}, func() string { return "the server does not answer; it said:\n" + e.said.String() })
}

// kill ends the server without a chance to do anything.
func (e *environment) kill() {
	_ = e.up.Process.Kill()
	_ = e.up.Wait() // it was killed: that is the error
	e.up = nil
}

// end is Ctrl-C, and waits for it.
func (e *environment) end() error {
	if e.up == nil {
		return nil
	}
	_ = e.up.Process.Signal(os.Interrupt)
	done := make(chan struct{})
	up := e.up
	go func() {
		defer close(done)
		_ = up.Wait() // it was interrupted: that is the error
	}()
	e.up = nil
	select {
	case <-done: // with 130, as interrupted
		return nil
	case <-time.After(2 * time.Minute):
		_ = up.Process.Kill()
		return errors.New("up did not end within two minutes of Ctrl-C")
	}
}

// cli runs a command of layover, and returns what it wrote.
func (e *environment) cli(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, e.binary, args...)
	cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+e.serverURL)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("layover %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// versions is `layover ls --json`.
func (e *environment) versions(ctx context.Context) ([]api.Version, error) {
	text, err := e.cli(ctx, "ls", "--json")
	if err != nil {
		return nil, err
	}
	var out []api.Version
	return out, json.Unmarshal([]byte(text), &out)
}

// allRun waits until every version runs.
func (e *environment) allRun(ctx context.Context) error {
	var last string
	return until(ctx, 2*time.Minute, func() (bool, error) {
		versions, err := e.versions(ctx)
		last = states(versions)
		for _, v := range versions {
			if v.State == api.StateFailed {
				return false, fmt.Errorf("%s did not come up: %s", v.ID(), v.Reason)
			}
			if v.State != api.StateRunning {
				return false, err
			}
		}
		return len(versions) > 0, err
	}, func() string { return "not all versions run: " + last })
}

func states(versions []api.Version) string {
	var out []string
	for _, v := range versions {
		out = append(out, fmt.Sprintf("%s %s %s", v.ID(), v.State, v.Reason))
	}
	return strings.Join(out, "; ")
}

// ask makes one request through the proxy, whatever DNS says, and returns the
// body and the Layover-Served-By header.
func (e *environment) ask(ctx context.Context, host, path, route string) (body []byte, servedBy string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, "", err
	}
	if route != "" {
		req.Header.Set("Baggage", "dynamic_route="+route)
	}
	res, err := e.http.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err = io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s%s (%s): %d: %s", host, path, route, res.StatusCode, body)
	}
	return body, res.Header.Get("Layover-Served-By"), err
}

// until polls ok, with a limit.
func until(ctx context.Context, limit time.Duration, ok func() (bool, error), why func() string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ok()
		if yes || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New(why())
		}
	}
}

// dockerAnswers says whether a Docker Engine and its command are here.
func dockerAnswers(ctx context.Context) bool {
	return exec.CommandContext(ctx, "docker", "version").Run() == nil
}
