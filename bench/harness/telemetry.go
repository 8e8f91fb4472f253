package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// The versions are those of the modules in bench/peers.
const (
	jaegerVersion    = "1.76.0"
	collectorVersion = "0.165.0"
)

// StartJaeger runs the real Jaeger, all in one and in memory, which it builds where it is not there yet. It takes OTLP over gRPC at
// receives, and answers questions at query: both are host:port.
func StartJaeger(ctx context.Context) (p *Process, receives, query string, err error) {
	binary, err := builtPeer(ctx, "jaeger", jaegerVersion, "github.com/jaegertracing/jaeger/cmd/all-in-one", "2 minutes")
	if err != nil {
		return nil, "", "", err
	}
	addresses := map[string]string{}
	var args []string
	for _, listener := range []string{"admin.http", "collector.grpc-server", "collector.http-server", "collector.otlp.grpc", "collector.otlp.http", "query.grpc-server", "query.http-server"} {
		if addresses[listener], err = freeAddress(); err != nil {
			return nil, "", "", err
		}
		args = append(args, "--log-level=error", "--"+listener+".host-port="+addresses[listener])
	}
	p, err = start(exec.Command(binary, args...), -1)
	return p, addresses["collector.otlp.grpc"], addresses["query.http-server"], err
}

// StartCollector runs the real Collector of OpenTelemetry with a configuration, which it writes into dir; it builds the Collector
// where it is not there yet.
func StartCollector(ctx context.Context, dir, config string) (*Process, error) {
	binary, err := builtPeer(ctx, "otelcol", collectorVersion, ".", "3 minutes")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "otelcol.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return start(exec.Command(binary, "--config=file:"+file), -1)
}

// builtPeer returns a binary of a module in bench/peers, built once.
func builtPeer(ctx context.Context, name, version, pkg, takes string) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, name+"-v"+version+"-"+runtime.Version())
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	fmt.Fprintf(os.Stderr, "building %s %s, which takes some %s; kept as %s\n", name, version, takes, binary)
	folder, err := moduleDir(ctx, "bench/peers/"+name)
	if err != nil {
		return "", err
	}
	return binary, buildPeer(ctx, folder, binary, []string{pkg})
}
