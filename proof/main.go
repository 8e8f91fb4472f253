// Proof measures the promises of Layover on this machine.
//
//	go run ./proof          lists them
//	go run ./proof NAME…    proves some: prints the figure, its bar, and ok or SHORT
//	go run ./proof all      proves every one
//
// It exits 0 where all held, 1 where one did not, and 2 for a name it does not know.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/runtime/process"
)

// promise is something Layover promises, and how it is proven.
type promise struct {
	name string
	text string
	// prove measures. It prints what it sees on the way, and returns the figure
	// and its bar in words, and whether the bar is met.
	prove func(context.Context) (result, error)
}

type result struct {
	figure string
	bar    string
	ok     bool
}

func promises() []promise {
	return []promise{
		{"resolve", "A decision costs no allocation, and no more with a million versions than with a hundred", proveResolve},
		{"deploy-time", "A version answers within a second of its deployment, plus its own start; a stopped one is gone", proveDeployTime(deployRounds)},
		{"ci-journey", "A change goes from its branch by CI deployment, tests and comment to its merge, and leaves nothing behind", proveCIJourney},
		{"webhook-fuzz", "Webhooks that are forged, replayed, malformed or out of order do nothing but raise a count", proveWebhookFuzz(5000)},
		{"runners", "Suites in Python, Node and Go, gRPC and a browser reach the version through layover exec, unchanged", proveRunners},
		{"not-exercised", "A suite that never reached the version under test fails, whatever its tests say, and the edge that lost the route is named", proveNotExercised},
		{"verdicts", "Whose fault a failed test is is found out in two further runs, also of flaky ones", proveVerdicts(verdictsFull())},
		{"parallel-runs", "Fifty test runs at once on one environment do not see each other, and begin seconds behind git push", proveParallelRuns(parallelFull())},
		{"wake", "A sleeping version is started once by however many requests, which it answers as soon as it is up", proveWake(wakeRounds)},
		{"sleepers", "Thousands of sleeping versions take next to nothing, and 100,000 are listed page by page", proveSleepers(sleeperPlan{2000, 100_000, sleeperMeasure})},
		{"running", "Thousands of running versions are checked, routed and listed by one small server, and one more serves as fast", proveRunning(runningPlan{1900, 100, sleeperMeasure})},
		{"interop", "gRPC's own client passes its interoperability cases against its own server through the proxy", proveInterop},
		{"kill", "A server killed in the middle of deployments leaves nothing orphaned, doubled or half-done", proveKill(killRounds)},
		{"failover", "Of three servers on one PostgreSQL any can be lost: another takes over, and nothing is lost or done twice", proveFailover},
		{"crash-matrix", "A server killed at any step of a deployment, replacement, stop or removal converges: nothing orphaned, nothing twice", proveCrashMatrix(crashFull())},
		{"no-loss", "Killing the server, restarting the proxy by hand-over and replacing versions lose no request", proveNoLoss(noLossFull())},
		{"replace", "Deploying good and bad builds of a version over it, in turn, fails no request, and none gets a build that is not healthy", proveReplace(replaceFull())},
		{"cost", "A request costs the proxy little more than nginx, a fraction of Traefik, and no more with a million versions", proveCost},
		{"traefik-agrees", "The real Traefik with Layover's configuration, over HTTP and Redis, sends every request where the routing table does", proveTraefikAgrees},
		{"traefik-check", "What keeps the real Traefik from routing as Layover decides is told by what `layover gateway check --traefik` asks it", proveTraefikCheck},
		{"traefik-hybrid", "In the mode hybrid a request costs Traefik no more with 10,000 versions than with 10", proveTraefikHybrid},
		{"ecs-churn", "However many tasks of ECS end, and proxies there are, ECS is asked little; and where it refuses to answer, no route is lost", proveECSChurn(churnFull())},
		{"ecs-shop", "The whole shop on ECS behind Traefik: adopted, routed, replaced, slept, woken, followed and removed, and no request lost", proveECSShop},
		{"iam", "The IAM policy that Layover prints is enough for ECS, and no action of it is too much", proveIAM},
		{"ecs-latency", "A task of ECS gets requests within 200 ms of being healthy with events, and within one look without", proveECSLatency(latencyFull())},
		{"healing", "A request whose route a service lost reaches its version wherever trace or origin survives, and never a wrong one", proveHealing(healingFull())},
		{"xray", "Of a shop the X-ray names the service that loses the route, within 20 requests, and no other", proveXRay(xrayFull())},
		{"telemetry-cost", "To tell the server of every request and to count it for metrics costs the proxy little, and what is kept is bounded", proveTelemetryCost(telemetryFull())},
		{"label-leak", "The metrics of a removed version are gone within a minute, and 10,000 versions that came and went leave memory where it was", proveLabelLeak(leakFull())},
		{"tracers", "Behind services in Node under five tracers and none, requests reach their version by what each leaves of them", proveTracers},
		{"otlp", "Traces, metrics and logs of a version are found by it in the real Jaeger, Collector and Prometheus", proveOTLP},
		{"scale", "With 100,000 versions the proxy stays small, a change is live at once, and changes slow no request down", proveScale},
		{"streams", "Bodies of any size pass in constant memory, whole and in order", proveStreams(streamBytes)},
		{"slowloris", "10,000 slow connections fail no normal request, and memory stays bounded", proveSlowloris(slowConnections, slowDuration)},
	}
}

func main() {
	// The server, the instances and the load of a proof may be this very program.
	for _, part := range []func() (int, bool){
		func() (int, bool) { return process.Supervise(os.Args) },
		func() (int, bool) { return backend(os.Args) },
		harness.Role,
	} {
		if code, ok := part(); ok {
			os.Exit(code)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, names []string) int {
	known := promises()
	if len(names) == 0 {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		for _, p := range known {
			fmt.Fprintf(w, "%s\t%s\n", p.name, p.text)
		}
		_ = w.Flush()
		return 0
	}
	var chosen []promise
	for _, name := range names {
		before := len(chosen)
		for _, p := range known {
			if p.name == name || name == "all" {
				chosen = append(chosen, p)
			}
		}
		if len(chosen) == before {
			fmt.Fprintf(os.Stderr, "there is no promise %q; `go run ./proof` lists them\n", name)
			return 2
		}
	}
	code := 0
	for _, p := range chosen {
		r, err := p.prove(ctx)
		switch {
		case err != nil:
			fmt.Printf("%s: could not be measured: %v  SHORT\n", p.name, err)
			code = 1
		case r.ok:
			fmt.Printf("%s: %s (bar: %s)  ok\n", p.name, r.figure, r.bar)
		default:
			fmt.Printf("%s: %s (bar: %s)  SHORT\n", p.name, r.figure, r.bar)
			code = 1
		}
	}
	return code
}
