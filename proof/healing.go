package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// healingPlan says how much the proof does.
type healingPlan struct {
	requests int // that the proxy gets, of services as well as of clients
	routes   int // interleaved
	clients  int
}

func healingFull() healingPlan  { return healingPlan{1_000_000, 100, 50} }
func healingSmall() healingPlan { return healingPlan{3_000, 10, 10} }

// What a service passes on.
const (
	keepsAll      = 'k' // baggage and traceparent
	keepsTrace    = 't' // traceparent alone, as most tracers do
	replaces      = 'r' // traceparent, and baggage of its own in the place of what came, as Sentry does
	keepsNothing  = 'n' // as a program without a tracer
	passes        = "ktrn"
	planHeader    = "X-Plan"
	healingShare  = 5  // one request of so many comes without a route
	healingTraces = 10 // likewise without a trace
)

// proveHealing sends requests of many routes, interleaved, through services that lose what they should pass on, and looks
// which version answers each.
func proveHealing(plan healingPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return healing(ctx, plan, route.HealOn) }
}

func healing(ctx context.Context, plan healingPlan, mode route.HealMode) (result, error) {
	h := &healingRun{plan: plan, faults: map[string]int{}}
	if err := h.start(ctx, mode); err != nil {
		return result{}, err
	}
	defer h.end()
	began := time.Now()
	var group sync.WaitGroup
	for c := range plan.clients {
		group.Go(func() { h.client(ctx, rand.New(rand.NewPCG(uint64(c), 7))) })
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return result{}, err
	}
	for _, fault := range slices.SortedFunc(maps.Keys(h.faults), func(a, b string) int { return cmp.Compare(h.faults[b], h.faults[a]) }) {
		fmt.Printf("  fault: %s (%d times)\n", fault, h.faults[fault])
	}
	total := &h.counts
	fmt.Printf("  %d requests in %.0f s: %d with their baggage, %d healed by trace, %d by origin; %d lost all that could say what they were of, and got the default version\n",
		total.hops.Load(), time.Since(began).Seconds(), total.kept.Load(), total.byTrace.Load(), total.byOrigin.Load(), total.lost.Load())
	return result{
		figure: fmt.Sprintf("%d requests of %d routes interleaved, %d of them lost their route: %d were healed (%d by trace, %d by origin); %d not though trace or origin survived; %d by a wrong version; %d failed",
			total.hops.Load(), plan.routes, total.byTrace.Load()+total.byOrigin.Load()+total.lost.Load(), total.byTrace.Load()+total.byOrigin.Load(),
			total.byTrace.Load(), total.byOrigin.Load(), total.missed.Load(), total.wrong.Load(), total.failed.Load()),
		bar: "0 not healed that could be, 0 wrong, 0 failed",
		ok: total.missed.Load()+total.wrong.Load()+total.failed.Load() == 0 && total.hops.Load() >= int64(plan.requests) &&
			total.byTrace.Load() > int64(plan.requests)/20 && total.byOrigin.Load() > int64(plan.requests)/50,
	}, nil
}

// healingRun is a front that all share, a cart and a pricing of which there are many versions, and the proxy between them.
type healingRun struct {
	plan    healingPlan
	address string // of the proxy
	servers []*http.Server
	stop    func() error

	counts struct{ hops, kept, byTrace, byOrigin, lost, missed, wrong, failed atomic.Int64 }
	mu     sync.Mutex
	faults map[string]int
}

func (h *healingRun) start(ctx context.Context, mode route.HealMode) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.address = listener.Addr().String()
	spec := route.Spec{Environment: "proof", Revision: 1}
	for _, s := range []struct {
		name, calls string
		versions    int
	}{{"front", "cart", 0}, {"cart", "pricing", h.plan.routes}, {"pricing", "", h.plan.routes}} {
		service := route.Service{Name: s.name, Healing: route.Healing{Origin: mode, Trace: mode}}
		for v := range s.versions + 1 {
			instance, err := h.instance(ctx, s.name, versionName(v), s.calls)
			if err != nil {
				return err
			}
			service.Versions = append(service.Versions, route.Version{Name: versionName(v), State: route.Ready, Instances: []route.Instance{instance}})
		}
		spec.Services = append(spec.Services, service)
	}
	table, err := route.Compile(spec)
	if err != nil {
		return err
	}
	p := proxy.New(proxy.Options{})
	p.SetTable(table)
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- p.Run(running, proxy.Listener{Listener: listener}) }()
	h.stop = func() error {
		cancel()
		return <-done
	}
	return nil
}

func versionName(n int) string {
	if n == 0 {
		return "main"
	}
	return fmt.Sprintf("r%d", n-1)
}

func (h *healingRun) end() {
	if h.stop != nil {
		_ = h.stop() // it was asked to
	}
	for _, s := range h.servers {
		_ = s.Close()
	}
}

