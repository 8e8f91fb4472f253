package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/examples/shop"
)

const (
	deployRounds = 10
	deployLimit  = time.Second // beside what the service itself needs
)

// proveDeployTime deploys a version of the running shop again and again, as a person
// does, and takes the time from the command to the first answer of the new version.
func proveDeployTime(rounds int) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return deployTime(ctx, rounds) }
}

func deployTime(ctx context.Context, rounds int) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	processes, err := deployRoundsOf(ctx, e, processShop(e), rounds)
	if err != nil {
		return result{}, fmt.Errorf("as processes: %w", err)
	}
	figure := "processes " + processes.String()
	ok := processes.overhead() < deployLimit
	if !dockerAnswers(ctx) {
		fmt.Println("  left out: Docker; no Engine answers here")
		figure += "; Docker left out: no Engine answers"
	} else {
		inDocker, err := dockerShop(ctx, e)
		if err != nil {
			return result{}, err
		}
		defer inDocker.cleanUp()
		containers, err := deployRoundsOf(ctx, e, inDocker, rounds)
		if err != nil {
			return result{}, fmt.Errorf("in Docker: %w", err)
		}
		figure += "; Docker " + containers.String() + ", own start by docker run"
		ok = ok && containers.overhead() < deployLimit
	}
	return result{
		figure: figure,
		bar:    fmt.Sprintf("%s beside the service's own start; after stop, main with its fallback named", deployLimit),
		ok:     ok,
	}, nil
}

// setup is one way to run the shop.
type setup struct {
	name     string
	yaml     string
	deploy   []string                                     // arguments of deploy, behind the target
	ownStart func(context.Context) (time.Duration, error) // the service alone, until it is healthy
	cleanUp  func()
}

// times are medians.
type times struct {
	deployed time.Duration // from the command to the first answer
	own      time.Duration // of it, the service's own start
}

func (t times) overhead() time.Duration { return t.deployed - t.own }

func (t times) String() string {
	return fmt.Sprintf("%d ms (own start %d ms, Layover %d ms)",
		t.deployed.Milliseconds(), t.own.Milliseconds(), t.overhead().Milliseconds())
}

func deployRoundsOf(ctx context.Context, e *environment, s setup, rounds int) (times, error) {
	fmt.Printf("  the shop, %s\n", s.name)
	if err := e.write(s.yaml); err != nil {
		return times{}, err
	}
	if err := e.start(ctx); err != nil {
		return times{}, err
	}
	if err := e.allRun(ctx); err != nil {
		return times{}, fmt.Errorf("%w; up said:\n%s", err, e.said)
	}
	var deployed, own []time.Duration
	for i := range rounds {
		start, err := s.ownStart(ctx)
		if err != nil {
			return times{}, err
		}
		own = append(own, start)
		took, err := deployOnce(ctx, e, s, fmt.Sprintf("try-%d", i+1))
		if err != nil {
			return times{}, err
		}
		deployed = append(deployed, took)
		fmt.Printf("    try-%-2d  routed after %4d ms, own start %3d ms\n", i+1, took.Milliseconds(), start.Milliseconds())
	}
	slices.Sort(deployed)
	slices.Sort(own)
	return times{deployed: deployed[len(deployed)/2], own: own[len(own)/2]}, e.end()
}

// deployOnce deploys a version, waits for its first answer through three hops, stops it,
// and sees main answer again.
func deployOnce(ctx context.Context, e *environment, s setup, version string) (time.Duration, error) {
	began := time.Now()
	if _, err := e.cli(ctx, append([]string{"deploy", "pricing@" + version}, s.deploy...)...); err != nil {
		return 0, err
	}
	if _, by, err := e.ask(ctx, "pricing.localhost", "/prices", version); err != nil || !strings.HasPrefix(by, "pricing@"+version+";") {
		return 0, errors.Join(err, fmt.Errorf("the first request was answered by %q", by))
	}
	took := time.Since(began)
	if err := throughTheShop(ctx, e, version, version); err != nil {
		return 0, err
	}
	if _, err := e.cli(ctx, "stop", "pricing@"+version); err != nil {
		return 0, err
	}
	if _, by, err := e.ask(ctx, "pricing.localhost", "/prices", version); err != nil ||
		!strings.HasPrefix(by, "pricing@main;") || !strings.Contains(by, "fallback=unknown") {
		return 0, errors.Join(err, fmt.Errorf("after stop the request was answered by %q, not by main with its fallback named", by))
	}
	return took, throughTheShop(ctx, e, version, "main")
}

// throughTheShop asks the storefront, and checks which version answered on each hop.
func throughTheShop(ctx context.Context, e *environment, route, pricing string) error {
	body, _, err := e.ask(ctx, "storefront.localhost", "/api/products", route)
	if err != nil {
		return err
	}
	var answer shop.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	hops := answer.Hops()
	for _, service := range shop.Services() {
		want := service + "@main"
		if service == shop.Pricing {
			want = service + "@" + pricing
		}
		if !slices.Contains(hops, want) {
			return fmt.Errorf("%s did not take part in %s", want, strings.Join(hops, ", "))
		}
	}
	return nil
}

