package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"golang.org/x/net/http2"

	"github.com/layover-dev/layover/internal/route"
)

// flushAfter is how long a part of an answer of known length may wait for more of it.
// An answer of unknown length, which may be a stream, is passed on at once.
const flushAfter = 5 * time.Millisecond

// relay carries one request over net/http: HTTP/2, and what the fast path leaves to it.
// Relays are used again: whatever may outlive the request (its body, an upgraded
// connection) is not part of it.
type relay struct {
	exchange

	forward   httputil.ReverseProxy // calls this relay's rewrite, RoundTrip, modify and fail
	in        *http.Request
	w         answerWriter
	body      *requestBody // nil where the request has none
	paced     *pacedBody   // within body, where the client has to keep a pace
	limit     *sendLimit   // for w, where it has one
	room      int          // taken of the headroom
	completed bool         // false at the end where the answer was cut off
}

func newRelay(p *Proxy) *relay {
	x := &relay{limit: &sendLimit{most: p.sendTimeout}}
	x.proxy, x.client = p, x
	x.forward = httputil.ReverseProxy{
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

// serve answers one request that net/http has read.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, trusted bool) {
	p.active.enter()
	defer p.active.leave()
	x := p.relays.Get().(*relay)
	x.in, x.w = r, answerWriter{ResponseWriter: w, request: r}
	x.rq = readRequest(r, trusted)
	if conn := strictConnOf(r.Context()); conn != nil {
		x.rq.encrypted = x.rq.encrypted || conn.encrypted
		defer conn.end()
	}
	now := time.Now()
	x.begin(now)
	if r.ProtoMajor > 1 {
		x.w.limit = x.limit
		x.limit.begin(w, now)
	}
	defer x.finish()
	if p.retired.Load() && r.Header.Get("Upgrade") == "" { // an upgraded connection ends when it is done
		w.Header().Set("Connection", "close") // over HTTP/2 this is GOAWAY
	}
	x.run()
	x.completed = x.w.finish()
}

// run answers the request.
func (x *relay) run() {
	problem := refusalOf(x.in)
	if problem == nil {
		problem = x.takeRoom()
	}
	if problem == nil {
		problem = x.find()
	}
	if problem != nil {
		x.answer(problem)
		return
	}
	if x.in.Method == http.MethodConnect {
		x.connect()
		return
	}
	if x.in.ProtoMajor == 1 && x.in.ContentLength != 0 {
		// Or the server would read the whole body before it writes an answer.
		// A writer that cannot is one of a test, or a middleware's.
		_ = http.NewResponseController(&x.w).EnableFullDuplex()
	}
	x.forward.ServeHTTP(&x.w, x.in)
}

// takeRoom takes headroom for a large head, and returns a problem where there is not enough.
func (x *relay) takeRoom() *problem {
	size, room := headSize(x.in), &x.proxy.headroom
	if size <= inputSize {
		return nil
	}
	if !room.take(size) {
		return tooManyLargeHeaders(room.most)
	}
	x.room = size
	return nil
}

// rewrite makes the request that the instance gets (R7). What is not changed here
// goes on as it came, but for the hop-by-hop fields.
func (x *relay) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	x.aim(out)
	keepTarget(out.URL, in.URL, in.Method, out.Host)
	x.setForwarded(out.Header)
	out.Header[HopsHeader] = []string{strconv.Itoa(x.rq.timesForwarded() + 1)}
	delete(out.Header, ReceiptHeader)
	if x.begun {
		delete(out.Header, "Tracestate") // it is of another trace
	}
	if x.passesTrace() {
		out.Header["Traceparent"] = []string{string(x.appendTraceparent(make([]byte, 0, traceparentSize)))}
	}
	if x.needsMember() {
		out.Header["Baggage"] = route.PrependMember(in.Header["Baggage"], x.table.BaggageKey(), x.decision.Route)
	}
	if x.decision.Service.Protocol == route.H2C || !in.ProtoAtLeast(1, 1) {
		delete(out.Header, "Upgrade") // HTTP/2 has none, and HTTP/1.0 neither (RFC 9110, section 7.8)
		delete(out.Header, "Connection")
	} else {
		dropTunnelsOfHTTP(out.Header)
	}
	if out.Body != nil {
		if rate := &x.proxy.options.BodyRate; rate.applies(in.ContentLength, x.rq.contentType) {
			x.paced = newPacedBody(out.Body, rate, http.NewResponseController(x.w.ResponseWriter).SetReadDeadline)
			out.Body = x.paced
		}
		x.body = &requestBody{ReadCloser: out.Body, in: in, out: out}
		out.Body = x.body
		if in.ContentLength < 0 && out.Trailer == nil {
			out.Trailer = make(http.Header) // for trailers that were not announced
		}
	}
}

