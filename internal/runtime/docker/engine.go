package docker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Gateway returns the address that the Engine's machine has in the network of the
// containers. A proxy that listens there, on the same machine, is reached by every
// container and by nobody outside. Where the Engine runs in a virtual machine the address
// cannot be listened on; [HostGateway] leads to the proxy there.
func (r *Runtime) Gateway(ctx context.Context) (netip.Addr, error) {
	call, cancel := context.WithTimeout(ctx, r.queryTimeout)
	defer cancel()
	found, err := r.engine.NetworkInspect(call, r.network, client.NetworkInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return netip.Addr{}, &control.Error{
			Code:    api.CodeInvalid,
			Message: fmt.Sprintf("Docker has no network %q", r.network),
			Hint:    fmt.Sprintf("make it with `docker network create %s`", r.network),
			Err:     err,
		}
	}
	if err != nil {
		return netip.Addr{}, r.fail(ctx, "look at network "+r.network, err)
	}
	for _, config := range found.Network.IPAM.Config {
		switch {
		case config.Gateway.Is4():
			return config.Gateway, nil
		case config.Subnet.Addr().Is4(): // the Engine takes the first one where none was asked for
			return config.Subnet.Masked().Addr().Next(), nil
		}
	}
	return netip.Addr{}, &control.Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf("Docker network %q has no IPv4 gateway", r.network),
		Hint:    "name a bridge network",
	}
}

// connect returns a client for the Engine at host, or for the one the docker
// command uses. Where Docker's configuration cannot be used, unusable says why: every call
// is to fail with it, and a server that runs no containers does not mind.
func connect(host string) (engine *client.Client, unusable, err error) {
	opts, unusable := endpoint(host)
	if unusable == nil {
		if engine, err = client.New(opts...); err == nil {
			return engine, nil, nil
		}
		unusable = &control.Error{
			Code:    api.CodeUnavailable,
			Message: "the address of Docker cannot be used: " + err.Error(),
			Hint:    "check DOCKER_HOST, DOCKER_CERT_PATH and DOCKER_API_VERSION",
			Err:     err,
		}
	}
	engine, err = client.New(client.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		return nil, unusable
	}))
	return engine, unusable, err
}

// endpoint returns how to reach the Engine.
func endpoint(host string) ([]client.Opt, error) {
	if host == "" && os.Getenv(client.EnvOverrideHost) == "" {
		if name := currentContext(); name != "" && name != "default" {
			return contextEndpoint(name)
		}
	}
	if effective := cmp.Or(host, os.Getenv(client.EnvOverrideHost)); strings.HasPrefix(effective, "ssh://") {
		return nil, sshUnsupported(effective)
	}
	opts := []client.Opt{client.FromEnv}
	if host != "" {
		opts = append(opts, client.WithHost(host))
	}
	return opts, nil
}

// currentContext returns the name of the Docker context in use, or "".
func currentContext() string {
	if name := os.Getenv("DOCKER_CONTEXT"); name != "" {
		return name
	}
	var config struct {
		CurrentContext string `json:"currentContext"`
	}
	data, err := os.ReadFile(filepath.Join(configDir(), "config.json"))
	if err != nil || json.Unmarshal(data, &config) != nil {
		return "" // as the docker command does: no configuration means the default
	}
	return config.CurrentContext
}

// contextEndpoint reads a context as `docker context create` writes it: below
// contexts/meta and contexts/tls, in folders named after the SHA-256 of its name.
func contextEndpoint(name string) ([]client.Opt, error) {
	sum := sha256.Sum256([]byte(name))
	folder := hex.EncodeToString(sum[:])
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	data, err := os.ReadFile(filepath.Join(configDir(), "contexts", "meta", folder, "meta.json"))
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	host := meta.Endpoints["docker"].Host
	if err != nil || host == "" {
		return nil, &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("Docker context %q cannot be read", name),
			Hint:    "see `docker context ls`, choose one with `docker context use`, or set DOCKER_HOST",
			Err:     err,
		}
	}
	if strings.HasPrefix(host, "ssh://") {
		return nil, sshUnsupported(host)
	}
	var opts []client.Opt
	file := func(base string) string {
		path := filepath.Join(configDir(), "contexts", "tls", folder, "docker", base)
		if _, err := os.Stat(path); err != nil {
			return ""
		}
		return path
	}
	if ca, cert, key := file("ca.pem"), file("cert.pem"), file("key.pem"); ca != "" || cert != "" {
		opts = append(opts, client.WithTLSClientConfig(ca, cert, key))
	}
	return append(opts, client.WithHost(host), client.WithAPIVersionFromEnv()), nil
}

func sshUnsupported(host string) error {
	return &control.Error{
		Code:    api.CodeUnavailable,
		Message: fmt.Sprintf("Docker over ssh (%s) is not supported: instances would listen on another machine", host),
		Hint:    "run Layover on that machine, or set DOCKER_HOST to a local Engine",
	}
}

// configDir is the folder of Docker's own configuration.
func configDir() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".docker"
	}
	return filepath.Join(home, ".docker")
}
