package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/layover-dev/layover/internal/route"
)

// traefikVersion is that of bench/peers/traefik/go.mod.
const traefikVersion = "3.6.12"

// traefik has a router for each version.
type traefik struct{}

// Name is "traefik".
func (traefik) Name() string { return "traefik" }

// Install builds it from a module of its own, once: its packages stay out of ours.
func (traefik) Install(ctx context.Context) error {
	binary, err := traefikBinary()
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "building Traefik %s, which takes some 8 minutes, and 5 GB of Go's caches; kept as %s\n", traefikVersion, binary)
	folder, err := moduleDir(ctx, "bench/peers/traefik")
	if err != nil {
		return err
	}
	return buildPeer(ctx, folder, binary, []string{
		"-ldflags", "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=" + traefikVersion, "github.com/traefik/traefik/v3/cmd/traefik",
	})
}

func traefikBinary() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "traefik-v"+traefikVersion+"-"+runtime.Version()), nil
}

// buildPeer builds a package in a module's folder.
func buildPeer(ctx context.Context, folder, binary string, args []string, env ...string) error {
	next := fmt.Sprintf("%s.%d", binary, os.Getpid()) // another process may build the same
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", next}, args...)...)
	cmd.Dir = folder
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return os.Rename(next, binary)
}

// Start writes the routers and runs it.
func (traefik) Start(_ context.Context, s Setup) (*Running, error) {
	binary, err := traefikBinary()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	routers, err := s.writeFile("routers.yaml", traefikRouters(s, nil))
	if err != nil {
		return nil, err
	}
	p, err := startTraefik(binary, address, ProxyCPU, "--providers.file.filename="+routers, "--providers.file.watch=true")
	if err != nil {
		return nil, err
	}
	var added extra
	return &Running{Process: p, Address: address, Route: func(_ context.Context, a Added) error {
		_, err := s.writeFile("routers.yaml", traefikRouters(s, added.put(a)))
		return err
	}}, nil
}

func startTraefik(binary, address string, cpu int, args ...string) (*Process, error) {
	return start(exec.Command(binary, append([]string{
		"--entrypoints.web.address=" + address,
		"--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=ERROR",
	}, args...)...), cpu)
}

// StartTraefik runs Traefik, which it builds where it is not there yet, with some providers. It returns the
// address at which it will listen.
func StartTraefik(ctx context.Context, providers ...string) (p *Process, address string, err error) {
	if err := (traefik{}).Install(ctx); err != nil {
		return nil, "", err
	}
	binary, err := traefikBinary()
	if err != nil {
		return nil, "", err
	}
	if address, err = freeAddress(); err != nil {
		return nil, "", err
	}
	p, err = startTraefik(binary, address, -1, providers...)
	return p, address, err
}

func traefikRouters(s Setup, added []Added) string {
	var b strings.Builder
	b.WriteString("http:\n  routers:\n")
	n := 0
	s.with(added, func(host, version string, backend int) {
		rule := "Host(`" + host + "`)"
		if version != route.DefaultVersion {
			rule += " && HeaderRegexp(`Baggage`, `(^|,)[ \\t]*dynamic_route[ \\t]*=[ \\t]*" + version + "[ \\t]*($|[,;])`)"
		}
		fmt.Fprintf(&b, "    r%d: {rule: '%s', service: backend-%02d}\n", n, rule, backend)
		n++
	})
	b.WriteString("  services:\n")
	scheme := "http"
	if s.Routes.spoken() == route.H2C {
		scheme = "h2c"
	}
	for i := range Backends {
		fmt.Fprintf(&b, "    backend-%02d: {loadBalancer: {servers: [{url: '%s://%s'}]}}\n", i, scheme, s.Backend.Address(s.Routes.Protocol, i))
	}
	return b.String()
}
