package external

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// target is where an instance is, by name.
type target struct {
	url     string // as it was given
	host    string // name or IP address, without brackets
	port    string
	tls     bool
	rewrite string // sent as Host, empty where the client's is kept
}

// validName is a DNS name, with the underscores that many resolvers have.
var validName = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.?$`)

// newTarget reads the URL of a workload: scheme, host and port, nothing else.
func newTarget(w control.Workload) (target, error) {
	if w.ID == "" || !validID.MatchString(w.ID) {
		return target{}, invalid("use letters, digits, '.', '_' and '-', and begin with a letter or digit", "%q cannot name an instance", w.ID)
	}
	if w.Run.External == nil {
		return target{}, invalid("set run.external.url, or deploy with --url", "%s has no URL to adopt", w.ID)
	}
	raw := w.Run.External.URL
	const hint = "give scheme, host and, where it is not the usual one, port: http://cart.internal:8080"
	u, err := url.Parse(raw)
	if err != nil {
		return target{}, invalid(hint, "%q is not a URL: %v", raw, errors.Unwrap(err))
	}
	t := target{url: raw, host: u.Hostname(), port: u.Port(), tls: u.Scheme == "https"}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return target{}, invalid(hint, "the URL %q does not begin with http:// or https://", raw)
	case u.User != nil:
		return target{}, invalid("take it out; requests are sent on with the headers they have", "the URL of %s has a user name or a password", w.ID)
	case u.Path != "" && u.Path != "/":
		return target{}, invalid("take it out; requests keep their own path", "the URL %q has the path %q", raw, u.Path)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return target{}, invalid("take it out; requests keep their own query", "the URL %q has a query or a fragment", raw)
	case !validHost(t.host):
		return target{}, invalid(hint, "the URL %q has no host that can be looked up", raw)
	}
	if t.port == "" {
		t.port = map[bool]string{false: "80", true: "443"}[t.tls]
	}
	if n, err := strconv.Atoi(t.port); err != nil || n < 1 || n > 65535 {
		return target{}, invalid("use a port from 1 to 65535", "the URL %q has the port %s", raw, t.port)
	}
	if w.Run.External.RewriteHost {
		t.rewrite = u.Host
	}
	return t, nil
}

// validID is what names instances.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,199}$`)

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return len(host) <= 254 && validName.MatchString(host)
}

// lookUp returns all addresses of the target, in an order that is always the same.
func (t target) lookUp(ctx context.Context, resolver Resolver) ([]control.Address, error) {
	ips := []string{t.host}
	if _, err := netip.ParseAddr(t.host); err != nil {
		if ips, err = resolver.LookupHost(ctx, t.host); err != nil {
			return nil, err
		}
	}
	ips = slices.Clone(ips)
	slices.Sort(ips)
	ips = slices.Compact(ips)
	if len(ips) == 0 {
		return nil, errNoAddress
	}
	addresses := make([]control.Address, 0, len(ips))
	for _, ip := range ips {
		a := control.Address{HostPort: net.JoinHostPort(ip, t.port), TLS: t.tls, Host: t.rewrite}
		if t.tls {
			a.ServerName = t.host
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// lookUpError explains why an instance could not be adopted.
func (t target) lookUpError(ctx context.Context, id string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("adopt %s: look up %s: %w", id, t.host, context.Cause(ctx))
	}
	told := &control.Error{
		Code: api.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("the name %s cannot be looked up: %v", t.host, err),
		Hint:    "try again when DNS answers, or give an IP address",
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	if ok && dns.IsNotFound || errors.Is(err, errNoAddress) {
		told.Code = api.CodeInvalid
		told.Message = fmt.Sprintf("no address is known for the name %s", t.host)
		told.Hint = "correct the name in the URL " + t.url + "; it must be known on the machine of the server"
	}
	return told
}

func invalid(hint, format string, args ...any) error {
	return &control.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}
