package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/layover-dev/layover/api"
	fp "github.com/layover-dev/layover/internal/failpoint"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// crashPlan says how much the proof does.
type crashPlan struct {
	workers  int // environments side by side, for each store
	stores   []string
	cases    func(docker bool) []crashCase // with each store
	sabotage bool                          // something is left over that the proof has to find
}

// patience is how long a case may take until all is as wanted.
func (p *crashPlan) patience() time.Duration {
	if p.sabotage {
		return 3 * time.Second // nothing will change any more
	}
	return 30 * time.Second
}

// The stores of the matrix.
const (
	crashSQLite   = "SQLite"
	crashPostgres = "PostgreSQL"
)

func crashFull() crashPlan {
	return crashPlan{workers: 3, stores: []string{crashSQLite, crashPostgres}, cases: crashCases}
}

// crashSmall kills at some of the points where the most is half done.
func crashSmall() crashPlan {
	return crashPlan{workers: 3, stores: []string{crashSQLite}, cases: func(bool) []crashCase {
		return []crashCase{
			{what: "deploy", runtime: api.RuntimeProcess, point: fp.ProcessForked},
			{what: "deploy", runtime: api.RuntimeProcess, point: fp.DeployBegun},
			{what: "replace", runtime: api.RuntimeProcess, point: fp.DeployPromoted},
			{what: "sleep", runtime: api.RuntimeProcess, point: fp.ProcessEnded},
			{what: "wake", runtime: api.RuntimeProcess, point: fp.ProcessPlanned},
			{what: "stop", runtime: api.RuntimeProcess, point: fp.RetirePublished},
			{what: "stop", runtime: api.RuntimeProcess, point: fp.LogKept},
			{what: "remove", runtime: api.RuntimeProcess, point: fp.RemoveDeleted},
			{what: "setup", runtime: api.RuntimeProcess, point: fp.SetupEnded},
			{what: "setup", runtime: api.RuntimeProcess, point: fp.ProcessRenamed},
			{what: "teardown", runtime: api.RuntimeProcess, point: fp.TeardownWanted},
		}
	}}
}

// crashCase is one kill: at a point, while something is done to a version.
type crashCase struct {
	what, store, runtime, point string

	took   time.Duration // from the start of the next server until all was as wanted
	faults []string
}

func (c *crashCase) hooked() bool { return c.what == "setup" || c.what == "teardown" }

func (c *crashCase) removes() bool { return c.what == "remove" || c.what == "teardown" }

func (c *crashCase) String() string {
	return fmt.Sprintf("%s, %s: %s, killed at %s", c.store, c.runtime, c.what, c.point)
}

// crashActions are what is done to versions, in the order of the table. The versions of the last two
// have hooks: one is deployed, one is removed.
func crashActions() []string {
	return []string{"deploy", "replace", "sleep", "wake", "stop", "remove", "setup", "teardown"}
}

// crashPoints returns the points that an action passes, in their order.
func crashPoints(what, runtime string) []string {
	start := []string{fp.InstanceWanted, fp.ProcessFolder, fp.ProcessPlanned, fp.ProcessForked, fp.InstanceStarted}
	end := []string{fp.ProcessEnded, fp.LogKept}
	cleared := []string{fp.ProcessRenamed} // a hook: its log is in the record
	if runtime == api.RuntimeDocker {
		start = []string{fp.InstanceWanted, fp.DockerCreated, fp.DockerStarted, fp.InstanceStarted}
		end = []string{fp.DockerEnded, fp.LogKept}
		cleared = []string{fp.DockerEnded}
	}
	deploy := slices.Concat([]string{fp.DeployRecorded, fp.DeployBegun}, start,
		[]string{fp.InstanceHealthy, fp.DeployPromoted, fp.DeployPublished, fp.DeployRouted, fp.DeployTold})
	retire := slices.Concat([]string{fp.RetirePublished, fp.RetireDrained}, end, []string{fp.RetireStopped})
	switch what {
	case "deploy":
		return deploy
	case "replace":
		return slices.Concat(deploy, retire)
	case "sleep":
		return slices.Concat([]string{fp.SleepRecorded, fp.SleepPublished}, retire, []string{fp.SleepTold})
	case "wake":
		return slices.Concat([]string{fp.WakeRecorded, fp.WakeBegun}, start, []string{fp.WakeRouted, fp.WakeTold})
	case "stop":
		return slices.Concat([]string{fp.EndRecorded, fp.EndPublished}, retire, []string{fp.StopTold})
	case "setup":
		return slices.Concat([]string{fp.SetupWanted, fp.SetupStarted, fp.SetupEnded, fp.SetupRecorded}, cleared, []string{fp.SetupCleared})
	case "teardown":
		if runtime == api.RuntimeDocker {
			cleared = nil // an instance would pass it first
		}
		return slices.Concat([]string{fp.TeardownWanted, fp.TeardownStarted, fp.TeardownEnded, fp.TeardownRecorded}, cleared, []string{fp.TeardownCleared})
	default:
		return slices.Concat([]string{fp.EndRecorded, fp.EndPublished}, retire, []string{fp.RemoveDeleted})
	}
}

