package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/receipt"
	"github.com/layover-dev/layover/internal/receipt/sender"
	"github.com/layover-dev/layover/internal/route"
)

// xrayPlan says how much the proof does.
type xrayPlan struct {
	runs, requests, clients int
}

func xrayFull() xrayPlan  { return xrayPlan{100, 20, 50} }
func xraySmall() xrayPlan { return xrayPlan{4, 20, 10} }

// The ways in which a service loses the route.
const (
	losesBaggage = "keeps traceparent"
	losesBoth    = "drops both"
	losesHalf    = "keeps half of the members"
	losesMany    = "over 64 members"
)

func losses() []string { return []string{losesBaggage, losesBoth, losesHalf, losesMany} }

// shopGraph says which services of the shop call which, in turn.
func shopGraph() map[string][]string {
	return map[string][]string{
		"storefront": {"cart", "recommendations"}, "cart": {"pricing"}, "recommendations": {"pricing"}, "pricing": {"inventory"}, "inventory": nil,
	}
}

// proveXRay has each service that calls another lose the route in each way, with other traffic about, and looks whether the
// X-ray names its edges and no other.
func proveXRay(plan xrayPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return xrayProof(ctx, plan) }
}

func xrayProof(ctx context.Context, plan xrayPlan) (result, error) {
	droppers := []string{"storefront", "cart", "recommendations", "pricing"}
	right, wrong := 0, 0
	calls := 0
	for run := range plan.runs {
		dropper, way := droppers[run%len(droppers)], losses()[run/len(droppers)%len(losses())]
		x, err := xrayRun(ctx, plan, uint64(run), dropper, way)
		if err != nil {
			return result{}, err
		}
		var named, want []string
		for _, callee := range shopGraph()[dropper] {
			want = append(want, dropper+"-"+callee)
		}
		for _, e := range x.Edges {
			calls += e.Calls
			caller, _, _ := strings.Cut(e.Caller, "@")
			if edge := caller + "-" + e.Callee; (e.Verdict == api.VerdictDrops || e.Verdict == api.VerdictSometimes) && !slices.Contains(named, edge) {
				named = append(named, edge)
			}
		}
		slices.Sort(named)
		slices.Sort(want)
		if slices.Equal(named, want) {
			right++
			continue
		}
		wrong++
		fmt.Printf("  run %d: %s %s: it named %v in place of %v\n", run, dropper, way, named, want)
		for _, e := range x.Edges {
			fmt.Printf("    %s to %s: %s, %d of %d, %v\n", e.Caller, e.Callee, e.Verdict, e.Carried, e.Routed, e.Reasons)
		}
	}
	return result{
		figure: fmt.Sprintf("in %d of %d runs the X-ray named the edges of the service that loses the route and no other, after %d requests with a route, with concurrency %d; %d calls in all",
			right, plan.runs, plan.requests, plan.clients, calls),
		bar: "all",
		ok:  wrong == 0 && right == plan.runs && calls > 0,
	}, nil
}

// xraying is a shop behind a proxy, of which one service loses the route.
type xraying struct {
	address      string
	dropper, way string
	servers      []*http.Server
	instances    []*xrayInstance
	mu           sync.Mutex
	rand         *rand.Rand
}

type xrayInstance struct {
	service, version string
	client           *http.Client
	calls            []string
}

// xrayRun runs the shop for a while, and returns what the X-ray says of it.
func xrayRun(ctx context.Context, plan xrayPlan, seed uint64, dropper, way string) (api.XRay, error) {
	x := &xraying{dropper: dropper, way: way, rand: rand.New(rand.NewPCG(seed, 11))}
	defer x.end()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return api.XRay{}, err
	}
	x.address = listener.Addr().String()
	spec := route.Spec{Environment: "proof"}
	for _, name := range []string{"storefront", "cart", "recommendations", "pricing", "inventory"} {
		service := route.Service{Name: name}
		for _, version := range []string{"main", "feature-1", "feature-2"} {
			if version == "feature-2" && x.draw(2) == 0 { // not all have it
				continue
			}
			instance, err := x.instance(ctx, name, version)
			if err != nil {
				return api.XRay{}, err
			}
			service.Versions = append(service.Versions, route.Version{Name: version, State: route.Ready, Instances: []route.Instance{instance}})
		}
		spec.Services = append(spec.Services, service)
	}
	table, err := route.Compile(spec)
	if err != nil {
		return api.XRay{}, err
	}
	const settle = 60 * time.Millisecond
	store := receipt.New(receipt.Options{Settle: settle})
	tell := sender.New("proof", func(_ context.Context, b api.HopBatch) error {
		store.Add(b)
		return nil
	}, slog.New(slog.DiscardHandler))
	p := proxy.New(proxy.Options{Recorder: tell.Record})
	p.SetTable(table)
	running, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.Run(running, proxy.Listener{Listener: listener}) }) // it ends with its context
	parts.Go(func() { _ = tell.Run(running) })
	defer parts.Wait()
	defer cancel()

	busy, endBusy := context.WithCancel(ctx)
	var background sync.WaitGroup
	for range plan.clients {
		background.Go(func() { x.background(busy) })
	}
	background.Go(func() { x.cron(busy) })
	err = x.routed(ctx, plan.requests)
	endBusy()
	background.Wait()
	if err != nil {
		return api.XRay{}, err
	}
	var out api.XRay
	return out, until(ctx, 30*time.Second, func() (bool, error) {
		if err := pause(ctx, settle); err != nil {
			return false, err
		}
		before := total(out)
		out = store.XRay()
		return before > 0 && total(out) == before && lastCall(out).Add(20*settle).Before(time.Now()), nil
	}, func() string { return "the X-ray does not come to an end" })
}

