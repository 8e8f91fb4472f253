package server

import (
	"context"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func (s *Server) registerExplain() {
	register(s, operation{
		id: "explain", tag: tagRouting, method: http.MethodPost, path: "/api/v1/explain", standby: leaderless,
		summary: "Explain a decision",
		description: "Says which version would answer a request, and which rule decided what, on the table in force. " +
			"Nothing is sent to any service. The same code decides in the data plane.",
		body: true,
	}, func(_ context.Context, in *struct{ Body api.ExplainRequest }) (*answer[api.Explanation], error) {
		table := s.control.Table()
		req, err := routeRequest(in.Body, table.BaggageKey(), table.RouteHeader())
		if err != nil {
			return nil, err
		}
		return reply(table.Explain(&req)), nil
	})
}

// routeRequest makes of a described request what decides its route. All that is
// wrong with it is reported at once.
func routeRequest(in api.ExplainRequest, baggageKey, routeHeader string) (route.Request, error) {
	var req route.Request
	var problems []string
	host, problem := requestHost(in.URL)
	if problem != "" {
		problems = append(problems, "url: "+problem)
	}
	req.Host = host
	for _, line := range in.Headers {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			problems = append(problems, "headers: "+quote(line)+" is not of the form 'Name: value'")
			continue
		}
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Host":
			req.Host = value
		case "Baggage":
			req.Baggage = append(req.Baggage, value)
		case "Cookie":
			req.Cookie = append(req.Cookie, value)
		}
		if routeHeader != "" && strings.EqualFold(name, routeHeader) {
			req.Header = append(req.Header, value)
		}
	}
	if len(problems) > 0 {
		p := invalidf("write a URL such as http://cart.localhost:8080/items, and headers such as 'baggage: dynamic_route=feature-1'", "%s", problems[0])
		if len(problems) > 1 {
			p.Errors = problems
		}
		return route.Request{}, p
	}
	if in.Route != "" {
		// It takes the place of a member with that key: of two, the last one would count.
		req.Baggage = route.PrependMember(req.Baggage, baggageKey, in.Route)
	}
	return req, nil
}

// requestHost returns the authority of a URL, whose scheme may be missing, or what is wrong with it.
func requestHost(text string) (host, problem string) {
	if rest, ok := strings.CutPrefix(text, "//"); ok {
		text = rest
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", quote(text) + " is not a URL"
	}
	if !slices.Contains([]string{"http", "https", "ws", "wss", "grpc", "grpcs"}, u.Scheme) {
		return "", "the scheme " + quote(u.Scheme) + " is not one of HTTP's"
	}
	if u.Hostname() == "" {
		return "", quote(text) + " names no host"
	}
	return u.Host, ""
}

// quote shows text that may be long, or have control characters.
func quote(text string) string {
	const most = 80
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return strconv.Quote(text)
}