func crashCases(docker bool) []crashCase {
	runtimes := []string{api.RuntimeProcess}
	if docker {
		runtimes = append(runtimes, api.RuntimeDocker)
	}
	var all []crashCase
	for _, runtime := range runtimes {
		for _, what := range crashActions() {
			for _, point := range crashPoints(what, runtime) {
				all = append(all, crashCase{what: what, runtime: runtime, point: point})
			}
		}
	}
	return all
}

// proveCrashMatrix kills the server at every point at which something is half done, starts it
// again, and compares what there is with what was asked for.
func proveCrashMatrix(plan crashPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return crashMatrix(ctx, plan) }
}

func crashMatrix(ctx context.Context, plan crashPlan) (result, error) {
	m := &matrix{plan: plan}
	cases := plan.cases(dockerAnswers(ctx))
	m.docker = slices.ContainsFunc(cases, func(c crashCase) bool { return c.runtime == api.RuntimeDocker })
	for _, store := range plan.stores {
		for _, c := range cases {
			c.store = store
			m.cases = append(m.cases, c)
		}
	}
	if err := m.run(ctx); err != nil {
		return result{}, err
	}
	m.print()
	return m.result(), nil
}

// matrix is all cases, and what came of them.
type matrix struct {
	plan   crashPlan
	binary string // layover with its fail points
	hook   string // the program of the hooks
	docker bool
	cases  []crashCase

	mu   sync.Mutex
	done int
}

func (m *matrix) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "layover-proof-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	m.binary, m.hook = filepath.Join(dir, "layover"), filepath.Join(dir, "hook")
	fmt.Println("  building layover with fail points")
	if err := errors.Join(goBuild(ctx, m.binary, "cmd/layover", "failpoint"), goBuild(ctx, m.hook, "proof/hook")); err != nil {
		return err
	}
	var database string
	if slices.Contains(m.plan.stores, crashPostgres) {
		var stop func()
		if database, stop, err = postgrestest.Start(); err != nil {
			return err
		}
		defer stop()
	}
	errs := make([]error, len(m.plan.stores)*m.plan.workers)
	var group sync.WaitGroup
	for s, store := range m.plan.stores {
		queue := make(chan *crashCase, len(m.cases))
		for i := range m.cases {
			if m.cases[i].store == store {
				queue <- &m.cases[i]
			}
		}
		close(queue)
		for i := range m.plan.workers {
			number := s*m.plan.workers + i
			group.Go(func() {
				address := ""
				if store == crashPostgres {
					address, errs[number] = crashSchema(ctx, database, fmt.Sprintf("crash_%d", number))
				}
				if errs[number] == nil {
					errs[number] = m.work(ctx, number, address, queue)
				}
			})
		}
	}
	group.Wait()
	return errors.Join(errs...)
}