// setForwarded sets the fields that tell an instance about the client.
func (x *relay) setForwarded(out http.Header) {
	via := x.rq.via(x.proxy.trusted.contains(x.rq.peer))
	values := [3]string{via.chain, via.host, via.proto} // one allocation for the three
	out["X-Forwarded-For"] = values[0:1:1]
	out["X-Forwarded-Host"] = values[1:2:2]
	out["X-Forwarded-Proto"] = values[2:3:3]
	if via.elements != "" {
		out["Forwarded"] = []string{via.elements}
	}
}

// aim directs out to the instance.
func (x *relay) aim(out *http.Request) {
	out.URL.Scheme = "http"
	if x.instance.TLS {
		out.URL.Scheme = "https"
	}
	out.URL.Host = x.instance.Address
	out.Host = x.host()
}

// RoundTrip sends the request to the instance. Where no connection could be made,
// nothing was sent, and other instances of the same version are tried.
func (x *relay) RoundTrip(out *http.Request) (*http.Response, error) {
	res, err := x.send(out)
	for err != nil && out.Context().Err() == nil && x.unreachable(err) && x.moveOn() {
		again := out.Clone(out.Context())
		again.Trailer = out.Trailer // the body writes into it
		x.aim(again)
		keepTarget(again.URL, x.in.URL, x.in.Method, again.Host)
		res, err = x.send(again)
	}
	return res, err
}

// send sends the request to the instance that it is directed to.
func (x *relay) send(out *http.Request) (*http.Response, error) {
	transport := x.proxy.transports.to(x.decision.Service.Protocol, x.instance)
	if out.Body == nil {
		return transport.RoundTrip(out)
	}
	return x.body.roundTrip(transport, out)
}

// modify completes the instance's answer.
func (x *relay) modify(res *http.Response) error {
	x.answered(res.StatusCode)
	res.Header[ServedByHeader] = []string{x.decision.ServedBy()}
	delete(res.Header, ReceiptHeader)
	if x.wantsReceipt() {
		res.Header[TraceHeader] = []string{x.record.TraceID.String()}
		res.Header[ReceiptHeader] = []string{x.receipt(res.StatusCode)}
	}
	if isGRPC(x.rq.contentType) {
		x.record.GRPCStatus = grpcStatusOf(res.Header)
	}
	if _, typed := res.Header["Content-Type"]; !typed {
		x.w.Header()["Content-Type"] = nil // keeps the server from guessing one
	}
	if len(res.Trailer) > 0 && x.in.ProtoMajor == 1 {
		delete(res.Header, "Content-Length") // HTTP/1.1 has trailers with the chunked encoding only
	}
	x.w.empty = res.ContentLength == 0
	if res.ContentLength < 0 && res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = trailedBody{res.Body, res, &x.record}
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		x.w.begin(res.StatusCode)
	case x.body != nil:
		res.Body = answerBody{res.Body, x.body}
	}
	return nil
}

