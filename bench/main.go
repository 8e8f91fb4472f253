// Bench compares Layover's proxy with others, side by side in one run: the same
// routes (host and baggage), the same backend, the same load, one processor for the proxy.
//
//	go run ./bench --routes 100,10000 --peers layover,nginx,traefik --rounds 5
//
// A peer that cannot be had is left out, and named with the reason. It exits 1 where a
// peer did not route as it should, and 2 for wrong arguments. docs/howto/bench.md explains the figures.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/route"
)

func main() {
	if code, ok := harness.Role(); ok { // backend, load: this program again
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	c, asJSON, err := parse(args, errs)
	if err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	if err := harness.Supported(); err != nil {
		fmt.Fprintf(errs, "bench %v\n", err)
		return 1
	}
	c.Progress = func(format string, args ...any) { fmt.Fprintf(errs, "  "+format+"\n", args...) }
	var leftOut map[string]error
	c.Peers, leftOut = harness.Install(ctx, c.Peers)
	for name, why := range leftOut {
		fmt.Fprintf(errs, "left out: %s: %v\n", name, why)
	}
	rows, err := harness.Compare(ctx, c)
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(rows)
	} else {
		err = table(out, c.Routes, rows)
	}
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	if slices.ContainsFunc(rows, func(r harness.Row) bool { return r.Failure != "" }) {
		return 1
	}
	return 0
}

func parse(args []string, errs io.Writer) (c harness.Comparison, asJSON bool, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	routes := flags.String("routes", "100,10000", "how many routes, several with commas")
	peers := flags.String("peers", "layover,nginx,traefik,haproxy,caddy,fasthttp,reverseproxy", "which proxies, in this order")
	protocol := flags.String("protocol", "http1", "http1, h2c or grpc; the latter two are for layover and traefik, and measure CPU only")
	flags.IntVar(&c.Rounds, "rounds", 5, "how often each is measured, in turn; figures are medians")
	flags.DurationVar(&c.Duration, "duration", 3*time.Second, "how long one measurement takes")
	flags.IntVar(&c.Connections, "connections", 32, "connections of the load")
	flags.BoolVar(&asJSON, "json", false, "write JSON instead of tables")
	if err := flags.Parse(args); err != nil {
		return c, false, err
	}
	if flags.NArg() > 0 {
		return c, false, fmt.Errorf("bench takes no arguments, only flags: %s", strings.Join(flags.Args(), " "))
	}
	for field := range strings.SplitSeq(*routes, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 10 || n > 1_000_000 {
			return c, false, fmt.Errorf("--routes takes numbers from 10 to 1000000, not %q", field)
		}
		c.Routes = append(c.Routes, n)
	}
	c.Protocol = route.Protocol(*protocol)
	if !slices.Contains([]route.Protocol{route.HTTP1, route.H2C, harness.GRPC}, c.Protocol) {
		return c, false, fmt.Errorf("--protocol is http1, h2c or grpc, not %q", *protocol)
	}
	if c.Rounds < 1 || c.Connections < 1 || c.Duration < 100*time.Millisecond {
		return c, false, fmt.Errorf("--rounds and --connections are at least 1, --duration at least 100ms")
	}
	c.Peers, err = harness.PeersNamed(strings.Split(*peers, ",")...)
	return c, asJSON, err
}

// table prints a line for each peer, and a table for each number of routes.
func table(out io.Writer, routes []int, rows []harness.Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, n := range routes {
		fmt.Fprintf(w, "\n%d routes\tCPU µs/request\trequests/s\tp50 ms\tp99 ms\tadded p50 ms\tadded p99 ms\tp99 changing\tRSS MB\trouted ms\t\n", n)
		rate := 0.0
		for _, r := range rows {
			if r.Routes != n {
				continue
			}
			if r.Failure != "" {
				fmt.Fprintf(w, "%s\tfailed\t\n", r.Peer) // why is told where it happened
				continue
			}
			rate = r.Rate
			fmt.Fprintf(w, "%s\t%.1f\t%.0f\t%.2f\t%.2f\t%s\t%s\t%s\t%.0f\t%s\t\n", r.Peer, r.CPUPerRequest, r.PerSecond, r.P50, r.P99,
				figure(r.AddedP50), figure(r.AddedP99), figure(r.ChangesP99), r.RSS, figure(r.Routed))
		}
		if rate > 0 {
			fmt.Fprintf(w, "added: at %.0f requests/s, beyond the backend alone\t\n", rate)
		}
	}
	return w.Flush()
}

func figure(f *float64) string {
	if f == nil {
		return "-"
	}
	return strconv.FormatFloat(*f, 'f', 2, 64)
}
