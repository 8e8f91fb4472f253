package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"syscall"

	"github.com/layover-dev/layover/internal/route"
)

// checkTarget returns why a proxy does not serve this kind of request, or nil.
//
// Of the forms of a request target (RFC 9112 section 3.2) it takes the origin form, the
// absolute form with http, and "*" for OPTIONS. net/http has already made the
// authority of the absolute form the request's Host.
func checkTarget(r *http.Request) *problem {
	u := r.URL
	switch {
	case r.Method == http.MethodConnect:
		return connectUnsupported(r.Host)
	case u.Scheme == "https":
		return httpsTarget(u.Host)
	case u.Scheme != "" && u.Scheme != "http",
		u.Scheme != "" && u.Host == "",
		u.Host != "" && r.ProtoMajor > 1,
		u.Opaque != "",
		u.Path == "*" && r.Method != http.MethodOptions:
		return badTarget(r.RequestURI)
	case hops(r.Header) >= maxHops:
		return loop(r.Host)
	}
	return nil
}

// rewrite makes the request that the instance gets (R7). What is not changed here
// goes on as it came, but for the hop-by-hop fields.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	x.aim(out)
	keepTarget(out.URL, in.URL, in.Method, out.Host)
	forward(out.Header, in, x.proxy.options.TrustForwarded)
	out.Header[HopsHeader] = []string{strconv.Itoa(hops(in.Header) + 1)}
	if x.decision.By != route.ByBaggage && x.decision.By != route.ByDefault {
		out.Header["Baggage"] = route.PrependMember(in.Header["Baggage"], x.table.BaggageKey(), x.decision.Route)
	}
	if x.decision.Service.Protocol == route.H2C {
		delete(out.Header, "Upgrade") // HTTP/2 has none
		delete(out.Header, "Connection")
	} else {
		dropTunnelsOfHTTP(out.Header)
	}
	if out.Body != nil {
		if rate := &x.proxy.options.BodyRate; rate.applies(in.ContentLength, in.Header.Get("Content-Type")) {
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

// aim directs out to the instance.
func (x *exchange) aim(out *http.Request) {
	out.URL.Scheme = "http"
	if x.instance.TLS {
		out.URL.Scheme = "https"
	}
	out.URL.Host = x.instance.Address
	out.Host = x.in.Host
	if x.instance.Host != "" {
		out.Host = x.instance.Host
	}
}

// RoundTrip sends the request to the instance. Where no connection could be made,
// nothing was sent, and one other instance of the same version is tried.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	res, err := x.transport().RoundTrip(out)
	if err == nil || !x.unreachable(err) || !x.moveOn() {
		return res, err
	}
	again := out.Clone(out.Context())
	again.Trailer = out.Trailer // the body writes into it
	x.aim(again)
	keepTarget(again.URL, x.in.URL, x.in.Method, again.Host)
	res, err = x.transport().RoundTrip(again)
	if err != nil {
		x.unreachable(err)
	}
	return res, err
}

// unreachable says whether an error means that no connection to the instance could be
// made, and notes that.
func (x *exchange) unreachable(err error) bool {
	if !isDialError(err) || x.in.Context().Err() != nil {
		return false
	}
	x.proxy.outliers.unreachable(&x.flight.outlier)
	return true
}

func (x *exchange) transport() *http.Transport {
	return x.proxy.transports.to(x.decision.Service.Protocol, x.instance)
}

// moveOn enters another instance of the version instead of the present one. Where a newer
// table is in place, the instance is one of that table; the version stays the same.
func (x *exchange) moveOn() bool {
	failed, left := x.instance, x.flight
	id, paid := x.decision.Version.ID, false
	for {
		now := x.proxy.current.Load()
		d := now.table.Resolve(&x.ask)
		if d.Version == nil || d.Version.ID != id || d.Version.State != route.Ready {
			return false
		}
		x.decision.Version = d.Version
		if !slices.ContainsFunc(d.Version.Instances, func(i route.Instance) bool { return i.ID != failed.ID }) {
			return false
		}
		if !paid && !x.version.budget.take(x.version.answers.Load()) {
			x.tooMany = true
			return false
		}
		paid = true
		entered, current := x.enter(now, failed.ID)
		if entered {
			left.leave()
		}
		if current {
			return entered
		}
	}
}

// modify completes the instance's answer.
func (x *exchange) modify(res *http.Response) error {
	x.version.answers.Add(1)
	x.proxy.outliers.answered(&x.flight.outlier, res.StatusCode, x.record.Time)
	res.Header[ServedByHeader] = []string{x.decision.ServedBy()}
	if _, typed := res.Header["Content-Type"]; !typed {
		x.w.Header()["Content-Type"] = nil // keeps the server from guessing one
	}
	if len(res.Trailer) > 0 && x.in.ProtoMajor == 1 {
		delete(res.Header, "Content-Length") // HTTP/1.1 has trailers with the chunked encoding only
	}
	if res.ContentLength < 0 && res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = trailedBody{res.Body, res}
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
func (x *exchange) fail(_ http.ResponseWriter, _ *http.Request, err error) {
	if x.w.tunnel != nil {
		x.record.Error = string(x.cutOff()) // upgraded: there is nobody to answer
		return
	}
	x.answer(x.explain(err))
}

// explain returns the problem behind an error of RoundTrip.
func (x *exchange) explain(err error) *problem {
	var timeout net.Error
	id := x.decision.Version.ID
	switch {
	case x.paced != nil && x.paced.slow.Load():
		return slowBody(&x.proxy.options.BodyRate)
	case x.in.Context().Err() != nil:
		return x.unwanted()
	case x.body != nil && x.body.failed.Load():
		return badBody()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return instanceTimeout(id, x.instance, err)
	case isDialError(err):
		pr := noConnection(id, x.instance, err)
		if x.tooMany {
			pr.detail += " No other instance was tried: the budget for second tries is used up."
		}
		return pr
	case isBrokenConnection(err):
		return brokenConnection(id, x.instance, err)
	}
	return badAnswer(id, x.instance, x.decision.Service.Protocol, err)
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
