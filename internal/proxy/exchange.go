package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
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
		Peer:    r.RemoteAddr,
		TraceID: traceID(r.Header),
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
			entered, current := x.enter(now, "")
			if entered {
				return nil
			}
			if !current {
				continue
			}
		}
		if problem := hold.wait(x, now); problem != nil {
			return problem
		}
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
	case x.table == x.proxy.none:
		return noTable()
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
	version := x.decision.Version
	for range version.Instances {
		instance := version.Next()
		if instance == nil || instance.ID == avoid {
			continue
		}
		flight := x.proxy.flights.enter(version, instance.ID)
		if x.proxy.current.Load() != now {
			flight.leave()
			return false, false
		}
		x.instance, x.flight = instance, flight
		return true, true
	}
	return false, true
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
	pr.write(&x.w, x.in, x.proxy.page)
}

// end takes leave of the instance and hands over the record.
func (x *exchange) end() {
	if x.flight != nil {
		x.flight.leave()
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
		r.Instance = x.instance.ID
	}
	if !x.completed && r.Error == "" {
		r.Error = string(x.cutOff())
	}
}

// cutOff says who is to blame for an answer that was cut off.
func (x *exchange) cutOff() Code {
	switch cause := context.Cause(x.in.Context()); {
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
