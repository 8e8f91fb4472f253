package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // to see who has the store

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

const (
	failoverClients = 20
	failoverRate    = 200 // requests a second
	failoverPause   = 2 * time.Second
	failoverQuiet   = 5 * time.Second
	failoverBar     = 5 * time.Second
)

// proveFailover runs three servers over one PostgreSQL, with clients that deploy and requests through a
// proxy. The server that has the store is killed, another time paused and continued, and another time ended in good order. At each server
// there is a proxy, and somebody who follows the events, that know of no other.
func proveFailover(ctx context.Context) (result, error) { return failover(ctx, failoverClients) }

func failover(ctx context.Context, clients int) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	address, stop, err := postgrestest.Start()
	if err != nil {
		return result{}, err
	}
	defer stop()
	f := &failing{
		losing:  &losing{environment: e, plan: noLossPlan{rate: failoverRate, quiet: failoverQuiet, stream: time.Second, linger: time.Second}},
		address: address, marker: fmt.Sprintf("failover-%d-%d", os.Getpid(), time.Now().UnixNano()),
		acknowledged: map[string]int64{}, counted: map[string]bool{},
	}
	defer f.endAll()
	if err := f.prepare(ctx); err != nil {
		return result{}, err
	}
	working, endWork := context.WithCancel(ctx)
	defer endWork()
	var group sync.WaitGroup
	group.Go(func() { f.load.run(working) })
	group.Go(func() { f.watchTwins(working) })
	for c := range clients {
		group.Go(func() { f.deploys(working, c) })
	}
	looking, endLooking := context.WithCancel(ctx)
	defer endLooking()
	var onlookers sync.WaitGroup
	for _, o := range f.onlookers {
		onlookers.Go(func() { o.follow(looking) })
	}
	err = f.faultsOnPurpose(ctx)
	endWork()
	group.Wait()
	if err == nil {
		err = f.compare(ctx)
	}
	if err == nil {
		err = f.compareEvents(ctx)
	}
	endLooking()
	onlookers.Wait()
	for _, o := range f.onlookers {
		f.faults = append(f.faults, o.faults...)
		fmt.Printf("  the stream of events from %s could not be taken up at once %d times\n", o.server.url, o.broke)
	}
	if err != nil {
		for _, s := range f.servers {
			err = fmt.Errorf("%w\na server said:\n%s", err, s.said)
		}
		return result{}, err
	}
	total := f.load.total()
	for _, fault := range append(f.load.faults, f.faults...) {
		fmt.Println("  fault:", fault)
	}
	failed := total.failed + total.wrong + total.again
	figure := fmt.Sprintf("%d clients, %d deployments acknowledged, %d requests at %d/s: killed, another deploys after %.1f s; paused, after %.1f s; ended by SIGTERM, after %.1f s; "+
		"proxies that know one server alone have its changes after %.1f, %.1f and %.1f s; %d events without a gap at each server; %d requests failed, %d faults (lost, twice, orphaned)",
		clients, f.acks, total.sent, failoverRate, f.killed.deploys.Seconds(), f.paused.deploys.Seconds(), f.ended.deploys.Seconds(),
		f.killed.reaches.Seconds(), f.paused.reaches.Seconds(), f.ended.reaches.Seconds(), f.events, failed, len(f.faults))
	return result{
		figure: figure, bar: "within 5 s, 0 failed, 0 faults",
		ok: max(f.killed.deploys, f.paused.deploys, f.ended.deploys) <= failoverBar && failed == 0 && len(f.faults) == 0 && f.acks > clients,
	}, nil
}

// failing is an environment of three servers, any of which can be lost.
type failing struct {
	*losing
	address   string // of the database
	db        *sql.DB
	marker    string // in the environment of every instance
	servers   [3]*sharing
	onlookers []*onlooker // one of each server
	events    int64       // in the log

	killed, paused, ended takeover

	mu           sync.Mutex
	acks         int
	lastAck      time.Time
	acknowledged map[string]int64 // generation, by version
	counted      map[string]bool
	faults       []string
}

// takeover is how long it took from a fault on.
type takeover struct {
	deploys time.Duration // until a deployment was acknowledged by another server
	reaches time.Duration // until a change of that one was at every proxy that knows one server alone
}

// sharing is one of the servers.
type sharing struct {
	url  string
	cmd  *exec.Cmd
	said *lockedBuffer
	done chan struct{}
}

