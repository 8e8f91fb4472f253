package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/layover-dev/layover/"

// mayImport says which packages of ours each package may import: the walls of
// docs/design.md. A new package gets a line here.
func mayImport() map[string][]string {
	runtime := []string{"api", "internal/control", "internal/failpoint", "internal/near", "internal/route", "internal/runtime/sockets"}
	logged := append([]string{"internal/runtime/logfile"}, runtime...)
	return map[string][]string{
		"api":                              {"internal/route"},
		"bench":                            {"bench/harness", "internal/route"},
		"bench/harness":                    {"internal/gateway/traefik", "internal/route"},
		"cmd/layover":                      {"internal/cli", "internal/runtime/process"},
		"deploy":                           {},
		"docs":                             {},
		"examples/database":                {},
		"examples/shop":                    {"examples/shop/inventorypb"},
		"examples/shop/cmd/shop":           {"examples/shop"},
		"examples/shop/inventorypb":        {},
		"internal/config":                  {"api", "internal/near", "internal/route"},
		"internal/control":                 {"api", "internal/failpoint", "internal/route"},
		"internal/edge":                    {"api", "internal/route"},
		"internal/failpoint":               {},
		"internal/forge":                   {"api", "internal/route"},
		"internal/forge/forgetest":         {},
		"internal/forward":                 {"internal/route"},
		"internal/gateway/redis":           {},
		"internal/gateway/redis/redistest": {},
		"internal/gateway/traefik":         {"internal/route"},
		"internal/gateway/traefik/live":    {"internal/gateway/traefik"},
		"internal/handover":                {},
		"internal/near":                    {},
		"internal/proxy":                   {"internal/proxy/http1", "internal/proxy/xconnect", "internal/route"},
		"internal/proxy/http1":             {},
		"internal/proxy/xconnect":          {},
		"internal/receipt":                 {"api", "internal/route"},
		"internal/receipt/sender":          {"api", "internal/proxy", "internal/route"},
		"internal/route":                   {},
		"internal/route/routetest":         {"internal/route"},
		"internal/runtime/docker":          logged,
		"internal/runtime/ecs":             logged,
		"internal/runtime/ecs/ecstest":     {},
		"internal/runtime/external":        runtime,
		"internal/runtime/logfile":         runtime,
		"internal/runtime/process":         logged,
		"internal/runtime/runtimetest":     runtime,
		"internal/runtime/runtimetest/app": {},
		"internal/runtime/sockets":         {},
		"internal/server":                  {"api", "internal/control", "internal/gateway/redis", "internal/gateway/traefik", "internal/receipt", "internal/route"},
		"internal/server/servertest":       {"api", "internal/control", "internal/route"},
		"internal/suite":                   {"api"},
		"internal/suite/report":            {},
		"internal/telemetry":               {"api", "internal/proxy", "internal/telemetry/otlp", "internal/telemetry/receiver"},
		"internal/telemetry/otlp":          {},
		"internal/telemetry/receiver":      {"internal/proxy", "internal/route"},
		"internal/testrun":                 {"api", "internal/control", "internal/route"},
		"internal/webhook":                 {"api", "internal/control"},
		"internal/store":                   {"api", "internal/control"},
		"internal/store/postgrestest":      {},
		"internal/store/storetest":         {"api", "internal/control", "internal/forge", "internal/testrun", "internal/webhook"},
		"internal/cli": {
			"api", "examples/shop", "internal/config", "internal/control", "internal/edge", "internal/forge", "internal/forward", "internal/gateway/redis", "internal/gateway/traefik", "internal/gateway/traefik/live", "internal/handover",
			"internal/proxy", "internal/receipt", "internal/receipt/sender", "internal/route", "internal/runtime/docker", "internal/runtime/ecs", "internal/runtime/external", "internal/runtime/logfile", "internal/runtime/process",
			"internal/server", "internal/store", "internal/suite", "internal/suite/report", "internal/telemetry", "internal/telemetry/otlp", "internal/telemetry/receiver", "internal/testrun", "internal/webhook",
		},
		"proof": {
			"api", "bench/harness", "examples/shop", "internal/cli", "internal/control", "internal/failpoint", "internal/forge/forgetest", "internal/gateway/redis", "internal/gateway/redis/redistest",
			"internal/gateway/traefik", "internal/gateway/traefik/live", "internal/proxy", "internal/receipt", "internal/receipt/sender", "internal/route", "internal/route/routetest", "internal/runtime/ecs", "internal/runtime/ecs/ecstest", "internal/runtime/process", "internal/store", "internal/store/postgrestest",
		},
		"proof/flaw": {},
		"proof/hook": {},
		"test":       {},
	}
}

// telemetry are the packages that may use the SDK of OpenTelemetry: nothing on the
// way of a request does.
func telemetry() []string { return []string{"examples/shop"} }

// TestImports holds the layers: imports go only downwards, proxy and control never meet.
func TestImports(t *testing.T) {
	rules := mayImport()
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		allowed, ok := rules[name]
		if !ok {
			t.Errorf("package %s is new: say in mayImport what it may import", name)
			continue
		}
		for _, imported := range p.Imports {
			if own, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(allowed, own) {
				t.Errorf("package %s imports %s, which docs/design.md does not allow", name, own)
			}
			if strings.HasPrefix(imported, "go.opentelemetry.io/otel/sdk") && !slices.Contains(telemetry(), name) {
				t.Errorf("package %s imports %s: only %v may", name, imported, telemetry())
			}
		}
	}
	for name := range rules {
		if !seen[name] {
			t.Errorf("mayImport names the package %s, which does not exist", name)
		}
	}
}

// TestBinaryHasNoTestingCode keeps test libraries out of the program that people run.
func TestBinaryHasNoTestingCode(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"cmd/layover").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, module+"internal/cli")
	require.NotContains(t, deps, "testing")
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

// packages returns every package of the module with what it imports outside of tests.
func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	require.NoError(t, err)
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			require.NotEmpty(t, all)
			return all
		}
		require.NoError(t, err)
		all = append(all, p)
	}
}
