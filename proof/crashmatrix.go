package main

import (
	"context"
	"errors"
	"fmt"
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
)

// crashPlan says how much the proof does.
type crashPlan struct {
	workers  int // environments side by side
	cases    func(docker bool) []crashCase
	sabotage bool // something is left over that the proof has to find
}

func crashFull() crashPlan {
	return crashPlan{workers: 6, cases: crashCases}
}

// crashSmall kills at some of the points where the most is half done.
func crashSmall() crashPlan {
	return crashPlan{workers: 3, cases: func(bool) []crashCase {
		return []crashCase{
			{what: "deploy", runtime: api.RuntimeProcess, point: fp.ProcessForked},
			{what: "deploy", runtime: api.RuntimeProcess, point: fp.DeployBegun},
			{what: "replace", runtime: api.RuntimeProcess, point: fp.DeployPromoted},
			{what: "replace", runtime: api.RuntimeProcess, point: fp.RetirePublished},
			{what: "stop", runtime: api.RuntimeProcess, point: fp.ProcessEnded},
			{what: "remove", runtime: api.RuntimeProcess, point: fp.RemoveDeleted},
		}
	}}
}

// crashCase is one kill: at a point, while something is done to a version.
type crashCase struct {
	what, runtime, point string

	took   time.Duration // from the start of the next server until all was as wanted
	faults []string
}

// crashActions are what is done to versions, in the order of the table.
func crashActions() []string { return []string{"deploy", "replace", "stop", "remove"} }

