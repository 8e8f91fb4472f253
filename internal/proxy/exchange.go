package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// exchange is one request on its way to an instance, whichever path carries it: what
// is decided, where it goes, and what is recorded of it.
type exchange struct {
	proxy  *Proxy
	client client
	rq     request

	ask      route.Request
	table    *route.Table // the one revision that decided
	decision route.Decision
	instance *route.Instance
	flight   *flight
	at       *routesAt        // where its route is counted; nil where that is not needed
	caller   *caller          // nil where it is not known
	trace    trace            // as the request came
	asked    bool             // whether the request is to have a span is decided
	begun    bool             // its trace begins here
	version  *versionState    // of the decided version, which the request has a place in; nil where it has none
	tooMany  bool             // another instance was not tried: too many requests were tried again
	moves    int              // how often another instance was entered, or was to be
	failed   [maxMoves]string // IDs of those that could not be connected to before
	record   Record
}

// client is the other end of the request, as the path that carries it knows it.
type client interface {
	// gone returns a channel that is closed when nobody waits for the answer any more.
	// It is called only for requests that have to wait.
	gone() <-chan struct{}
	// left says who ended the request before it was answered.
	left() Code
	// heldBytes is how much memory the request takes while it waits, as far as that is known.
	heldBytes() int
	// values returns the lines of a field that the proxy is configured to read.
	values(name string) []string
}

// begin makes x ready for the request that is in rq.
func (x *exchange) begin(now time.Time) {
	x.ask = route.Request{Host: x.rq.host, Baggage: x.rq.baggage, Cookie: x.rq.cookie}
	x.table, x.decision, x.instance, x.flight, x.at = nil, route.Decision{}, nil, nil, nil
	x.version, x.tooMany, x.moves, x.asked, x.begun = nil, false, 0, false, false
	x.record = Record{
		Time:   now,
		Method: x.rq.method,
		Host:   x.rq.host,
		Path:   x.rq.path,
		Peer:   x.rq.addr,

		Scheme: "http", Protocol: x.rq.major,
	}
	if x.rq.encrypted {
		x.record.Scheme = "https"
	}
	x.takeTrace()
	if x.caller = x.proxy.callers.find(x.record.Peer.Addr()); x.caller != nil {
		x.record.Caller, x.record.CallerOf = x.caller.instance, x.caller.version.ID
	}
}

// find decides where the request goes, and enters an instance. It returns a problem
// where there is none to go to.
func (x *exchange) find() *problem {
	if problem := x.rq.checkTarget(); problem != nil {
		return problem
	}
	if x.rq.path == WaitPath {
		return x.tellState()
	}
	return x.acquire()
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
			entered, current := x.enter(now)
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
	state := x.proxy.standing(x.decision.Version).version
	if state == x.version {
		return false, nil
	}
	x.unreserve()
	limits := &x.proxy.options.Concurrency
	if !state.limiter.enter(limits) {
		waited = true
		if !state.limiter.wait(x.client.gone(), x.proxy.stopping, limits) {
			return true, x.notReserved()
		}
	}
	x.version = state
	return waited, nil
}

func (x *exchange) notReserved() *problem {
	select {
	case <-x.client.gone():
		return x.unwanted()
	default:
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
		x.ask.Header = x.client.values(name)
	}
	x.ask.Healed, x.record.Lost = "", ""
	x.table, x.decision = table, table.Resolve(&x.ask)
	x.record.Revision = table.Revision()
	if x.decision.By == route.ByDefault && x.decision.Service != nil {
		x.heal(table)
	}
	x.sample()
	x.remember()
}

// refusal returns why the decision leads to no version that may answer, or nil.
func (x *exchange) refusal() *problem {
	d := &x.decision
	switch {
	case x.table == x.proxy.none:
		return noTable()
	case d.Outcome == route.UnknownHost:
		var similar []string
		if x.rq.trusted {
			similar = x.table.Similar(x.rq.host, maxSimilar)
		}
		return unknownHost(x.rq.host, similar)
	case d.Outcome == route.UnknownRoute:
		return unknownRoute(x.table, d.Route)
	case d.Outcome == route.NoVersion:
		return noVersion(d.Service.Name)
	case d.Version.State == route.Failed:
		return versionFailed(d.Version)
	}
	return nil
}

// enter takes the next instance of the decided version that was not tried, for a request
// in flight. It is not entered where there is none, or where the table is no longer
// current: then the instance may be about to leave, and nobody waits for this request.
func (x *exchange) enter(now *snapshot) (entered, current bool) {
	instance, flight := x.pick()
	if instance == nil {
		return false, true
	}
	flight.enter()
	if x.proxy.current.Load() != now {
		flight.leave()
		return false, false
	}
	x.instance, x.flight = instance, flight
	if x.table.HealsByOrigin() && instance.From != "" {
		x.uncount()
		x.at = &flight.routes
		x.at.enter(x.decision.Route, x.record.Time)
	}
	return true, true
}

// uncount counts the route of the request out where it was counted.
func (x *exchange) uncount() {
	if x.at != nil {
		x.at.leave(x.decision.Route, time.Now())
		x.at = nil
	}
}

// pick returns the instance whose turn it is, of those that were not tried, with its entry. Those that
// are out are passed over, unless there is no other.
func (x *exchange) pick() (instance *route.Instance, of *flight) {
	version := x.decision.Version
	flights := x.proxy.standing(version).flights
	for range version.Instances {
		i := version.Turn()
		if x.tried(&version.Instances[i]) {
			continue
		}
		instance, of = &version.Instances[i], flights[i]
		if !x.proxy.outliers.out(&of.outlier) {
			return instance, of
		}
	}
	// With turns taken by others in between, this request may not have seen all.
	for i := range version.Instances {
		other := &version.Instances[i]
		if instance == nil || x.tried(other) {
			continue
		}
		if flight := flights[i]; !x.proxy.outliers.out(&flight.outlier) {
			return other, flight
		}
	}
	return instance, of
}