// crashSchema makes a schema of the database, and returns its address.
func crashSchema(ctx context.Context, database, name string) (string, error) {
	address, err := url.Parse(database)
	if err != nil {
		return "", err
	}
	db, err := sql.Open("pgx", database)
	if err != nil {
		return "", err
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+name); err != nil {
		return "", err
	}
	query := address.Query()
	query.Set("search_path", name)
	address.RawQuery = query.Encode()
	return address.String(), nil
}

// told says how far it is, and at once what is wrong.
func (m *matrix) told(c *crashCase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done++
	for _, fault := range c.faults {
		fmt.Printf("  fault: %s: %s\n", c, fault)
	}
	if m.done%20 == 0 {
		fmt.Printf("  %d of %d kills\n", m.done, len(m.cases))
	}
}

func (m *matrix) result() result {
	var faulty, orphans, twice int
	seen := map[string]bool{}
	for _, c := range m.cases {
		seen[c.point] = true
		faulty += min(len(c.faults), 1)
		for _, fault := range c.faults {
			orphans += strings.Count(fault, "orphan")
			twice += strings.Count(fault, "twice")
		}
	}
	figure := fmt.Sprintf("%s, process%s: %d kills at %d points: %d converged, %d orphans, %d duplicates", strings.Join(m.plan.stores, " and "),
		map[bool]string{true: " and Docker"}[m.docker], len(m.cases), len(seen), len(m.cases)-faulty, orphans, twice)
	return result{figure: figure, bar: "all converged, 0 orphans, 0 duplicates", ok: faulty == 0}
}

