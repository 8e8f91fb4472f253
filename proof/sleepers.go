package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
)

const (
	sleeperMemory  = 120_000_000            // bytes resident, of server and proxy together
	sleeperCPU     = 0.01                   // of one
	sleeperPage    = 200 * time.Millisecond // for a page of layover ls
	sleeperMeasure = 30 * time.Second
	sleeperRows    = 100 // on a page
)

// sleeperPlan says how many versions there are, and how long to look.
type sleeperPlan struct {
	sleeping, listed int
	measure          time.Duration
}

// proveSleepers has very many versions sleep, and looks at what that costs.
func proveSleepers(plan sleeperPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return sleepers(ctx, plan) }
}

func sleepers(ctx context.Context, plan sleeperPlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	fmt.Printf("  %d versions asleep\n", plan.sleeping)
	if err := e.startSleepers(ctx, self, plan.sleeping); err != nil {
		return result{}, err
	}
	if _, by, err := e.ask(ctx, "page.localhost", "/", "sleeper-000007"); err != nil || !strings.HasPrefix(by, "page@sleeper-000007;") {
		return result{}, fmt.Errorf("one of them does not wake: answered by %q: %w", by, err)
	}
	cpu, memory, err := e.rests(ctx, plan.measure)
	if err != nil {
		return result{}, err
	}
	fmt.Printf("    %.1f MB resident, %.2f %% of a CPU over %s\n", float64(memory)/1e6, 100*cpu, plan.measure)
	if err := e.end(); err != nil {
		return result{}, err
	}

	fmt.Printf("  %d versions to list\n", plan.listed)
	if err := e.startSleepers(ctx, self, plan.listed); err != nil {
		return result{}, err
	}
	page, err := e.listPages(ctx, sleeperRows)
	if err != nil {
		return result{}, err
	}
	return result{
		figure: fmt.Sprintf("%d asleep: %.1f MB resident, %.2f %% of a CPU; a page of layover ls of %d: %d ms",
			plan.sleeping, float64(memory)/1e6, 100*cpu, plan.listed, page.Milliseconds()),
		bar: fmt.Sprintf("at most %d MB, under %.0f %% of a CPU, under %d ms", sleeperMemory/1_000_000, 100*sleeperCPU, sleeperPage.Milliseconds()),
		ok:  memory <= sleeperMemory && cpu < sleeperCPU && page < sleeperPage,
	}, nil
}

// startSleepers starts an environment whose store has n versions that sleep. They are put there as the
// server would: starting each would take hours.
func (e *environment) startSleepers(ctx context.Context, self string, n int) error {
	yaml := fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
defaults: {idle_sleep: 30m, ttl: 30d}
services:
  page:
    health: /
    run: {process: {command: [%q, %s, app]}}
`, e.proxyPort, self, backendCommand)
	if err := e.write(yaml); err != nil {
		return err
	}
	if err := fillStore(ctx, filepath.Join(e.dir, ".layover"), self, n); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	if err := e.start(ctx); err != nil {
		return err
	}
	client, err := api.NewClient(e.serverURL)
	if err != nil {
		return err
	}
	defer client.Close()
	return until(ctx, time.Minute, func() (bool, error) {
		v, err := client.Version(ctx, "page", "main")
		return err == nil && v.State == api.StateRunning, nil
	}, func() string { return "page@main does not run; up said:\n" + e.said.String() })
}

func fillStore(ctx context.Context, dir, self string, n int) error {
	db, err := store.OpenSQLite(ctx, filepath.Join(dir, "layover.db"))
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	for i := range n {
		key := control.Key{Service: "page", Version: fmt.Sprintf("sleeper-%06d", i)}
		err := db.UpdateVersion(ctx, key, func(*control.VersionRecord) (*control.VersionRecord, error) {
			return &control.VersionRecord{
				Key: key, Desired: control.DesiredAsleep, Owner: "ana", Source: "cli", CreatedAt: now, Lease: control.Lease{ActiveAt: now},
				Generations: []control.Generation{{
					Number: 1, State: control.GenerationServing, Served: true, At: now,
					Run: api.Run{Process: &api.Process{Command: []string{self, backendCommand, "app"}, Dir: dir}},
				}},
			}, nil
		})
		if err != nil {
			return err
		}
	}
	return db.Close()
}

// rests returns what the process of server and proxy takes while nothing happens: the part of one CPU,
// and its resident memory at the end.
func (e *environment) rests(ctx context.Context, d time.Duration) (cpu float64, memory int64, err error) {
	before, err := cpuOf(e.up.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	after, err := cpuOf(e.up.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	memory, err = residentOf(e.up.Process.Pid)
	return (after - before).Seconds() / time.Since(began).Seconds(), memory, err
}

// cpuOf returns the CPU time that a process has taken, by /proc.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(text, []byte(") ")) // behind the name, which may be anything
	fields := strings.Fields(string(rest))
	const user, system, tick = 11, 12, 10 * time.Millisecond
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// residentOf returns the resident memory of a process, by /proc.
func residentOf(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status does not tell the memory", pid)
}

// listPages lists some pages of so many rows with the command line, and returns the median of the times.
func (e *environment) listPages(ctx context.Context, rows int) (time.Duration, error) {
	var times []time.Duration
	after := ""
	for range 9 {
		args := []string{"ls", "--json", "--limit", strconv.Itoa(rows)}
		if after != "" {
			args = append(args, "--after", after)
		}
		began := time.Now()
		text, err := e.cli(ctx, args...)
		if err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
		var versions []api.Version
		if err := json.Unmarshal([]byte(text), &versions); err != nil {
			return 0, err
		}
		if len(versions) != rows || after != "" && versions[0].ID() <= after {
			return 0, fmt.Errorf("the page behind %q has %d versions", after, len(versions))
		}
		after = versions[len(versions)-1].ID()
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