func (f *failing) prepare(ctx context.Context) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if f.db, err = sql.Open("pgx", f.address); err != nil {
		return err
	}
	ports, err := freePorts(11)
	if err != nil {
		return err
	}
	f.losing.address, f.admin = "127.0.0.1:"+ports[3], "127.0.0.1:"+ports[4]
	err = f.write(fmt.Sprintf(`environment: proof
proxy: {address: "%s"}
services:
  pricing:
    env: {LAYOVER_PROOF: %s}
    run: {process: {command: [%q, %s, "1"]}}
    versions: {x: {command: [%q, %s, "1"]}}
`, f.losing.address, f.marker, self, backendCommand, self, backendCommand))
	if err != nil {
		return err
	}
	for i := range f.servers {
		f.servers[i] = &sharing{url: "http://127.0.0.1:" + ports[i], said: &lockedBuffer{}}
		if err := f.startServer(f.servers[i]); err != nil {
			return err
		}
	}
	f.serverURL = f.servers[0].url
	up := func() (bool, error) {
		versions, err := f.versions(ctx)
		return err == nil && len(versions) == 2 && versions[0].State == api.StateRunning && versions[1].State == api.StateRunning, nil
	}
	if err := until(ctx, time.Minute, up, func() string { return "the two versions do not run" }); err != nil {
		return err
	}
	f.serverURL = f.servers[0].url + "," + f.servers[1].url + "," + f.servers[2].url
	if err := f.startProxy(ctx); err != nil {
		return err
	}
	for i, s := range f.servers {
		o, err := f.startOnlooker(ctx, i, s, ports[5+2*i:7+2*i])
		if o != nil {
			f.onlookers = append(f.onlookers, o)
		}
		if err != nil {
			return err
		}
	}
	f.load = newLoad(f.losing.address, f.plan)
	return nil
}

func (f *failing) startServer(s *sharing) error {
	s.cmd = exec.Command(f.binary, "server", "-f", filepath.Join(f.dir, "layover.yaml"))
	s.cmd.Env = append(os.Environ(), "LAYOVER_STORE="+f.address, "LAYOVER_SERVER_LISTEN="+strings.TrimPrefix(s.url, "http://"))
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan struct{})
	cmd, done := s.cmd, s.done
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed
	}()
	return nil
}

// endAll ends the proxy, the servers, and the instances, which outlive them.
func (f *failing) endAll() {
	f.endProxy()
	for _, o := range f.onlookers {
		o.end()
	}
	for _, s := range f.servers {
		if s != nil && s.cmd != nil && s.cmd.Process != nil {
			_ = s.cmd.Process.Kill()
			<-s.done
		}
	}
	for pid := range f.processes() {
		_ = signalTo(pid, syscall.SIGKILL)
	}
	if f.db != nil {
		_ = f.db.Close()
	}
}