// print prints the matrix: how long it took to converge, or that it did not.
func (m *matrix) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  store\truntime\tkilled at\t%s\n", strings.Join(crashActions(), "\t"))
	cells := map[string]string{}
	var rows []string
	for _, c := range m.cases {
		row := c.store + "\t" + c.runtime + "\t" + c.point
		if !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
		cells[row+c.what] = fmt.Sprintf("ok %.1f s", c.took.Seconds())
		if len(c.faults) > 0 {
			cells[row+c.what] = "FAULT"
		}
	}
	for _, row := range rows {
		fmt.Fprintf(w, "  %s", row)
		for _, what := range crashActions() {
			fmt.Fprintf(w, "\t%s", cmp.Or(cells[row+what], "-"))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
}

// crashing is one environment in which the server is killed again and again.
type crashing struct {
	*killing
	arm       string // the file that names the point
	hook      string // the program of the hooks
	databases *databases
	plan      *crashPlan
}

// work takes one case after another, in an environment of its own. database is "" for SQLite.
func (m *matrix) work(ctx context.Context, number int, database string, queue <-chan *crashCase) error {
	e, done, err := environmentFor(m.binary)
	if err != nil {
		return err
	}
	defer done()
	k := &killing{environment: e, marker: fmt.Sprintf("crash-%d-%d-%d", os.Getpid(), number, time.Now().UnixNano()), evenEnded: true, processOnly: !m.docker}
	db, stop, err := serveDatabases(ctx, m.docker)
	if err != nil {
		return err
	}
	defer stop()
	w := &crashing{killing: k, arm: filepath.Join(e.dir, "failpoint"), hook: m.hook, databases: db, plan: &m.plan}
	e.variables = []string{fp.Variable + "=" + w.arm, "LAYOVER_STORE=" + database}
	if err := k.prepare(ctx); err != nil {
		return err
	}
	defer k.cleanUp()
	defer w.revive()
	if err := errors.Join(w.start(ctx), w.allRun(ctx)); err != nil {
		return err
	}
	n := 0
	for c := range queue {
		n++
		if err := w.one(ctx, c, fmt.Sprintf("v%d", n)); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		m.told(c)
	}
	return nil
}

// revive starts a server where the last one was killed and the proof breaks off: its end
// takes the instances with it.
func (w *crashing) revive() {
	if w.up == nil {
		_ = os.Remove(w.arm)
		_ = w.start(context.Background()) // what cannot be started leaves them
	}
}

// one is one case: do, die, start, look.
func (w *crashing) one(ctx context.Context, c *crashCase, version string) error {
	client, err := api.NewClient(w.serverURL)
	if err != nil {
		return err
	}
	defer client.Close()
	d := w.deploymentFor(c)
	if err := w.ready(ctx, client, c, version, d); err != nil {
		return err
	}
	if err := os.WriteFile(w.arm, []byte(c.point), 0o600); err != nil {
		return err
	}
	asking, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() { // the server dies while it answers: that is the point
		switch c.what {
		case "sleep":
			_, _ = client.Sleep(asking, "pricing", version, "")
		case "wake":
			_, _, _ = w.ask(asking, "pricing.localhost", "/healthz", version)
		case "stop":
			_, _ = client.Stop(asking, "pricing", version, "")
		case "remove", "teardown":
			_, _ = client.Remove(asking, "pricing", version, "")
		default:
			_, _ = client.Deploy(asking, "pricing", version, d)
		}
	}()
	if !w.died(30 * time.Second) {
		c.faults = append(c.faults, "the point was not passed")
		w.kill()
	}
	giveUp()
	if err := errors.Join(os.RemoveAll(w.arm), w.spoil(ctx)); err != nil {
		return err
	}
	if err := w.start(ctx); err != nil {
		return err
	}
	began := time.Now()
	c.faults = append(c.faults, w.converged(ctx, c, version, d.Replicas)...)
	c.took = time.Since(began)
	if c.what == "sleep" && len(c.faults) == 0 {
		c.faults = append(c.faults, w.answered(ctx, version)...) // its route is there
	}
	if !c.removes() {
		if _, err := w.cli(ctx, "rm", "pricing@"+version); err != nil && len(c.faults) == 0 {
			return err
		}
	}
	return ctx.Err()
}

// deploymentFor returns what is deployed: processes are two, containers one.
func (w *crashing) deploymentFor(c *crashCase) api.Deployment {
	var d api.Deployment
	d.Replicas = 2
	program := w.hook
	if c.runtime == api.RuntimeDocker {
		d.Image, d.Replicas = w.image, 1
		program = "/hook"
	}
	if c.hooked() {
		d.Setup = &api.Hook{Command: []string{program, w.databases.url}, Timeout: api.Duration(20 * time.Second)}
		d.Teardown = d.Setup
	}
	return d
}

// ready brings the version to where the case begins.
func (w *crashing) ready(ctx context.Context, client *api.Client, c *crashCase, version string, d api.Deployment) error {
	if c.what == "deploy" || c.what == "setup" {
		return nil
	}
	v, err := client.Deploy(ctx, "pricing", version, d)
	if err != nil {
		return err
	}
	if v, err = client.WaitDeploy(ctx, "pricing", version, v.Generation, nil); err != nil || c.what != "wake" {
		return err
	}
	if _, err := client.Sleep(ctx, "pricing", version, ""); err != nil {
		return err
	}
	return until(ctx, 30*time.Second, func() (bool, error) {
		v, err = client.Version(ctx, "pricing", version)
		return err == nil && v.State == api.StateAsleep, err
	}, func() string { return "it does not fall asleep: " + string(v.State) })
}

// died waits until the server has ended by itself.
func (w *crashing) died(limit time.Duration) bool {
	ended := make(chan struct{})
	up := w.up
	go func() {
		defer close(ended)
		_ = up.Wait() // it was killed: that is the error
	}()
	select {
	case <-ended:
		w.up = nil
		return true
	case <-time.After(limit):
		_ = up.Process.Kill()
		<-ended
		return false
	}
}

// spoil leaves a process behind that nobody knows, where the proof is to fail.
func (w *crashing) spoil(ctx context.Context) error {
	if !w.plan.sabotage {
		return nil
	}
	cmd := exec.CommandContext(ctx, "sleep", "60")
	cmd.Env = append(os.Environ(), "LAYOVER_PROOF="+w.marker, "LAYOVER_VERSION=stranger")
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it is killed with the proof's other processes
	return nil
}

// converged waits until all is as wanted, and says what is not in the end.
func (w *crashing) converged(ctx context.Context, c *crashCase, version string, replicas int) []string {
	var wrong []string
	err := until(ctx, w.plan.patience(), func() (bool, error) {
		var err error
		wrong, err = w.wrong(ctx, c, version, replicas)
		return len(wrong) == 0, err
	}, func() string { return fmt.Sprintf("not as wanted after %s", w.plan.patience()) })
	if err != nil && len(wrong) == 0 {
		wrong = []string{err.Error()}
	}
	return wrong
}

// wrong compares what there is with what was asked for.
func (w *crashing) wrong(ctx context.Context, c *crashCase, version string, replicas int) ([]string, error) {
	versions, err := w.versions(ctx)
	if err != nil {
		return nil, err
	}
	counted, err := w.instances(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	want := map[string]int{"main": 1}
	i := slices.IndexFunc(versions, func(v api.Version) bool { return v.Name == version })
	switch c.what {
	case "deploy", "replace", "wake", "setup":
		want[version] = replicas
		generation := int64(1)
		if c.what == "replace" {
			generation = 2
		}
		if i < 0 || versions[i].State != api.StateRunning || versions[i].Serving != generation || versions[i].Healthy != replicas {
			out = append(out, fmt.Sprintf("generation %d does not serve with %d instances: %s", generation, replicas, states(versions)))
		} else {
			out = append(out, w.answered(ctx, version)...)
		}
	case "sleep":
		if i < 0 || versions[i].State != api.StateAsleep {
			out = append(out, "it is not asleep: "+states(versions))
		}
	case "stop":
		if i < 0 || versions[i].State != api.StateStopped {
			out = append(out, "it is not stopped: "+states(versions))
		}
	case "remove", "teardown":
		if i >= 0 {
			out = append(out, "it is not removed: "+states(versions))
		}
	}
	if c.hooked() {
		out = append(out, w.databases.wrong("pricing_"+version, !c.removes())...)
		if c.what == "setup" && i >= 0 && !slices.Equal(versions[i].OutputNames, []string{"DATABASE"}) {
			out = append(out, fmt.Sprintf("its setup gave %v", versions[i].OutputNames))
		}
	}
	for name, n := range counted {
		switch {
		case want[name] == 0:
			out = append(out, fmt.Sprintf("%d orphans of %s", n, name))
		case n > want[name]:
			out = append(out, fmt.Sprintf("%s runs twice: %d instances, not %d", name, n, want[name]))
		}
	}
	for name, n := range want {
		if counted[name] < n {
			out = append(out, fmt.Sprintf("%s has %d instances, not %d", name, counted[name], n))
		}
	}
	folders, err := filepath.Glob(filepath.Join(w.dir, ".layover", "instances", "*", "*"))
	if err != nil {
		return nil, err
	}
	processes := 1 // of main
	if c.runtime == api.RuntimeProcess {
		processes += want[version]
	}
	if len(folders) != processes {
		out = append(out, fmt.Sprintf("%d orphan folders: %v", len(folders)-processes, folders))
	}
	logs, err := w.logs(c, version, replicas)
	return append(out, logs...), err
}

// logs says what is wrong with the logs that are kept of the instances that have ended.
func (w *crashing) logs(c *crashCase, version string, replicas int) ([]string, error) {
	kept, err := filepath.Glob(filepath.Join(w.dir, ".layover", "logs", "*", "pricing@"+version, "*", "log.*"))
	if err != nil {
		return nil, err
	}
	switch c.what {
	case "remove", "teardown":
		if len(kept) > 0 {
			return []string{fmt.Sprintf("%d orphan logs: %v", len(kept), kept)}, nil
		}
	case "sleep", "stop":
		if len(kept) != replicas {
			return []string{fmt.Sprintf("%d logs are kept of %d instances: %v", len(kept), replicas, kept)}, nil
		}
	}
	return nil, nil
}

// answered asks the version, and says what is wrong with the answer.
func (w *crashing) answered(ctx context.Context, version string) []string {
	if _, by, err := w.ask(ctx, "pricing.localhost", "/healthz", version); !strings.HasPrefix(by, "pricing@"+version+";") {
		return []string{fmt.Sprintf("it is answered by %q (%v)", by, err)}
	}
	return nil
}
