package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// flushAfter is how long a part of an answer of known length may wait for more of it.
// An answer of unknown length, which may be a stream, is passed on at once.
const flushAfter = 5 * time.Millisecond

// exchange is one request and its answer. Exchanges are used again: whatever
// may outlive the request (its body, an upgraded connection) is not part of it.
type exchange struct {
	proxy *Proxy
	relay httputil.ReverseProxy // calls this exchange's rewrite, RoundTrip, modify and fail

	in        *http.Request
	w         answerWriter
	body      *requestBody // nil where the request has none
	trusted   bool
	ask       route.Request
	table     *route.Table // the one revision that decided
	decision  route.Decision
	instance  *route.Instance
	flight    *flight
	version   *versionState // of the decided version, which the request has a place in; nil where it has none
	paced     *pacedBody    // within body, where the client has to keep a pace
	tooMany   bool          // another instance was not tried: too many requests were tried twice
	record    Record
	completed bool // false at the end where the answer was cut off
}

func newExchange(p *Proxy) *exchange {
	x := &exchange{proxy: p}
	x.relay = httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		ModifyResponse: x.modify,
		ErrorHandler:   x.fail,
		BufferPool:     p.buffers,
		FlushInterval:  flushAfter,
		ErrorLog:       slog.NewLogLogger(p.options.Logger.Handler(), slog.LevelDebug),
	}
	return x
}

func (x *exchange) begin(w http.ResponseWriter, r *http.Request, trusted bool) {
	x.in, x.trusted = r, trusted
	x.w = answerWriter{ResponseWriter: w, request: r}
	x.ask = route.Request{Host: r.Host, Baggage: r.Header["Baggage"], Cookie: r.Header["Cookie"]}
	x.record = Record{
		Time:    time.Now(),
		Method:  r.Method,
		Host:    r.Host,
		Path:    r.URL.Path,
		TraceID: traceID(r.Header),
	}
	x.record.Peer, _ = netip.ParseAddrPort(r.RemoteAddr) // the zero value where it is no address
	if caller := x.proxy.options.Caller; caller != nil {
		x.record.Caller = caller(x.record.Peer.Addr().Unmap())
	}
}

// run answers the request.
func (x *exchange) run() {
	if problem := checkTarget(x.in); problem != nil {
		x.answer(problem)
		return
	}
	if problem := x.acquire(); problem != nil {
		x.answer(problem)
		return
	}
	if x.in.ProtoMajor == 1 && x.in.ContentLength != 0 {
		// Or the server would read the whole body before it writes an answer.
		// A writer that cannot is one of a test, or a middleware's.
		_ = http.NewResponseController(&x.w).EnableFullDuplex()
	}
	x.relay.ServeHTTP(&x.w, x.in)
}

// acquire decides on the request, waits until the version is ready, and
// enters an instance of it. It returns a problem where there is none to go to.
func (x *exchange) acquire() *problem {
	var hold hold
	defer hold.release(x)
	for {
		now := x.proxy.current.Load()
		x.decide(now.table)
		if hold.version != "" && (x.decision.Version == nil || x.decision.Version.ID != hold.version) {
			return versionGone(hold.version)
		}
		if problem := x.refusal(); problem != nil {
			return problem
		}
		if x.decision.Version.State == route.Ready {
			switch waited, problem := x.reserve(); {
			case problem != nil:
				return problem
			case waited: // and the table may be another one now
				hold.version = x.decision.Version.ID
				continue
			}
			entered, current := x.enter(now, "")
			if entered {
				return nil
			}
			if !current {
				continue
			}
		}
		x.unreserve()
		if problem := hold.wait(x, now); problem != nil {
			return problem
		}
	}
}

// reserve takes a place among the requests that the decided version works on, and
// says whether it had to wait for one.
func (x *exchange) reserve() (waited bool, _ *problem) {
	state := x.proxy.versions.of(x.decision.Version.ID)
	if state == x.version {
		return false, nil
	}
	x.unreserve()
	limits := &x.proxy.options.Concurrency
	if !state.limiter.enter(limits) {
		waited = true
		if !state.limiter.wait(x.in.Context(), x.proxy.stopping, limits) {
			return true, x.notReserved()
		}
	}
	x.version = state
	return waited, nil
}

func (x *exchange) notReserved() *problem {
	if x.in.Context().Err() != nil {
		return x.unwanted()
	}
	select {
	case <-x.proxy.stopping:
		return stopping()
	default:
		return overloaded(x.decision.Version.ID, x.proxy.options.Concurrency.PerVersion)
	}
}

func (x *exchange) unreserve() {
	if x.version != nil {
		x.version.limiter.leave(&x.proxy.options.Concurrency)
		x.version = nil
	}
}

func (x *exchange) decide(table *route.Table) {
	if name := table.RouteHeader(); name != "" {
		x.ask.Header = x.in.Header.Values(name)
	}
	x.table, x.decision = table, table.Resolve(&x.ask)
	x.record.Revision = table.Revision()
}

