package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/layover-dev/layover/internal/route"
)

// peerVariable turns the test's binary into clients and instances of BenchmarkHTTP2, so that
// what the benchmark counts is the proxy's alone.
const peerVariable = "LAYOVER_PROXY_BENCH_PEER"

const (
	benchClients    = 4  // connections
	benchConcurrent = 16 // requests at a time, in all
)

// BenchmarkHTTP2 measures what requests over HTTP/2 cost the proxy: processor time
// and allocations of this process, with clients and instances in another.
func BenchmarkHTTP2(b *testing.B) {
	peer := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestHTTP2BenchPeer$", "-test.v")
	peer.Env = append(os.Environ(), peerVariable+"=1")
	peer.Stderr = os.Stderr
	in, err := peer.StdinPipe()
	require.NoError(b, err)
	stdout, err := peer.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, peer.Start())
	defer func() { _ = in.Close(); _ = peer.Wait() }()
	out := bufio.NewScanner(stdout)
	next := func() string { // a line that the peer wrote for us
		for out.Scan() {
			if line, ours := strings.CutPrefix(out.Text(), "peer: "); ours {
				return line
			}
		}
		b.Fatal("the peer ended")
		return ""
	}
	addresses := strings.Fields(next())

	p := New(Options{Logger: slog.New(slog.DiscardHandler), Recorder: func(*Record) {}})
	greet := service("greet", ready("main", addresses[0]), ready("pr-1", addresses[0]))
	greet.Protocol = route.H2C
	p.SetTable(compile(b, route.Spec{Services: []route.Service{greet, service("cart", ready("main", addresses[1]), ready("pr-1", addresses[1]))}}))
	l := listen(b)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, Listener{Listener: l}) }()
	defer func() { cancel(); _ = <-done }()

	for _, kind := range []string{"grpc", "get"} {
		b.Run(kind, func(b *testing.B) {
			load := func(n int) {
				_, err := fmt.Fprintln(in, kind, l.Addr(), n)
				require.NoError(b, err)
				require.Equal(b, "done", next())
			}
			load(200) // connections are open, pools are full
			b.ReportAllocs()
			cpu := processorTime()
			b.ResetTimer()
			load(b.N)
			b.StopTimer()
			cpu = processorTime() - cpu
			b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
		})
	}
}

func processorTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestHTTP2BenchPeer is the other process of BenchmarkHTTP2, and nothing by itself.
func TestHTTP2BenchPeer(t *testing.T) {
	if os.Getenv(peerVariable) == "" {
		return
	}
	plain := instance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	fmt.Println("peer:", greeter(t, "main"), plain)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var kind, addr string
		var n int
		_, err := fmt.Sscan(in.Text(), &kind, &addr, &n)
		require.NoError(t, err)
		load := loadGet
		if kind == "grpc" {
			load = loadGRPC
		}
		load(t, addr, n)
		fmt.Println("peer: done")
	}
}

// concurrently calls do n times in all.
func concurrently(n int, do func(worker int)) {
	var left atomic.Int64
	left.Store(int64(n))
	var group sync.WaitGroup
	for worker := range benchConcurrent {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				do(worker)
			}
		})
	}
	group.Wait()
}

func loadGRPC(t *testing.T, addr string, n int) {
	var conns []*grpc.ClientConn
	for range benchClients {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithAuthority("greet.localhost"),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		conns = append(conns, conn)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "baggage", toPR1)
	concurrently(n, func(worker int) {
		var out word
		if err := conns[worker%benchClients].Invoke(ctx, "/test.Greeter/Unary", wrapperspb.String("hi"), &out); err != nil {
			t.Error(err)
		}
	})
}

func loadGet(t *testing.T, addr string, n int) {
	var clients []*http.Client
	for range benchClients {
		clients = append(clients, h2cClient(t))
	}
	concurrently(n, func(worker int) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/a/b?c=d", nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Host = "cart.localhost"
		req.Header.Set("Baggage", toPR1)
		res, err := clients[worker%benchClients].Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	})
	for _, client := range clients {
		client.CloseIdleConnections()
	}
}