// faultsOnPurpose kills the server that has the store, and pauses it another time.
func (f *failing) faultsOnPurpose(ctx context.Context) error {
	if err := f.phase(ctx, "quiet", func() error { return nil }); err != nil {
		return err
	}
	err := f.phase(ctx, "killed", func() (err error) {
		s, err := f.leader(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		_ = s.cmd.Process.Kill()
		<-s.done
		if f.killed, err = f.another(ctx, s, began); err != nil {
			return err
		}
		return f.startServer(s)
	})
	if err != nil {
		return err
	}
	err = f.phase(ctx, "ended by SIGTERM", func() (err error) {
		s, err := f.leader(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		<-s.done
		fmt.Printf("  the server ended after %.2f s\n", time.Since(began).Seconds())
		if f.ended, err = f.another(ctx, s, began); err != nil {
			return err
		}
		return f.startServer(s)
	})
	if err != nil {
		return err
	}
	return f.phase(ctx, "paused, continued", func() (err error) {
		s, err := f.leader(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		f.paused, err = f.another(ctx, s, began)
		return errors.Join(err, pause(ctx, time.Second), s.cmd.Process.Signal(syscall.SIGCONT))
	})
}

// leader returns the server that has the store.
func (f *failing) leader(ctx context.Context) (*sharing, error) {
	var url string
	if err := f.db.QueryRowContext(ctx, `SELECT url FROM layover_holder`).Scan(&url); err != nil {
		return nil, err
	}
	for _, s := range f.servers {
		if s.url == url {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%q has the store", url)
}

// another waits until a server other than that one has the store, and a deployment was acknowledged since.
func (f *failing) another(ctx context.Context, than *sharing, began time.Time) (takeover, error) {
	type reached struct {
		after time.Duration
		err   error
	}
	reaching := make(chan reached, 1)
	go func() {
		after, err := f.reach(ctx, than, began)
		reaching <- reached{after, err}
	}()
	var since, taken time.Time // the latter by the database
	var took time.Duration
	err := until(ctx, time.Minute, func() (bool, error) {
		if since.IsZero() {
			if s, err := f.leader(ctx); err == nil && s != than {
				since = time.Now()
				_ = f.db.QueryRowContext(ctx, `SELECT since FROM layover_holder`).Scan(&taken) // only printed
			}
			return false, nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		took = f.lastAck.Sub(began)
		return f.lastAck.After(since), nil
	}, func() string { return "no other server takes over" })
	r := <-reaching
	fmt.Printf("  another server has the store after %.2f s, and deploys after %.2f s; proxies of one server alone have a change after %.2f s\n",
		taken.Sub(began).Seconds(), took.Seconds(), r.after.Seconds())
	return takeover{took, r.after}, errors.Join(err, r.err)
}

// compareEvents waits until all events that there are have come to all who follow them.
func (f *failing) compareEvents(ctx context.Context) error {
	if err := f.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM events`).Scan(&f.events); err != nil {
		return err
	}
	for _, o := range f.onlookers {
		err := until(ctx, time.Minute, func() (bool, error) { return o.events.Load() >= f.events, nil },
			func() string {
				return fmt.Sprintf("of %d events %d came from %s", f.events, o.events.Load(), o.server.url)
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// deploys deploys two versions in turn, again and again, at each server.
func (f *failing) deploys(ctx context.Context, number int) {
	self, err := os.Executable()
	if err != nil {
		return
	}
	var clients []*api.Client
	for _, s := range f.servers {
		client, err := api.NewClient(s.url)
		if err != nil {
			return
		}
		defer client.Close()
		clients = append(clients, client)
	}
	for i := 1; ctx.Err() == nil; i++ {
		version := fmt.Sprintf("c%d-%d", number, i%2)
		// No two deployments have the same command: what runs twice is known by it.
		var d api.Deployment
		d.Command = []string{self, backendCommand, fmt.Sprint(number*10_000 + i)}
		short, cancel := context.WithTimeout(ctx, time.Second)
		v, err := clients[i/2%len(clients)].Deploy(short, "pricing", version, d)
		cancel()
		wait := failoverPause
		if err != nil {
			wait = 100 * time.Millisecond
		} else {
			f.mu.Lock()
			f.acks++
			f.lastAck = time.Now()
			f.acknowledged[version] = max(f.acknowledged[version], v.Generation)
			f.mu.Unlock()
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// watchTwins looks again and again whether a deployment runs twice.
func (f *failing) watchTwins(ctx context.Context) {
	for pause(ctx, 300*time.Millisecond) == nil {
		seen := map[string]bool{}
		for _, command := range f.processes() {
			f.mu.Lock()
			if seen[command] && !f.counted[command] {
				f.counted[command] = true
				f.faults = append(f.faults, "runs twice: "+strings.ReplaceAll(command, "\x00", " "))
			}
			f.mu.Unlock()
			seen[command] = true
		}
	}
}

// processes returns the version and command of every instance, by its process.
func (f *failing) processes() map[int]string {
	all := map[int]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is valid
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(env, []byte("LAYOVER_PROOF="+f.marker)) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err != nil {
			continue
		}
		for entry := range strings.SplitSeq(string(env), "\x00") {
			if version, ok := strings.CutPrefix(entry, "LAYOVER_VERSION="); ok {
				all[pid] = version + ": " + string(command)
			}
		}
	}
	return all
}

// compare looks whether all that was acknowledged is there, runs, and runs once.
func (f *failing) compare(ctx context.Context) error {
	f.serverURL = f.servers[0].url
	var faults []string
	err := until(ctx, time.Minute, func() (bool, error) {
		versions, err := f.versions(ctx)
		if err != nil {
			return false, nil
		}
		faults = nil
		instances, listed := map[string]int{}, map[string]api.Version{}
		for _, command := range f.processes() {
			version, _, _ := strings.Cut(command, ": ")
			instances[version]++
		}
		for _, v := range versions {
			listed[v.Name] = v
			if v.State != api.StateRunning || instances[v.Name] != 1 {
				faults = append(faults, fmt.Sprintf("%s is %s (%s) and has %d instances", v.ID(), v.State, v.Reason, instances[v.Name]))
			}
		}
		for version, generation := range f.acknowledged {
			if v, ok := listed[version]; !ok || v.Generation < generation {
				faults = append(faults, fmt.Sprintf("generation %d of %s was acknowledged, and there is %d", generation, version, v.Generation))
			}
		}
		for version, n := range instances {
			if _, ok := listed[version]; !ok {
				faults = append(faults, fmt.Sprintf("%d orphans of %s", n, version))
			}
		}
		return len(faults) == 0, nil
	}, func() string { return "it does not settle" })
	f.faults = append(f.faults, faults...)
	if len(faults) > 0 {
		return nil // that is the result
	}
	return err
}
