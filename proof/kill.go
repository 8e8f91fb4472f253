package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

const (
	killRounds  = 20
	killDeploys = 5
	killWithin  = 700 * time.Millisecond
)

// proveKill kills the server at a random moment of five deployments, starts it
// again, and compares what `layover ls` says with the processes and containers
// that there really are.
func proveKill(rounds int) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return kill(ctx, rounds) }
}

func kill(ctx context.Context, rounds int) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	k := &killing{environment: e, marker: fmt.Sprintf("proof-%d-%d", os.Getpid(), time.Now().UnixNano())}
	if err := k.prepare(ctx); err != nil {
		return result{}, err
	}
	defer k.cleanUp()
	seed := uint64(time.Now().UnixNano())
	fmt.Printf("  seed %d\n", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		// More of the moments are early, where most of the steps are.
		after := time.Duration(random.Float64() * random.Float64() * float64(killWithin))
		if err := k.round(ctx, round, after); err != nil {
			return result{}, err
		}
	}
	if err := k.end(); err != nil {
		return result{}, err
	}
	left, err := k.instances(ctx)
	if err != nil {
		return result{}, err
	}
	for version, n := range left {
		k.faults = append(k.faults, fmt.Sprintf("after Ctrl-C %d instances of %s are left", n, version))
	}
	for _, fault := range k.faults {
		fmt.Println("  fault:", fault)
	}
	figure := fmt.Sprintf("%d kills in the middle of %d deployments (%d running, %d of them containers; %d failed, %d never recorded): %d faults",
		rounds, rounds*killDeploys, k.running, k.containers, k.failed, k.unrecorded, len(k.faults))
	tried := k.running > k.containers && k.failed > 0 && (k.containers > 0 || k.image == "")
	return result{figure: figure, bar: "0 orphaned, doubled or half-done", ok: len(k.faults) == 0 && tried}, nil
}

type killing struct {
	*environment
	marker string // in the environment of every instance
	image  string // "" without Docker

	evenEnded   bool // containers that have ended count, too
	processOnly bool // Docker is not used, even where it is

	running, failed, unrecorded int
	containers                  int // of the running
	faults                      []string
}