// maxMoves is how many other instances are tried for one request. Several may have ended since the
// server last looked; more would let the client wait for what is gone in any case.
const maxMoves = 3

// tried says whether the instance could not be connected to for this request.
func (x *exchange) tried(i *route.Instance) bool { return slices.Contains(x.failed[:x.moves], i.ID) }

// moveOn enters another instance of the version instead of the present one. Where a newer
// table is in place, the instance is one of that table; the version stays the same.
func (x *exchange) moveOn() bool {
	if x.moves == maxMoves {
		return false
	}
	x.failed[x.moves] = x.instance.ID
	x.moves++
	left, id, paid := x.flight, x.decision.Version.ID, false
	for {
		now := x.proxy.current.Load()
		d := now.table.Resolve(&x.ask)
		if d.Version == nil || d.Version.ID != id || d.Version.State != route.Ready {
			return false
		}
		x.decision.Version = d.Version
		if !slices.ContainsFunc(d.Version.Instances, func(i route.Instance) bool { return !x.tried(&i) }) {
			return false
		}
		if !paid && !x.version.budget.take(x.version.answers.Load()) {
			x.tooMany = true
			return false
		}
		paid = true
		entered, current := x.enter(now)
		if entered {
			left.leave()
			x.record.Moves++
		}
		if current {
			return entered
		}
	}
}

// unreachable says whether an error means that no connection to the instance could be
// made, and notes that.
func (x *exchange) unreachable(err error) bool {
	if !isDialError(err) {
		return false
	}
	x.proxy.outliers.unreachable(&x.flight.outlier)
	return true
}

// answered notes that the instance has begun its answer.
func (x *exchange) answered(status int) {
	x.version.answers.Add(1)
	x.proxy.outliers.answered(&x.flight.outlier, status, x.record.Time)
}

// refuse notes that the proxy itself answers, with a problem, and returns the answer.
func (x *exchange) refuse(pr *problem) reply {
	x.record.Error = string(pr.code)
	answer := pr.reply(&x.rq, x.proxy.page, x.servedBy())
	if isGRPC(x.rq.contentType) {
		x.record.GRPCStatus = strconv.Itoa(pr.grpcStatus())
	}
	if x.wantsReceipt() && x.record.TraceID != (TraceID{}) {
		answer.fields = append(answer.fields, headerField{TraceHeader, x.record.TraceID.String()}, headerField{ReceiptHeader, x.receipt(answer.status)})
	}
	return answer
}

// servedBy is the value of Layover-Served-By, empty where no version was decided on.
func (x *exchange) servedBy() string {
	if x.decision.Service == nil || x.decision.Version == nil {
		return ""
	}
	return x.decision.ServedBy()
}

// host is the Host that the instance gets.
func (x *exchange) host() string {
	if x.instance.Host != "" {
		return x.instance.Host
	}
	return x.rq.host
}

// needsMember says whether the route has to be put into baggage (R7): it came from
// somewhere else.
func (x *exchange) needsMember() bool {
	return x.decision.By != route.ByBaggage && x.decision.By != route.ByDefault
}

// explain returns the problem behind an error of sending the request or of reading its answer.
func (x *exchange) explain(err error) *problem {
	var timeout net.Error
	id := x.decision.Version.ID
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return instanceTimeout(id, x.instance, err)
	case isDialError(err):
		pr := noConnection(id, x.instance, err)
		if x.tooMany {
			pr.detail += " No other instance was tried: the budget for further tries is used up."
		}
		return pr
	case isBrokenConnection(err):
		return brokenConnection(id, x.instance, err)
	}
	return badAnswer(id, x.instance, x.decision.Service.Protocol, err)
}

// unwanted is the problem of a request that nobody waits for any more.
func (x *exchange) unwanted() *problem {
	if x.client.left() == CodeStopping {
		return stopping()
	}
	return &problem{code: CodeClientGone}
}

// vacate gives back the request's place at the instance and in its version. From the second
// time on it does nothing.
func (x *exchange) vacate() {
	x.uncount()
	if x.flight != nil {
		x.flight.leave()
		x.flight = nil
	}
	x.unreserve()
}

// end takes leave of the instance and hands over the record.
func (x *exchange) end() {
	x.vacate()
	r, d := &x.record, &x.decision
	r.Duration = time.Since(r.Time)
	r.Route, r.By, r.Fallback = d.Route, d.By, d.Fallback
	r.Run = route.RunOf(x.rq.baggage)
	if d.By != route.ByBaggage || r.Recorded {
		r.Baggage = x.rq.baggage
		for _, line := range r.Baggage {
			r.BaggageBytes += len(line)
			r.BaggageMembers += 1 + strings.Count(line, ",")
		}
	}
	if d.Service != nil {
		r.Service = d.Service.Name
	}
	if d.Version != nil {
		r.Version = d.Version.Name
	}
	if x.instance != nil {
		r.Instance, r.Upstream = x.instance.ID, x.instance.Address
	}
	if x.proxy.options.Recorder != nil {
		x.proxy.options.Recorder(r)
	}
}

// isDialError says whether no connection could be made, so that nothing was sent.
func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isBrokenConnection(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		err.Error() == "http: server closed idle connection" // net/http has no value for it
}
