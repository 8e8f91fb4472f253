package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
	"github.com/layover-dev/layover/internal/route"
)

// maxSimilar is how many suggestions a problem makes.
const maxSimilar = 3

// When to try again after a 503 that may be over soon.
const (
	retrySoon  = time.Second
	retryLater = 5 * time.Second
)

func noTable() *problem {
	return &problem{
		status:     http.StatusServiceUnavailable,
		code:       CodeNoTable,
		title:      "The proxy has no table yet",
		detail:     "No Layover server has told this proxy which services there are, and it has no table on disk.",
		hint:       "Try again; where it stays so, see the proxy's /readyz, which says why no server is followed.",
		retryAfter: retrySoon,
	}
}

func unknownHost(host string, similar []string) *problem {
	return &problem{
		status:  http.StatusNotFound,
		code:    CodeUnknownHost,
		title:   "No such host",
		detail:  fmt.Sprintf("No service of this environment has the host %q.", host),
		hint:    "Check the host's spelling. `layover ls` shows the services.",
		similar: similar,
		link:    true,
	}
}

func unknownRoute(table *route.Table, strict string) *problem {
	var similar []string
	for selector := range strings.SplitSeq(strings.TrimSuffix(strict, "!"), "~") {
		similar = append(similar, table.DidYouMean(selector, maxSimilar)...)
	}
	return &problem{
		status:  http.StatusMisdirectedRequest,
		code:    CodeUnknownRoute,
		title:   "No such route",
		detail:  fmt.Sprintf("The strict route %q names something that does not exist in this environment.", strict),
		hint:    "Check the route's spelling, deploy the version, or leave out the \"!\" to get the default versions instead.",
		similar: similar[:min(len(similar), maxSimilar)],
	}
}

func noVersion(service string) *problem {
	return &problem{
		status: http.StatusServiceUnavailable,
		code:   CodeNoVersion,
		title:  "No version to answer",
		detail: fmt.Sprintf("The default version of %s is asked for, and %s does not have it.", service, service),
		hint:   fmt.Sprintf("Deploy it, or name a version that exists: `layover ls --service %s`.", service),
	}
}

func versionFailed(v *route.VersionEntry) *problem {
	reason := strings.TrimSuffix(v.Reason, ".")
	if reason == "" {
		reason = "it did not start, or it keeps ending"
	}
	return &problem{
		status: http.StatusServiceUnavailable,
		code:   CodeVersionFailed,
		title:  fmt.Sprintf("%s has failed", v.ID),
		detail: fmt.Sprintf("%s will not answer: %s.", v.ID, reason),
		hint:   fmt.Sprintf("See its log: `layover logs %s`. No other version answers in its place.", v.ID),
	}
}

func versionNotReady(v *route.VersionEntry, waited time.Duration, notAsked error) *problem {
	detail := fmt.Sprintf("%s is %s, and was not ready within %s.", v.ID, v.State, waited.Round(time.Millisecond))
	if v.Reason != "" {
		detail += " " + strings.TrimSuffix(v.Reason, ".") + "."
	}
	if notAsked != nil {
		detail += " It could not be started: " + strings.TrimSuffix(notAsked.Error(), ".") + "."
	}
	return &problem{
		status:     http.StatusServiceUnavailable,
		code:       CodeVersionNotReady,
		title:      fmt.Sprintf("%s is not ready", v.ID),
		detail:     detail,
		hint:       fmt.Sprintf("Try again, or see what it waits for: `layover status %s`.", v.ID),
		retryAfter: retryLater,
	}
}

// sentence makes words a sentence.
func sentence(words string) string {
	return strings.ToUpper(words[:1]) + strings.TrimSuffix(words[1:], ".") + "."
}

func versionGone(id string) *problem {
	return &problem{
		status: http.StatusServiceUnavailable,
		code:   CodeVersionGone,
		title:  fmt.Sprintf("%s is gone", id),
		detail: fmt.Sprintf("The request waited for %s to become ready, and meanwhile it was removed, stopped, or is no longer what the request asks for.", id),
		hint:   "Send the request again to have it decided anew.",
	}
}

func tooManyHeld(id, why string) *problem {
	return &problem{
		status:     http.StatusServiceUnavailable,
		code:       CodeTooManyHeld,
		title:      "Too many requests wait",
		detail:     fmt.Sprintf("%s is not ready, and %s.", id, why),
		hint:       fmt.Sprintf("Try again, or see what it waits for: `layover status %s`.", id),
		retryAfter: retrySoon,
	}
}

func tooManyLargeHeaders(most int) *problem {
	return &problem{
		status:     http.StatusServiceUnavailable,
		code:       CodeLargeHeaders,
		title:      "Too many large headers",
		detail:     fmt.Sprintf("The headers of other requests take as much memory as this proxy has for large ones: %d bytes.", most),
		hint:       "Try again, or send a header of less than 16 KiB, for which there is always room. proxy.limits.header_memory allows more.",
		retryAfter: retrySoon,
	}
}

func stopping() *problem {
	return &problem{
		status:     http.StatusServiceUnavailable,
		code:       CodeStopping,
		title:      "The proxy is being stopped",
		detail:     "The request was not complete when the proxy was asked to stop.",
		hint:       "Try again.",
		retryAfter: retrySoon,
	}
}