// fail answers a request that got no answer.
func (x *relay) fail(_ http.ResponseWriter, _ *http.Request, err error) {
	switch {
	case x.w.tunnel != nil:
		x.record.Error = string(x.left()) // upgraded: there is nobody to answer
	case x.paced != nil && x.paced.slow.Load():
		x.answer(slowBody(&x.proxy.options.BodyRate))
	case isMalformedBody(x.in):
		x.answer(badBody())
	case x.isLost():
		x.answer(x.explain(err))
	case x.in.Context().Err() != nil:
		x.answer(x.unwanted())
	case x.body != nil && x.body.failed.Load():
		x.answer(badBody())
	case x.isPastDeadline(err):
		pr := instanceTimeout(x.decision.Version.ID, x.instance, err)
		pr.grpc = grpcDeadlineExceeded
		x.answer(pr)
	default:
		x.answer(x.explain(err))
	}
}

// isPastDeadline says whether an instance has given up on a gRPC call whose deadline is over:
// it knows that as soon as the client does, and may be faster.
func (x *relay) isPastDeadline(err error) bool {
	var reset http2.StreamError
	return x.in.Header.Get("Grpc-Timeout") != "" && isGRPC(x.rq.contentType) && errors.As(err, &reset) && reset.Code == http2.ErrCodeCancel
}

// isLost says whether the instance broke off within the request's body. A client of HTTP/1.1 is not
// listened to any more then.
func (x *relay) isLost() bool { return x.body != nil && x.body.lost.Load() }

// isMalformedBody says whether the body of r was refused while it was read.
func isMalformedBody(r *http.Request) bool {
	conn := strictConnOf(r.Context())
	return conn != nil && conn.badBody.Load()
}

// answer answers with a problem.
func (x *relay) answer(pr *problem) {
	answer := x.refuse(pr)
	if pr.code == CodeClientGone {
		return
	}
	h := x.w.Header()
	for _, f := range answer.fields {
		h.Set(f.name, f.value)
	}
	if (pr.distrusts() || x.isLost()) && x.in.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	x.w.WriteHeader(answer.status)
	if x.in.Method != http.MethodHead {
		_, _ = x.w.Write(answer.body) // a client that is gone needs no answer
	}
}

// finish completes the record, and keeps the relay for another request.
func (x *relay) finish() {
	if x.w.limit != nil {
		x.w.limit.end()
	}
	r := &x.record
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
	if !x.completed && r.Error == "" {
		r.Error = string(x.left())
	}
	if conn := strictConnOf(x.in.Context()); !x.completed && x.in.ProtoMajor == 1 && conn != nil {
		conn.giveUp() // or the server reads on in a body that nobody wants
	}
	if x.paced != nil {
		x.paced.end()
	}
	x.end()
	x.proxy.headroom.give(x.room)
	if !x.completed {
		return // after a panic: nobody knows what still refers to it
	}
	p, forward, limit := x.proxy, x.forward, x.limit
	*x = relay{forward: forward, limit: limit}
	x.proxy, x.client = p, x
	p.relays.Put(x)
}

// gone is for [client].
func (x *relay) gone() <-chan struct{} { return x.in.Context().Done() }

// left is for [client].
func (x *relay) left() Code {
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

// heldBytes is for [client]: the header, and what may be there of the body.
func (x *relay) heldBytes() int {
	n := len(x.in.RequestURI)
	for name, values := range x.in.Header {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	const readAhead = 64 << 10 // of a body whose length nobody says
	switch length := x.in.ContentLength; {
	case length < 0 && x.in.ProtoMajor > 1:
		n += readAhead
	case x.in.ProtoMajor > 1:
		n += int(min(length, http2Window))
	default:
		n += firstSize
	}
	return n
}

// http2Window is how much of a body net/http takes before it is read.
const http2Window = 1 << 20

// values is for [client].
func (x *relay) values(name string) []string { return x.in.Header.Values(name) }