// instance starts an instance with an address of its own, which its calls come from as well.
func (h *healingRun) instance(ctx context.Context, service, version, calls string) (route.Instance, error) {
	n := len(h.servers) + 1
	ip := netip.AddrFrom4([4]byte{127, 77, byte(n / 250), byte(1 + n%250)}).String()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ip+":0")
	if err != nil {
		return route.Instance{}, err
	}
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext,
	}}
	id := service + "@" + version
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := id
		if calls != "" {
			behind, err := h.call(r, client, calls)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			answer += " " + behind
		}
		_, _ = io.WriteString(w, answer)
	})}
	h.servers = append(h.servers, server)
	go func() { _ = server.Serve(listener) }()
	return route.Instance{ID: service + "--" + version, Address: listener.Addr().String(), From: ip}, nil
}

// call asks the next service, and passes on what the plan of the request says.
func (h *healingRun) call(r *http.Request, client *http.Client, service string) (string, error) {
	plan := r.Header.Get(planHeader)
	if plan == "" {
		return "", errors.New("no plan")
	}
	header := http.Header{planHeader: {plan[1:] + "-"}}
	switch plan[0] {
	case keepsAll:
		header["Baggage"], header["Traceparent"] = r.Header["Baggage"], r.Header["Traceparent"]
	case keepsTrace:
		header["Traceparent"] = r.Header["Traceparent"]
	case replaces:
		header["Traceparent"] = r.Header["Traceparent"]
		header.Set("Baggage", "sentry-environment=production,sentry-release=1.2")
	}
	return h.ask(r.Context(), client, service, header)
}

// ask makes a request through the proxy, and returns which instances answered, with the way each was found.
func (h *healingRun) ask(ctx context.Context, client *http.Client, service string, header http.Header) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.address+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host, req.Header = service+".localhost", header
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 10_000))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d: %s", res.StatusCode, firstLine(string(body)))
	}
	h.counts.hops.Add(1)
	by := "?"
	for part := range strings.SplitSeq(res.Header.Get("Layover-Served-By"), "; ") {
		if found, ok := strings.CutPrefix(part, "by="); ok {
			by = found
		}
	}
	first, rest, _ := strings.Cut(string(body), " ")
	return strings.TrimSpace(first + "/" + by + " " + rest), err
}

// client sends requests until there were enough.
func (h *healingRun) client(ctx context.Context, random *rand.Rand) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	for h.counts.hops.Load() < int64(h.plan.requests) && ctx.Err() == nil {
		plan := string([]byte{passes[random.IntN(len(passes))], passes[random.IntN(len(passes))]})
		header := http.Header{planHeader: {plan}}
		name, traced := "", random.IntN(healingTraces) > 0
		if random.IntN(healingShare) > 0 {
			name = versionName(1 + random.IntN(h.plan.routes))
			header.Set("Baggage", "userId=alice,dynamic_route="+name+";p=1")
		}
		if traced {
			var id [16]byte
			binary.LittleEndian.PutUint64(id[:8], random.Uint64())
			binary.LittleEndian.PutUint64(id[8:], random.Uint64())
			header.Set("Traceparent", fmt.Sprintf("00-%x-00f067aa0ba902b7-01", id))
		}
		answer, err := h.ask(ctx, client, "front", header)
		if err != nil {
			h.fault(&h.counts.failed, err.Error())
			continue
		}
		h.judge(name, plan, traced, answer)
	}
}

// judge looks whether each service answered with the version that it had to.
func (h *healingRun) judge(name, plan string, traced bool, answer string) {
	hops := strings.Fields(answer)
	if len(hops) != 3 {
		h.fault(&h.counts.failed, "not three hops: "+answer)
		return
	}
	routed := name != "" // whether the route was there at the service before
	for i, service := range []string{"cart", "pricing"} {
		passed := plan[i]
		version, by, _ := strings.Cut(strings.TrimPrefix(hops[i+1], service+"@"), "/")
		said := fmt.Sprintf("%s, passed on %q, trace %v: %s", service, passed, traced, by)
		switch {
		case !routed && version != "main", routed && version != "main" && version != name:
			h.fault(&h.counts.wrong, said+", a version that nobody asked for")
			return
		case !routed:
			continue
		}
		traceSurvives := traced && passed != keepsNothing
		originSurvives := service == "pricing" // the front is of all routes at once, each cart of one
		if version == "main" && (passed == keepsAll || traceSurvives || originSurvives) {
			h.fault(&h.counts.missed, said)
			return
		}
		switch {
		case version == "main":
			h.counts.lost.Add(1)
			routed = false
		case by == "baggage":
			h.counts.kept.Add(1)
		case by == "healed-trace":
			h.counts.byTrace.Add(1)
		case by == "healed-origin":
			h.counts.byOrigin.Add(1)
		default:
			h.fault(&h.counts.wrong, said)
		}
		traced = traced && passed != keepsNothing
	}
}

func (h *healingRun) fault(of *atomic.Int64, text string) {
	of.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.faults) < 20 || h.faults[text] > 0 {
		h.faults[text]++
	}
}