// crashPoints returns the points that an action passes, in their order.
func crashPoints(what, runtime string) []string {
	begin := []string{fp.DeployRecorded, fp.DeployBegun, fp.InstanceWanted}
	start := []string{fp.ProcessFolder, fp.ProcessPlanned, fp.ProcessForked}
	end := []string{fp.ProcessEnded, fp.ProcessRenamed}
	if runtime == api.RuntimeDocker {
		start, end = []string{fp.DockerCreated, fp.DockerStarted}, []string{fp.DockerEnded}
	}
	up := []string{fp.InstanceStarted, fp.InstanceHealthy, fp.DeployPromoted, fp.DeployPublished, fp.DeployRouted, fp.DeployTold}
	retire := slices.Concat([]string{fp.RetirePublished, fp.RetireDrained}, end, []string{fp.RetireStopped})
	switch what {
	case "deploy":
		return slices.Concat(begin, start, up)
	case "replace":
		return slices.Concat(begin, start, up, retire)
	case "stop":
		return slices.Concat([]string{fp.EndRecorded, fp.EndPublished}, retire, []string{fp.StopTold})
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
	cases := plan.cases(dockerAnswers(ctx))
	docker := slices.ContainsFunc(cases, func(c crashCase) bool { return c.runtime == api.RuntimeDocker })
	queue := make(chan *crashCase, len(cases))
	for i := range cases {
		queue <- &cases[i]
	}
	close(queue)
	errs := make([]error, plan.workers)
	var group sync.WaitGroup
	for i := range plan.workers {
		group.Go(func() { errs[i] = crashWorker(ctx, i, plan.sabotage, docker, queue) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return result{}, err
	}
	printCrashes(cases)
	var faults []string
	for _, c := range cases {
		for _, fault := range c.faults {
			faults = append(faults, fmt.Sprintf("%s, %s at %s: %s", c.runtime, c.what, c.point, fault))
		}
	}
	for _, fault := range faults {
		fmt.Println("  fault:", fault)
	}
	count := func(word string) int {
		return len(slices.DeleteFunc(slices.Clone(faults), func(f string) bool { return !strings.Contains(f, word) }))
	}
	orphans, twice := count("orphan"), count("twice")
	figure := fmt.Sprintf("SQLite, %d kills at %d points (process%s): %d converged, %d orphans, %d duplicates",
		len(cases), distinctPoints(cases), map[bool]string{true: " and Docker"}[docker], len(cases)-countFaulty(cases), orphans, twice)
	return result{figure: figure, bar: "all converged, 0 orphans, 0 duplicates", ok: len(faults) == 0}, nil
}

func countFaulty(cases []crashCase) int {
	n := 0
	for _, c := range cases {
		n += min(len(c.faults), 1)
	}
	return n
}

func distinctPoints(cases []crashCase) int {
	seen := map[string]bool{}
	for _, c := range cases {
		seen[c.point] = true
	}
	return len(seen)
}

// printCrashes prints the matrix: how long it took to converge, or that it did not.
func printCrashes(cases []crashCase) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  runtime\tkilled at\t%s\n", strings.Join(crashActions(), "\t"))
	var rows []string
	for _, c := range cases {
		if row := c.runtime + "\t" + c.point; !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
	}
	for _, row := range rows {
		fmt.Fprintf(w, "  %s", row)
		for _, what := range crashActions() {
			cell := "-"
			for _, c := range cases {
				switch {
				case c.runtime+"\t"+c.point != row || c.what != what:
				case len(c.faults) > 0:
					cell = "FAULT"
				default:
					cell = fmt.Sprintf("ok %.1f s", c.took.Seconds())
				}
			}
			fmt.Fprintf(w, "\t%s", cell)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
}

// crashing is one environment in which the server is killed again and again.
type crashing struct {
	*killing
	arm      string // the file that names the point
	sabotage bool
}

func crashWorker(ctx context.Context, number int, sabotage, docker bool, queue <-chan *crashCase) error {
	e, done, err := newEnvironment(ctx, "failpoint")
	if err != nil {
		return err
	}
	defer done()
	k := &killing{environment: e, marker: fmt.Sprintf("crash-%d-%d-%d", os.Getpid(), number, time.Now().UnixNano()), evenEnded: true, processOnly: !docker}
	w := &crashing{killing: k, arm: filepath.Join(e.dir, "failpoint"), sabotage: sabotage}
	e.variables = []string{fp.Variable + "=" + w.arm}
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
			return fmt.Errorf("%s, %s at %s: %w", c.runtime, c.what, c.point, err)
		}
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
	var d api.Deployment
	d.Replicas = 2
	if c.runtime == api.RuntimeDocker {
		d.Image, d.Replicas = w.image, 1
	}
	if c.what != "deploy" {
		v, err := client.Deploy(ctx, "pricing", version, d)
		if err != nil {
			return err
		}
		if _, err := client.WaitDeploy(ctx, "pricing", version, v.Generation, nil); err != nil {
			return err
		}
	}
	if err := os.WriteFile(w.arm, []byte(c.point), 0o600); err != nil {
		return err
	}
	asking, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() { // the server dies while it answers: that is the point
		switch c.what {
		case "stop":
			_, _ = client.Stop(asking, "pricing", version, "")
		case "remove":
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
	if c.what != "remove" {
		if _, err := w.cli(ctx, "rm", "pricing@"+version); err != nil && len(c.faults) == 0 {
			return err
		}
	}
	return ctx.Err()
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
	if !w.sabotage {
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
	err := until(ctx, 30*time.Second, func() (bool, error) {
		var err error
		wrong, err = w.wrong(ctx, c, version, replicas)
		return len(wrong) == 0, err
	}, func() string { return "not as wanted after 30 s" })
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
	case "deploy", "replace":
		want[version] = replicas
		generation := map[string]int64{"deploy": 1, "replace": 2}[c.what]
		if i < 0 || versions[i].State != api.StateRunning || versions[i].Serving != generation || versions[i].Healthy != replicas {
			out = append(out, fmt.Sprintf("generation %d does not serve with %d instances: %s", generation, replicas, states(versions)))
		} else if _, by, err := w.ask(ctx, "pricing.localhost", "/healthz", version); !strings.HasPrefix(by, versions[i].ID()+";") {
			out = append(out, fmt.Sprintf("it is answered by %q (%v)", by, err))
		}
	case "stop":
		if i < 0 || versions[i].State != api.StateStopped {
			out = append(out, "it is not stopped: "+states(versions))
		}
	case "remove":
		if i >= 0 {
			out = append(out, "it is not removed: "+states(versions))
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
	return out, nil
}