// refusal returns why the decision leads to no version that may answer, or nil.
func (x *exchange) refusal() *problem {
	d := &x.decision
	switch {
	case d.Outcome == route.UnknownHost:
		var similar []string
		if x.trusted {
			similar = x.table.Similar(x.in.Host, maxSimilar)
		}
		return unknownHost(x.in.Host, similar)
	case d.Outcome == route.UnknownRoute:
		return unknownRoute(x.table, d.Route)
	case d.Outcome == route.NoVersion:
		return noVersion(d.Service.Name)
	case d.Version.State == route.Failed:
		return versionFailed(d.Version)
	}
	return nil
}

// enter takes the next instance of the decided version, other than avoid, for a request
// in flight. It is not entered where there is none, or where the table is no longer
// current: then the instance may be about to leave, and nobody waits for this request.
func (x *exchange) enter(now *snapshot, avoid string) (entered, current bool) {
	instance, flight := x.pick(avoid)
	if instance == nil {
		return false, true
	}
	flight.enter()
	if x.proxy.current.Load() != now {
		flight.leave()
		return false, false
	}
	x.instance, x.flight = instance, flight
	return true, true
}

// pick returns the instance whose turn it is, other than avoid, with its entry. Those that
// are out are passed over, unless there is no other.
func (x *exchange) pick(avoid string) (instance *route.Instance, of *flight) {
	version := x.decision.Version
	for range version.Instances {
		next := version.Next()
		if next == nil || next.ID == avoid {
			continue
		}
		instance, of = next, x.proxy.flights.of(version, next.ID)
		if !x.proxy.outliers.out(&of.outlier) {
			return instance, of
		}
	}
	// With turns taken by others in between, this request may not have seen all.
	for i := range version.Instances {
		other := &version.Instances[i]
		if instance == nil || other.ID == avoid {
			continue
		}
		if flight := x.proxy.flights.of(version, other.ID); !x.proxy.outliers.out(&flight.outlier) {
			return other, flight
		}
	}
	return instance, of
}

// answer answers with a problem.
func (x *exchange) answer(pr *problem) {
	x.record.Error = string(pr.code)
	if pr.code == CodeClientGone {
		return
	}
	if x.decision.Service != nil && x.decision.Version != nil {
		x.w.Header().Set(ServedByHeader, x.decision.ServedBy())
	}
	if (pr.code == CodeSlowBody || pr.code == CodeBadBody) && x.in.ProtoMajor == 1 {
		x.w.Header().Set("Connection", "close") // or the rest of the body would be read as the next request
	}
	pr.write(&x.w, x.in, x.proxy.page)
}

// end takes leave of the instance and hands over the record.
func (x *exchange) end() {
	if x.flight != nil {
		x.flight.leave()
	}
	x.unreserve()
	if x.paced != nil {
		x.paced.end()
	}
	x.finishRecord()
	if x.proxy.options.Recorder != nil {
		x.proxy.options.Recorder(&x.record)
	}
	if !x.completed {
		return // after a panic: nobody knows what still refers to it
	}
	*x = exchange{proxy: x.proxy, relay: x.relay}
	x.proxy.exchanges.Put(x)
}

func (x *exchange) finishRecord() {
	r, d := &x.record, &x.decision
	r.Duration = time.Since(r.Time)
	r.Status, r.BytesOut = x.w.status, x.w.bytes
	if !x.w.first.IsZero() {
		r.FirstByte = x.w.first.Sub(r.Time)
	}
	if x.body != nil {
		r.BytesIn = x.body.bytes.Load()
	}
	if tunnel := x.w.tunnel; tunnel != nil {
		r.BytesIn, r.BytesOut = tunnel.in.Load(), tunnel.out.Load()
	}
	r.Route, r.By, r.Fallback = d.Route, d.By, d.Fallback
	if d.Service != nil {
		r.Service = d.Service.Name
	}
	if d.Version != nil {
		r.Version = d.Version.Name
	}
	if x.instance != nil {
		r.Instance, r.Upstream = x.instance.ID, x.instance.Address
	}
	if !x.completed && r.Error == "" {
		r.Error = string(x.cutOff())
	}
}

// cutOff says who is to blame for an answer that was cut off.
func (x *exchange) cutOff() Code {
	switch cause := context.Cause(x.in.Context()); {
	case x.paced != nil && x.paced.slow.Load():
		return CodeSlowBody
	case errors.Is(cause, errStopping):
		return CodeStopping
	case cause != nil || x.w.failed:
		return CodeClientGone
	}
	return CodeAborted
}

// unwanted is the problem of a request whose context has ended.
func (x *exchange) unwanted() *problem {
	if x.cutOff() == CodeStopping {
		return stopping()
	}
	return &problem{code: CodeClientGone}
}