func noConnection(id string, instance *route.Instance, err error) *problem {
	return &problem{
		status: http.StatusBadGateway,
		code:   CodeUnreachable,
		title:  fmt.Sprintf("%s cannot be reached", id),
		detail: fmt.Sprintf("No connection to instance %s of %s: %v.", instance.ID, id, err),
		hint:   fmt.Sprintf("It may just have ended: see `layover status %s` and `layover logs %s`.", id, id),
	}
}

func brokenConnection(id string, instance *route.Instance, err error) *problem {
	return &problem{
		status: http.StatusBadGateway,
		code:   CodeUnreachable,
		title:  fmt.Sprintf("%s did not answer", id),
		detail: fmt.Sprintf("Instance %s of %s at %s closed the connection before it answered: %v.", instance.ID, id, instance.Address, err),
		hint:   fmt.Sprintf("It may have crashed on this request: see `layover logs %s`.", id),
	}
}

func badAnswer(id string, instance *route.Instance, protocol route.Protocol, err error) *problem {
	spoken, other := "HTTP/1.1", string(route.H2C)
	if protocol == route.H2C {
		spoken, other = "HTTP/2", string(route.HTTP1)
	}
	return &problem{
		status: http.StatusBadGateway,
		code:   CodeBadAnswer,
		title:  fmt.Sprintf("%s gave an answer that cannot be passed on", id),
		detail: fmt.Sprintf("Instance %s of %s at %s was spoken to in %s: %v.", instance.ID, id, instance.Address, spoken, err),
		hint:   fmt.Sprintf("Where the service speaks the other kind of HTTP, set its protocol to %s.", other),
	}
}

func instanceTimeout(id string, instance *route.Instance, err error) *problem {
	return &problem{
		status: http.StatusGatewayTimeout,
		code:   CodeTimeout,
		title:  fmt.Sprintf("%s did not answer in time", id),
		detail: fmt.Sprintf("Instance %s of %s at %s: %v.", instance.ID, id, instance.Address, err),
		hint:   fmt.Sprintf("See what it does: `layover status %s` and `layover logs %s`.", id, id),
	}
}

func badBody() *problem {
	return &problem{
		status: http.StatusBadRequest,
		code:   CodeBadBody,
		title:  "The request's body broke off",
		detail: "The body ended before its announced length, or is not encoded as announced.",
		hint:   "Check the client's Content-Length or chunked encoding.",
	}
}

func badTarget(target string) *problem {
	return &problem{
		status: http.StatusBadRequest,
		code:   CodeBadTarget,
		title:  "Not a target for this proxy",
		detail: fmt.Sprintf("The request asks for %q, which is neither a path nor an http:// URL.", target),
		hint:   "Ask for /path with a Host field, or, with HTTP_PROXY, for http://host/path.",
	}
}

func hostsDiffer(authority, host string) *problem {
	return &problem{
		status: http.StatusBadRequest,
		code:   CodeBadTarget,
		title:  "Two hosts",
		detail: fmt.Sprintf("The request asks for a URL of %q, and its Host field says %q.", authority, host),
		hint:   "Send the URL's host and port as Host, without user and password.",
	}
}

// plainHTTP is HTTP on a listener that speaks TLS.
func plainHTTP() *problem {
	return &problem{
		status: http.StatusBadRequest,
		code:   CodeMalformed,
		title:  "This address speaks TLS",
		detail: "The client sent HTTP without TLS to an address of proxy.listen_tls.",
		hint:   "Use https://, or an address of proxy.listen.",
	}
}

// malformed is a request that two parsers could read differently.
func malformed(err *http1.Error) *problem {
	return &problem{
		status: err.Status,
		code:   CodeMalformed,
		title:  "Not a request as HTTP/1.1 has it",
		detail: "The request is refused: " + err.What + ".",
		hint:   "Check the client, or what stands between it and this proxy, against RFC 9112.",
	}
}

func httpsTarget(host string) *problem {
	return &problem{
		status: http.StatusBadRequest,
		code:   CodeHTTPSTarget,
		title:  "No https:// through this proxy",
		detail: fmt.Sprintf("The request asks for https://%s; Layover does not encrypt in a client's name.", host),
		hint:   fmt.Sprintf("Call http://%s instead; name hosts outside of the environment in NO_PROXY.", host),
	}
}

// connectUnsupported refuses a CONNECT, or one with a :protocol (RFC 8441) that is not passed on.
func connectUnsupported(host, protocol string) *problem {
	if protocol != "" {
		return &problem{
			status: http.StatusNotImplemented,
			code:   CodeConnect,
			title:  "CONNECT is offered for WebSocket only",
			detail: fmt.Sprintf("The client wants to speak %q with %s on a stream of HTTP/2.", protocol, host),
			hint:   "Of the protocols over extended CONNECT (RFC 8441), use websocket.",
		}
	}
	return &problem{
		status: http.StatusNotImplemented,
		code:   CodeConnect,
		title:  "CONNECT is not offered",
		detail: fmt.Sprintf("The client wants a tunnel to %s; requests inside a tunnel could not be routed.", host),
		hint:   "Set HTTP_PROXY only, not HTTPS_PROXY, and call the services of the environment with http://.",
	}
}

func loop(host string) *problem {
	return &problem{
		status: http.StatusLoopDetected,
		code:   CodeLoop,
		title:  "The request runs in a circle",
		detail: fmt.Sprintf("The request for %s came through the proxy %d times.", host, maxHops),
		hint:   "Look for a version whose external URL leads back to this proxy, or services that call each other without end and copy all header fields.",
	}
}
