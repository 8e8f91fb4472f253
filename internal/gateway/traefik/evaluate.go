package traefik

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/layover-dev/layover/internal/route"
)

// Request is what Traefik looks at.
type Request struct {
	Host   string // as the client sent it
	Path   string
	Header http.Header
}

// Answer is where Traefik sends a request.
type Answer struct {
	Router   string   // its name; "" where no router is for the request
	Proxy    bool     // to Layover's proxy, which decides
	Servers  []string // URLs of the instances that it is sent to otherwise
	ServedBy string   // what the answer says of itself
}

// Evaluator decides as Traefik does by a configuration that [Build] made. It may be used by any number of goroutines.
type Evaluator struct{ routers []compiled }

type compiled struct {
	priority int
	match    matcher
	answer   Answer
}

type matcher func(*Request) bool

// Compile reads a configuration as Traefik does.
func Compile(c *Config) (*Evaluator, error) {
	e := &Evaluator{}
	for name, r := range c.HTTP.Routers {
		match, err := compileRule(r.Rule)
		if err != nil {
			return nil, fmt.Errorf("router %s: %w", name, err)
		}
		s := c.HTTP.Services[r.Service]
		if s == nil {
			return nil, fmt.Errorf("router %s: there is no service %s", name, r.Service)
		}
		a := Answer{Router: name, Proxy: isProxy(r.Service)}
		for _, server := range s.LoadBalancer.Servers {
			a.Servers = append(a.Servers, server.URL)
		}
		for _, m := range r.Middlewares {
			if c.HTTP.Middlewares[m] == nil {
				return nil, fmt.Errorf("router %s: there is no middleware %s", name, m)
			}
			a.ServedBy = cmp.Or(c.HTTP.Middlewares[m].Headers.Response[HeaderServedBy], a.ServedBy)
		}
		e.routers = append(e.routers, compiled{r.Priority, match, a})
	}
	slices.SortFunc(e.routers, func(a, b compiled) int {
		return cmp.Or(b.priority-a.priority, strings.Compare(a.answer.Router, b.answer.Router))
	})
	return e, nil
}

// isProxy says whether a service is that of Layover's proxies.
func isProxy(service string) bool {
	parts := strings.Split(service, "--")
	return len(parts) == 5 && parts[2] == "" && parts[3] == "proxy"
}

// Decide returns where Traefik sends a request.
func (e *Evaluator) Decide(r *Request) Answer {
	own := *r
	own.Host = canonicalHost(r.Host)
	if named := connectionFields(r.Header); len(named) > 0 {
		own.Header = r.Header.Clone()
		for _, name := range named {
			delete(own.Header, name)
		}
	}
	for _, router := range e.routers {
		if router.match(&own) {
			return router.answer
		}
	}
	return Answer{}
}

// Compare says in what an answer of Traefik differs from the decision of the table; "" where it does not. What
// goes to Layover's proxy never does: it is decided there.
func Compare(d route.Decision, a Answer) string {
	switch {
	case a.Proxy:
		return ""
	case a.Router == "" && d.Outcome == route.UnknownHost:
		return ""
	case a.Router == "":
		return "Traefik has no router for it"
	case d.Version == nil:
		return fmt.Sprintf("Layover answers %s, and Traefik sends it to %s", d.Outcome, a.ServedBy)
	case !slices.Equal(a.Servers, instanceURLs(d.Service.Protocol, d.Version.Instances)):
		return fmt.Sprintf("Layover sends it to %s, and Traefik to %s", d.Version.ID, a.ServedBy)
	case a.ServedBy != d.ServedBy():
		return fmt.Sprintf("the answer should say %q, and says %q", d.ServedBy(), a.ServedBy)
	}
	return ""
}

// RouteRequest is what of the request decides its route by a table whose alternative header is routeHeader.
func (r *Request) RouteRequest(routeHeader string) *route.Request {
	out := &route.Request{Host: r.Host, Baggage: r.Header["Baggage"], Cookie: r.Header["Cookie"]}
	if routeHeader != "" {
		out.Header = r.Header[textproto.CanonicalMIMEHeaderKey(routeHeader)]
	}
	return out
}

// canonicalHost is the authority of a request as Traefik's rules see it.
func canonicalHost(authority string) string {
	host := authority
	if strings.Contains(authority, ":") {
		if name, _, err := net.SplitHostPort(authority); err == nil {
			host = name
		} else if strings.HasPrefix(authority, "[") && strings.HasSuffix(authority, "]") {
			host = authority[1 : len(authority)-1]
		}
	}
	return strings.ToLower(strings.TrimSpace(host))
}

// compileRule reads a rule that was written here.
func compileRule(rule string) (matcher, error) {
	e, err := parseRule(rule)
	if err != nil {
		return nil, err
	}
	return e.matcher()
}

func (e *expr) matcher() (matcher, error) {
	if e.op == opMatch {
		return newMatcher(e.name, e.texts)
	}
	parts := make([]matcher, len(e.parts))
	for i, part := range e.parts {
		var err error
		if parts[i], err = part.matcher(); err != nil {
			return nil, err
		}
	}
	switch e.op {
	case opNot:
		return func(r *Request) bool { return !parts[0](r) }, nil
	case opAnd:
		return func(r *Request) bool { return parts[0](r) && parts[1](r) }, nil
	default:
		return func(r *Request) bool { return parts[0](r) || parts[1](r) }, nil
	}
}

func newMatcher(name string, args []string) (matcher, error) {
	switch {
	case name == "Host" && len(args) == 1:
		host := strings.ToLower(args[0])
		return func(r *Request) bool { return r.Host == host || strings.TrimSuffix(r.Host, ".") == host && host != "" }, nil
	case name == "Path" && len(args) == 1:
		return func(r *Request) bool { return routingPath(r.Path) == args[0] }, nil
	case name == "HostRegexp" && len(args) == 1:
		re, err := regexp.Compile(args[0])
		return func(r *Request) bool { return re.MatchString(r.Host) }, err
	case name == "HeaderRegexp" && len(args) == 2:
		re, err := regexp.Compile(args[1])
		key := http.CanonicalHeaderKey(args[0])
		return func(r *Request) bool { return slices.ContainsFunc(r.Header[key], re.MatchString) }, err
	}
	return nil, fmt.Errorf("there is no matcher %s of %d texts here", name, len(args))
}

// routingPath is the path as rules see it: what need not be percent-encoded is decoded.
func routingPath(p string) string {
	if !strings.Contains(p, "%") {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] != '%' || i+2 >= len(p) {
			b.WriteByte(p[i])
			continue
		}
		escape := p[i : i+3]
		decoded, err := url.PathUnescape(escape)
		if err != nil || strings.Contains(":/?#[]@!$&'()*+,;=%", decoded) {
			decoded = escape
		}
		b.WriteString(decoded)
		i += 2
	}
	return b.String()
}