func (k *killing) prepare(ctx context.Context) error {
	yaml := fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
services:
  pricing:
    health: /healthz
    timeout: 30s
    env: {LAYOVER_PROOF: %s}
    run: {process: {command: [%q, shop, pricing]}}
`, k.proxyPort, k.marker, k.binary)
	if err := k.write(yaml); err != nil {
		return err
	}
	if k.processOnly {
		return nil
	}
	if !dockerAnswers(ctx) {
		fmt.Println("  left out: containers; no Docker Engine answers here")
		return nil
	}
	folder := filepath.Join(k.dir, "image")
	if err := errors.Join(goBuild(ctx, filepath.Join(folder, "shop"), "examples/shop/cmd/shop"), goBuild(ctx, filepath.Join(folder, "hook"), "proof/hook")); err != nil {
		return err
	}
	dockerfile := "FROM scratch\nCOPY shop hook /\nENV HOST=0.0.0.0\nCMD [\"/shop\", \"pricing\"]\n"
	if err := os.WriteFile(filepath.Join(folder, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		return err
	}
	k.image = "layover-proof-kill:" + k.proxyPort
	build := exec.CommandContext(ctx, "docker", "build", "-q", "-t", k.image, folder)
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the image: %w\n%s", err, text)
	}
	return nil
}

func (k *killing) cleanUp() {
	if k.image != "" {
		_ = exec.Command("docker", "rmi", "-f", k.image).Run()
	}
}

// round starts five deployments, kills the server after a while, starts it
// again, and looks at what became of them.
func (k *killing) round(ctx context.Context, round int, after time.Duration) error {
	if k.up == nil {
		if err := k.start(ctx); err != nil {
			return err
		}
		if err := k.allRun(ctx); err != nil {
			return err
		}
	}
	deploying, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var group sync.WaitGroup
	wanted := make([]string, killDeploys)
	client, err := api.NewClient(k.serverURL)
	if err != nil {
		return err
	}
	defer client.Close()
	for i := range killDeploys {
		wanted[i] = fmt.Sprintf("r%d-%d", round, i)
		if i == 1 {
			wanted[i] = "main" // it runs, and is replaced
		}
		// Some find no server any more: that is the point.
		group.Go(func() { _, _ = client.Deploy(deploying, "pricing", wanted[i], k.deployment(i)) })
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return ctx.Err()
	}
	k.kill()
	giveUp()
	group.Wait()
	if err := k.start(ctx); err != nil {
		return err
	}
	if err := k.settled(ctx); err != nil {
		return err
	}
	counts := fmt.Sprintf("%d/%d/%d", k.running, k.failed, k.unrecorded)
	if err := k.compare(ctx, wanted); err != nil {
		return err
	}
	fmt.Printf("  round %2d: killed after %3d ms; running/failed/unrecorded %s -> %d/%d/%d\n",
		round+1, after.Milliseconds(), counts, k.running, k.failed, k.unrecorded)
	for _, version := range wanted {
		if version != "main" {
			_, _ = k.cli(ctx, "rm", "pricing@"+version) // those that were never recorded are unknown
		}
	}
	return nil
}

// deployment is one of the five: one that runs already and is replaced, one that
// starts slowly, a container, one that crashes.
func (k *killing) deployment(i int) api.Deployment {
	var d api.Deployment
	switch {
	case i == 1:
		d.Env = map[string]string{"SHOP_START_DELAY": "50ms"}
	case i == 2:
		d.Env = map[string]string{"SHOP_START_DELAY": "200ms"}
	case i == 3 && k.image != "":
		d.Image = k.image
	case i == 4:
		d.Env = map[string]string{"SHOP_CRASH": "1"}
	}
	return d
}

// settled waits until no version is on its way.
func (k *killing) settled(ctx context.Context) error {
	var last string
	return until(ctx, time.Minute, func() (bool, error) {
		versions, err := k.versions(ctx)
		last = states(versions)
		for _, v := range versions {
			if v.State == api.StateStarting || v.State == api.StateStopping {
				return false, err
			}
		}
		return true, err
	}, func() string { return "not settled after a minute: " + last })
}

// compare counts what became of the deployments, and notes every fault.
func (k *killing) compare(ctx context.Context, wanted []string) error {
	versions, err := k.versions(ctx)
	if err != nil {
		return err
	}
	listed := map[string]api.Version{}
	for _, v := range versions {
		listed[v.Name] = v
	}
	for _, name := range wanted {
		v, ok := listed[name]
		switch {
		case !ok:
			k.unrecorded++
		case v.State == api.StateRunning:
			k.running++
			if v.Runtime == api.RuntimeDocker {
				k.containers++
			}
			if _, by, err := k.ask(ctx, "pricing.localhost", "/healthz", name); !strings.HasPrefix(by, v.ID()+";") {
				k.fault("%s runs, and is not answered by it but by %q (%v)", v.ID(), by, err)
			}
		case v.State == api.StateFailed && v.Reason != "":
			k.failed++
		default:
			k.fault("%s is %s, reason %q", v.ID(), v.State, v.Reason)
		}
	}
	// Ending what is not wanted takes a moment.
	var counted map[string]int
	err = until(ctx, 20*time.Second, func() (bool, error) {
		if counted, err = k.instances(ctx); err != nil {
			return false, err
		}
		return len(wrongCounts(listed, counted)) == 0, nil
	}, func() string { return "counts differ" })
	if err != nil {
		for _, text := range wrongCounts(listed, counted) {
			k.fault("%s", text)
		}
	}
	return nil
}

// wrongCounts compares the versions that run with the instances there are.
func wrongCounts(listed map[string]api.Version, counted map[string]int) []string {
	var out []string
	for name, v := range listed {
		want := 0
		if v.State == api.StateRunning {
			want = 1
		}
		if counted[name] != want {
			out = append(out, fmt.Sprintf("%s is %s and has %d instances", v.ID(), v.State, counted[name]))
		}
	}
	for name, n := range counted {
		if _, ok := listed[name]; !ok {
			out = append(out, fmt.Sprintf("%d orphans of %s", n, name))
		}
	}
	return out
}

func (k *killing) fault(format string, args ...any) {
	k.faults = append(k.faults, fmt.Sprintf(format, args...))
}

// instances counts, by version, the processes and containers that carry the marker,
// asking the kernel and Docker, not Layover.
func (k *killing) instances(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, errors.New("this proof counts processes in /proc, which is not here"))
	}
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(env, []byte("LAYOVER_PROOF="+k.marker)) {
			continue // gone, or not ours
		}
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		inContainer, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if bytes.Contains(inContainer, []byte("docker")) {
			continue // counted below
		}
		for entry := range strings.SplitSeq(string(env), "\x00") {
			if version, ok := strings.CutPrefix(entry, "LAYOVER_VERSION="); ok {
				counts[version]++
			}
		}
	}
	if k.image == "" {
		return counts, nil
	}
	all := fmt.Sprintf("--all=%t", k.evenEnded)
	text, err := exec.CommandContext(ctx, "docker", "ps", all, "--filter", "ancestor="+k.image,
		"--format", `{{.Label "dev.layover.version"}}`).Output()
	if err != nil {
		return nil, fmt.Errorf("docker ps: %w", err)
	}
	for version := range strings.FieldsSeq(string(text)) {
		counts[version]++
	}
	return counts, nil
}
