//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // for the command sql

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// patience is how long a script waits for anything. It is only reached when a test fails.
const patience = time.Minute

// script is what the commands below keep of one script.
type script struct {
	work      string
	variables []string  // names of the environment variables it began with
	server    *exec.Cmd // layover up, or nil
	ended     chan error
	ups       int

	stopPostgres func()         // nil where the script has none
	cloud        *ecstest.Cloud // nil where the script has none
}

type scriptKey struct{}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// end kills what a script that failed left behind.
func (s *script) end() {
	if s.server != nil {
		_ = s.server.Process.Kill()
		_ = <-s.ended
	}
	pids, _ := processesOf(s.work) // on a system without /proc there is nothing to find
	for pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// up starts layover up with its arguments in the background, waits until it
// serves, and sets LAYOVER_SERVER, SERVER and PROXY (host:port). What it writes goes to up.log.
func cmdUp(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || s.server != nil {
		ts.Fatalf("usage: up [flags]; once at a time")
	}
	path, err := exec.LookPath("layover") // testscript puts it into our PATH too
	ts.Check(err)
	s.ups++
	name := filepath.Join(s.work, fmt.Sprintf("up-%d.log", s.ups))
	out, err := os.Create(name)
	ts.Check(err)
	defer func() { _ = out.Close() }()
	cmd := exec.Command(path, append([]string{"up"}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), out, out
	for _, variable := range s.variables {
		cmd.Env = append(cmd.Env, variable+"="+ts.Getenv(variable))
	}
	ts.Check(cmd.Start())
	s.server, s.ended = cmd, make(chan error, 1)
	go func() { s.ended <- cmd.Wait() }()

	line := regexp.MustCompile(`(?m)^  (server|proxy) +http://(\S+)$`)
	var found [][]string
	s.eventually(ts, "layover up serves", func() error {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		select {
		case err := <-s.ended:
			s.server = nil
			ts.Fatalf("layover up ended: %v\n%s", err, text)
		default:
		}
		if found = line.FindAllStringSubmatch(string(text), -1); len(found) < 2 {
			return fmt.Errorf("it says:\n%s", text)
		}
		return nil
	})
	for _, match := range found {
		if match[1] == "server" {
			ts.Setenv("LAYOVER_SERVER", "http://"+match[2])
			ts.Setenv("SERVER", match[2])
		} else {
			ts.Setenv("PROXY", match[2])
		}
	}
	ts.Check(os.WriteFile(filepath.Join(s.work, "up.pid"), fmt.Appendln(nil, cmd.Process.Pid), 0o600))
}

// interrupt sends SIGINT to layover up, as Ctrl-C does, and expects it to end well.
// What it wrote becomes stderr.
func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	if err := finish(ts, syscall.SIGINT); (err != nil) != neg {
		ts.Fatalf("layover up ended with: %v", err)
	}
}

// hangup sends SIGHUP to layover up, as a terminal does that is closed, and expects it to
// end well. What it wrote becomes stderr.
func cmdHangup(ts *testscript.TestScript, neg bool, args []string) {
	if err := finish(ts, syscall.SIGHUP); (err != nil) != neg {
		ts.Fatalf("layover up ended with: %v", err)
	}
}

// crash kills layover up, which can do nothing about it.
func cmdCrash(ts *testscript.TestScript, neg bool, args []string) {
	if err := finish(ts, syscall.SIGKILL); err == nil || neg {
		ts.Fatalf("layover up ended by itself")
	}
}

// finish sends a signal to layover up, and returns how it ended.
func finish(ts *testscript.TestScript, signal syscall.Signal) error {
	s := of(ts)
	if s.server == nil {
		ts.Fatalf("layover up does not run")
	}
	ts.Check(s.server.Process.Signal(signal))
	select {
	case err := <-s.ended:
		s.server = nil
		text, readErr := os.ReadFile(filepath.Join(s.work, fmt.Sprintf("up-%d.log", s.ups)))
		ts.Check(readErr)
		_, _ = ts.Stderr().Write(text)
		return err
	case <-time.After(patience):
		ts.Fatalf("layover up does not end after %s", signal)
		return nil
	}
}

// becomes waits until versions are in a state: becomes running cart@main cart@pr-88.
func cmdBecomes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: becomes STATE[:GENERATION] SERVICE@VERSION...")
	}
	client, err := api.NewClient(ts.Getenv("LAYOVER_SERVER"))
	ts.Check(err)
	defer client.Close()
	state, generation, _ := strings.Cut(args[0], ":")
	for _, id := range args[1:] {
		service, version, _ := strings.Cut(id, "@")
		of(ts).eventually(ts, id+" is "+args[0], func() error {
			v, err := client.Version(context.Background(), service, version)
			if err == nil && (string(v.State) != state || generation != "" && fmt.Sprint(v.Serving) != generation) {
				err = fmt.Errorf("generation %d of %s is %s: %s", v.Serving, id, v.State, v.Reason)
			}
			return err
		})
	}
}