func total(x api.XRay) (n int) {
	for _, e := range x.Edges {
		n += e.Calls
	}
	return n
}

func lastCall(x api.XRay) (last time.Time) {
	for _, e := range x.Edges {
		if e.Last.After(last) {
			last = e.Last
		}
	}
	return last
}

func (x *xraying) end() {
	for _, s := range x.servers {
		_ = s.Close()
	}
	for _, i := range x.instances {
		i.client.CloseIdleConnections()
	}
}

func (x *xraying) draw(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rand.IntN(n)
}

// instance starts an instance with an address of its own.
func (x *xraying) instance(ctx context.Context, service, version string) (route.Instance, error) {
	ip := netip.AddrFrom4([4]byte{127, 79, 0, byte(1 + len(x.servers))}).String()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ip+":0")
	if err != nil {
		return route.Instance{}, err
	}
	i := &xrayInstance{service: service, version: version, calls: shopGraph()[service], client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext,
	}}}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, callee := range i.calls {
			if err := x.ask(r.Context(), i.client, callee, x.pass(i.service, r.Header)); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		_, _ = io.WriteString(w, i.service+"@"+i.version)
	})}
	x.servers, x.instances = append(x.servers, server), append(x.instances, i)
	go func() { _ = server.Serve(listener) }()
	return route.Instance{ID: service + "--" + version, Address: listener.Addr().String(), From: ip}, nil
}

// pass returns the fields that a service passes on.
func (x *xraying) pass(service string, came http.Header) http.Header {
	out := http.Header{}
	baggage, trace := came.Get("Baggage"), came.Get("Traceparent")
	if service == x.dropper {
		switch x.way {
		case losesBaggage:
			baggage = ""
		case losesBoth:
			baggage, trace = "", ""
		case losesHalf:
			members := strings.Split(baggage, ",")
			x.mu.Lock()
			x.rand.Shuffle(len(members), func(a, b int) { members[a], members[b] = members[b], members[a] })
			x.mu.Unlock()
			baggage = strings.Join(members[:len(members)/2], ",")
		case losesMany: // its tracer takes 64 members, and there are more
			var members []string
			for n := range 64 {
				members = append(members, fmt.Sprintf("key%d=%d", n, n))
			}
			baggage = strings.Join(members, ",")
		}
	}
	if baggage != "" {
		out.Set("Baggage", baggage)
	}
	if trace != "" {
		out.Set("Traceparent", trace)
	}
	return out
}

func (x *xraying) ask(ctx context.Context, client *http.Client, service string, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+x.address+"/", nil)
	if err != nil {
		return err
	}
	req.Host, req.Header = service+".localhost", header
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// traceparent begins a trace.
func (x *xraying) traceparent() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fmt.Sprintf("00-%016x%016x-00f067aa0ba902b7-01", x.rand.Uint64(), 1+x.rand.Uint64()>>1)
}

// routed sends the requests with a route that count, all at once.
func (x *xraying) routed(ctx context.Context, n int) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for i := range n {
		group.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
			err := x.ask(ctx, client, "storefront", http.Header{
				"Baggage": {fmt.Sprintf("userId=alice,dynamic_route=feature-%d,tenant=7,region=eu", 1+i%2)}, "Traceparent": {x.traceparent()},
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
		})
		if err := pause(ctx, time.Duration(x.draw(8))*time.Millisecond); err != nil {
			return err
		}
	}
	group.Wait()
	return failed
}

// background sends requests without a route, with and without a trace.
func (x *xraying) background(ctx context.Context) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	services := []string{"storefront", "cart", "pricing", "inventory", "recommendations"}
	for ctx.Err() == nil {
		header := http.Header{}
		if x.draw(2) == 0 {
			header.Set("Traceparent", x.traceparent())
		}
		_ = x.ask(context.WithoutCancel(ctx), client, services[x.draw(len(services))], header)
		_ = pause(ctx, time.Duration(5+x.draw(40))*time.Millisecond)
	}
}

// cron has instances call services by themselves: what they call for requests, and what they never call else.
func (x *xraying) cron(ctx context.Context) {
	for ctx.Err() == nil {
		i := x.instances[x.draw(len(x.instances))]
		callee := "inventory"
		if len(i.calls) > 0 && x.draw(2) == 0 {
			callee = i.calls[x.draw(len(i.calls))]
		}
		if callee != i.service {
			header := http.Header{}
			if x.draw(2) == 0 {
				header.Set("Traceparent", x.traceparent())
			}
			_ = x.ask(context.WithoutCancel(ctx), i.client, callee, header)
		}
		_ = pause(ctx, time.Duration(x.draw(10))*time.Millisecond)
	}
}
