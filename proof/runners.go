package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// runner is a suite, or a browser, that is run as it is through layover exec.
type runner struct {
	name    string
	needs   string   // the program
	command []string // in the folder of the suites
	reaches map[string]int
}

func runners() []runner {
	return []runner{
		{"pytest", "pytest-3", []string{"pytest-3", "-q", "-p", "no:cacheprovider", "-rP", "test_cart.py"}, map[string]int{"cart": 6}},
		{"Node", "node", []string{"node", "--test", "cart.test.mjs"}, map[string]int{"cart": 3}},
		{"Go, and gRPC", "go", []string{"go", "test", "-tags", "suite", "-count=1", "-v", "./gosuite"}, map[string]int{"cart": 2, "inventory": 1}},
		{"Chromium", "chromium", []string{"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=PROFILE", "--dump-dom", "CART/items/1"}, map[string]int{"cart": 1}},
		{"curl", "curl", []string{"curl", "-fsS", "CART/items/1"}, map[string]int{"cart": 1}},
	}
}

// proveRunners runs suites of several languages and a browser, unchanged, with a route in their hands.
func proveRunners(ctx context.Context) (result, error) { return runnersProof(ctx, "feature") }

func runnersProof(ctx context.Context, route string) (result, error) {
	s, done, err := newTestScene(ctx, "")
	if err != nil {
		return result{}, err
	}
	defer done()
	if err := s.startWith(ctx, fmt.Sprintf(`  cart:
    run: {process: {command: [FLAW, serve]}}
    env: {ANSWER: "cart main"}
    versions: {feature: {env: {ANSWER: "cart feature"}}}
  inventory:
    protocol: h2c
    health: tcp
    run: {process: {command: [%q, shop, inventory]}}
    versions: {feature: {}}
`, s.binary)); err != nil {
		return result{}, err
	}
	client, err := api.NewClient(s.serverURL)
	if err != nil {
		return result{}, err
	}
	defer client.Close()
	dir, err := suitesFolder(ctx)
	if err != nil {
		return result{}, err
	}
	var figures, missing []string
	ok := true
	for i, r := range runners() {
		if _, err := exec.LookPath(r.needs); err != nil {
			missing = append(missing, r.name+" (no "+r.needs+")")
			continue
		}
		reached, err := s.runUnchanged(ctx, client, dir, fmt.Sprintf("run-%d", i), route, r)
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", r.name, err)
		}
		right := true
		var parts []string
		for service, want := range r.reaches {
			feature, other := 0, 0
			for _, e := range reached.Edges {
				switch {
				case e.ID() == service+"@feature":
					feature += e.Requests
				case e.Service == service:
					other += e.Requests
				}
			}
			right = right && feature >= want && other == 0
			parts = append(parts, fmt.Sprintf("%d of %s@feature, %d of others", feature, service, other))
		}
		fmt.Printf("  %-13s %s\n", r.name, strings.Join(parts, "; "))
		ok = ok && right
		word := "reached"
		if !right {
			word = "missed"
		}
		figures = append(figures, r.name+" "+word)
	}
	figure := strings.Join(figures, ", ")
	if len(missing) > 0 {
		figure += "; left out: " + strings.Join(missing, ", ")
	}
	return result{figure: figure, bar: "each reaches the version with every request, unchanged", ok: ok && len(missing) == 0}, nil
}

// runUnchanged runs a suite through layover exec, and returns what its run reached.
func (s *testScene) runUnchanged(ctx context.Context, client *api.Client, dir, id, route string, r runner) (api.Reached, error) {
	cart := "http://cart.localhost:" + s.proxyPort
	words := strings.NewReplacer("CART", cart, "PROFILE", filepath.Join(s.dir, "profile"))
	args := []string{"exec", "--run", id}
	if route != "" {
		args = append(args, "--route", route)
	}
	args = append(args, "--")
	for _, word := range r.command {
		args = append(args, words.Replace(word))
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+s.serverURL, "CART_URL="+cart, "INVENTORY=dns:///inventory.localhost:"+s.proxyPort, "PYTHONDONTWRITEBYTECODE=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return api.Reached{}, fmt.Errorf("%w:\n%s", err, out.String())
	}
	if route != "" && !strings.Contains(out.String(), "cart feature") {
		return api.Reached{}, fmt.Errorf("the version did not answer:\n%s", out.String())
	}
	var reached api.Reached
	began := time.Now()
	return reached, until(ctx, 30*time.Second, func() (bool, error) {
		var err error
		reached, err = client.Reached(ctx, id)
		return reached.Judged.After(began.Add(time.Second)), err
	}, func() string { return "receipts do not come" })
}

// suitesFolder is the folder of the suites in the repository.
func suitesFolder(ctx context.Context) (string, error) {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/layover-dev/layover").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "proof", "suites"), nil
}