// says waits until the reason of a version's state matches an expression: says cart@pr-88 'next try in'.
func cmdSays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: says SERVICE@VERSION EXPRESSION")
	}
	client, err := api.NewClient(ts.Getenv("LAYOVER_SERVER"))
	ts.Check(err)
	defer client.Close()
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	service, version, _ := strings.Cut(args[0], "@")
	of(ts).eventually(ts, args[0]+" says "+args[1], func() error {
		v, err := client.Version(context.Background(), service, version)
		if err == nil && !want.MatchString(v.Reason) {
			err = fmt.Errorf("it is %s: %s", v.State, v.Reason)
		}
		return err
	})
}

// shows waits until what layover says matches an expression: shows 'base +copied' layover status cart@pr-88.
func cmdShows(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: shows EXPRESSION COMMAND...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	of(ts).eventually(ts, strings.Join(args[1:], " ")+" shows "+args[0], func() error {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+ts.Getenv("LAYOVER_SERVER"))
		out, err := cmd.Output()
		if err == nil && !want.Match(out) {
			err = fmt.Errorf("it says:\n%s", out)
		}
		return err
	})
}

// happens waits until an event of a type is told of a version: happens instance.exited cart@main.
func cmdHappens(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: happens TYPE SERVICE@VERSION")
	}
	client, err := api.NewClient(ts.Getenv("LAYOVER_SERVER"))
	ts.Check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	service, version, _ := strings.Cut(args[1], "@")
	for e, err := range client.FollowEvents(ctx, api.EventFilter{Service: service, Version: version}) {
		ts.Check(err)
		if string(e.Type) == args[0] {
			return
		}
	}
}

// ask sends a GET request for a host through the proxy, with the header lines
// that follow: ask cart.localhost/items 'baggage: dynamic_route=pr-88'. Stdout gets the
// status, the header Layover-Served-By, and the body. It fails from status 400 on.
func cmdAsk(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: ask HOST[/PATH] [HEADER-LINE...]")
	}
	host, path, _ := strings.Cut(args[0], "/")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ts.Getenv("PROXY")+"/"+path, http.NoBody)
	ts.Check(err)
	req.Host = host
	for _, line := range args[1:] {
		name, value, _ := strings.Cut(line, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	ts.Check(err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	ts.Check(err)
	_, _ = fmt.Fprintf(ts.Stdout(), "%d\n%s\n%s\n", res.StatusCode, res.Header.Get("Layover-Served-By"), body)
	if (res.StatusCode >= 400) != neg {
		ts.Fatalf("%s answers %s", args[0], res.Status)
	}
}

// exits runs a command and checks its exit code: exits 2 layover validate.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, not %d", got, want)
	}
}

// processes checks how many processes of a program the script has started that
// still run: processes 2 app. Without a program it counts them all. It waits for that.
func cmdProcesses(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: processes COUNT [PROGRAM]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	s := of(ts)
	s.eventually(ts, strings.Join(args, " ")+" processes are there", func() error {
		found, err := processesOf(s.work)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no /proc here
		}
		if err != nil {
			return err
		}
		var matching []string
		for pid, command := range found {
			if len(args) == 1 || filepath.Base(command[0]) == args[1] {
				matching = append(matching, fmt.Sprintf("%d %s", pid, strings.Join(command, " ")))
			}
		}
		if len(matching) != want {
			slices.Sort(matching)
			return fmt.Errorf("there are %d:\n%s", len(matching), strings.Join(matching, "\n"))
		}
		return nil
	})
}

// sql runs a statement on an SQLite file: sql .layover/layover.db 'DELETE FROM t'.
func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sql FILE STATEMENT")
	}
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = db.Exec(args[1])
	ts.Check(errors.Join(err, db.Close()))
}

// listing prints every file below a folder with its size and time of change.
func cmdListing(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listing FOLDER")
	}
	root := ts.MkAbs(args[0])
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(ts.Stdout(), path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		return err
	}))
}

// eventually calls try until it returns nil, and fails the script with its last error.
func (s *script) eventually(ts *testscript.TestScript, what string, try func() error) {
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain until %s: %v", what, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// processesOf returns the command line of every process, by its ID, that has to
// do with a folder: by its command line, its working directory or its environment.
func processesOf(dir string) (map[int][]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[int][]string{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that ends meanwhile has none of these.
		command, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		cwd, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		about := cwd + "\x00" + string(command) + "\x00" + string(environ) + "\x00"
		isIn := strings.Contains(about, dir+"/") || strings.Contains(about, dir+"\x00") // and not in dir-2
		if len(command) > 0 && isIn {
			found[pid] = strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
		}
	}
	return found, nil
}
