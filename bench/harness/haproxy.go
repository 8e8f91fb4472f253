package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
)

// haproxy looks host and version up in a map file, which its runtime API changes.
type haproxy struct{}

// Name is "haproxy".
func (haproxy) Name() string { return "haproxy" }

// Install takes it from Debian.
func (haproxy) Install(ctx context.Context) error { return fromDebian(ctx, "haproxy", "haproxy") }

// Start writes the configuration and runs it with one thread.
func (haproxy) Start(_ context.Context, s Setup) (*Running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	var table strings.Builder
	s.Routes.each(func(host, version string, backend int) {
		fmt.Fprintf(&table, "%s|%s backend-%02d\n", host, version, backend)
	})
	mapFile, err := s.writeFile("table.map", table.String())
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(s.Dir, "haproxy.sock")
	config, err := s.writeFile("haproxy.cfg", haproxyConfig(s, address, socket, mapFile))
	if err != nil {
		return nil, err
	}
	p, err := start(exec.Command("haproxy", "-db", "-f", config), ProxyCPU)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	return &Running{Process: p, Address: address, Quick: true, Route: func(ctx context.Context, a Added) error {
		key, verb := s.Routes.Host(a.Service)+"|"+a.Name, "add"
		if seen[key] {
			verb = "set"
		}
		seen[key] = true
		return haproxyTell(ctx, socket, fmt.Sprintf("%s map %s %s backend-%02d", verb, mapFile, key, a.Backend))
	}}, nil
}

// haproxyTell gives a command to the runtime API, which answers a success with an empty line.
func haproxyTell(ctx context.Context, socket, command string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return err
	}
	said, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(said)); text != "" {
		return fmt.Errorf("haproxy, asked to %s: %s", command, text)
	}
	return nil
}

func haproxyConfig(s Setup, address, socket, mapFile string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
  nbthread 1
  maxconn 4000
  stats socket %s mode 600 level admin
defaults
  mode http
  timeout connect 5s
  timeout client 3m
  timeout server 3m
  http-reuse always
  option forwardfor
frontend web
  bind %s
  http-request set-var(txn.version) str(main)
  http-request set-var(txn.version) 'req.fhdr(baggage),regsub(".*dynamic_route[ \t]*=[ \t]*([^,; \t]*).*","\1")' if { req.fhdr(baggage) -m reg (^|,)[\ \t]*dynamic_route[\ \t]*= }
  http-request set-var-fmt(txn.key) %%[req.hdr(host),host_only,lower]|%%[var(txn.version)]
  http-request set-var(txn.target) var(txn.key),map(%[3]s)
  http-request set-var-fmt(txn.key) %%[req.hdr(host),host_only,lower]|main if !{ var(txn.target) -m found }
  http-request set-var(txn.target) var(txn.key),map(%[3]s) if !{ var(txn.target) -m found }
  use_backend %%[var(txn.target)]
`, socket, address, mapFile)
	for i := range Backends {
		fmt.Fprintf(&b, "backend backend-%02d\n  server one %s pool-max-conn 64\n", i, s.Backend.Address(s.Routes.Protocol, i))
	}
	return b.String()
}