// processShop runs the shop's services as processes of this machine.
func processShop(e *environment) setup {
	return setup{
		name: "as processes",
		yaml: shopYAML([]string{"127.0.0.1:" + e.proxyPort}, map[string]string{
			"HTTP_PROXY": "http://{proxy}", "LAYOVER_PROXY": "{proxy}",
		}, func(service string) string {
			return fmt.Sprintf("process: {command: [%q, shop, %s]}", e.binary, service)
		}),
		deploy: []string{"--command", e.binary + " shop pricing", "--env", "PRICING_DISCOUNT=50"},
		ownStart: func(ctx context.Context) (time.Duration, error) {
			ports, err := freePorts(1)
			if err != nil {
				return 0, err
			}
			began := time.Now()
			cmd := exec.CommandContext(ctx, e.binary, "shop", "pricing")
			cmd.Env = append(os.Environ(), "PORT="+ports[0])
			if err := cmd.Start(); err != nil {
				return 0, err
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			return sinceHealthy(ctx, began, ports[0])
		},
		cleanUp: func() {},
	}
}

// dockerShop runs the same services as containers that call each other by name.
func dockerShop(ctx context.Context, e *environment) (setup, error) {
	fmt.Println("  building the shop's image")
	folder := filepath.Join(e.dir, "image")
	if err := goBuild(ctx, filepath.Join(folder, "shop"), "examples/shop/cmd/shop"); err != nil {
		return setup{}, err
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/layover-dev/layover").Output()
	if err != nil {
		return setup{}, fmt.Errorf("find the module: %w", err)
	}
	dockerfile := filepath.Join(strings.TrimSpace(string(root)), "examples", "shop", "Dockerfile")
	image := "layover-proof-shop:" + e.proxyPort
	build := exec.CommandContext(ctx, "docker", "build", "-q", "-t", image, "-f", dockerfile, folder)
	if text, err := build.CombinedOutput(); err != nil {
		return setup{}, fmt.Errorf("build the image: %w\n%s", err, text)
	}
	// The names the code calls; inside the containers they lead to the proxy.
	env := map[string]string{
		"CART_URL": "http://cart.localhost:" + e.proxyPort, "PRICING_URL": "http://pricing.localhost:" + e.proxyPort,
		"RECOMMENDATIONS_URL": "http://recommendations.localhost:" + e.proxyPort, "INVENTORY_ADDR": "inventory.localhost:" + e.proxyPort,
	}
	return setup{
		name: "in Docker, container to container",
		yaml: shopYAML([]string{"127.0.0.1:" + e.proxyPort, "docker:" + e.proxyPort}, env, func(service string) string {
			return fmt.Sprintf("docker: {image: %q, command: [%s], pull: never}", image, service)
		}),
		deploy: []string{"--image", image, "--env", "PRICING_DISCOUNT=50"},
		ownStart: func(ctx context.Context) (time.Duration, error) {
			ports, err := freePorts(1)
			if err != nil {
				return 0, err
			}
			name := "layover-proof-" + ports[0]
			began := time.Now()
			run := exec.CommandContext(ctx, "docker", "run", "-d", "--rm", "--init", "--name", name,
				"-e", "PORT=8080", "-p", "127.0.0.1:"+ports[0]+":8080", image, "pricing")
			if text, err := run.CombinedOutput(); err != nil {
				return 0, fmt.Errorf("docker run: %w\n%s", err, text)
			}
			defer func() { _ = exec.Command("docker", "rm", "-f", name).Run() }()
			return sinceHealthy(ctx, began, ports[0])
		},
		cleanUp: func() { _ = exec.Command("docker", "rmi", "-f", image).Run() },
	}, nil
}

// shopYAML is the shop's layover.yaml with ports of its own.
func shopYAML(listen []string, env map[string]string, run func(service string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "environment: proof\nproxy: {listen: [%s]}\n", strings.Join(listen, ", "))
	b.WriteString("defaults:\n  health: /healthz\n  timeout: 30s\n  env:\n")
	for name, value := range env {
		fmt.Fprintf(&b, "    %s: %q\n", name, value)
	}
	b.WriteString("services:\n")
	for _, service := range shop.Services() {
		fmt.Fprintf(&b, "  %s:\n    run: {%s}\n", service, run(service))
		if service == shop.Inventory {
			b.WriteString("    protocol: h2c\n    health: tcp\n")
		}
	}
	return b.String()
}

// sinceHealthy polls the health path of a service that listens on a local port.
func sinceHealthy(ctx context.Context, began time.Time, port string) (time.Duration, error) {
	err := until(ctx, 30*time.Second, func() (bool, error) {
		res, err := http.Get("http://127.0.0.1:" + port + "/healthz")
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		_ = res.Body.Close()
		return res.StatusCode < 300, nil
	}, func() string { return "the service alone does not become healthy" })
	return time.Since(began), err
}
