package cli

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

// aim is what a route means in an environment at one time.
type aim struct {
	env   api.Environment
	table *route.Table
	route string // "" for the default versions
}

// aimAt asks the server what a route means.
func aimAt(ctx context.Context, client *api.Client, value string) (*aim, error) {
	env, err := client.Environment(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := client.Table(ctx)
	if err != nil {
		return nil, err
	}
	table, err := route.Compile(*spec)
	if err != nil {
		return nil, fmt.Errorf("read the server's table: %w", err)
	}
	return &aim{env: env, table: table, route: value}, nil
}

// versionOf is the version of a service that the route means; "" where the default version answers for want of one.
func (a *aim) versionOf(service *route.ServiceEntry) string {
	if a.route == "" || len(service.Hosts) == 0 {
		return ""
	}
	d := a.table.Resolve(&route.Request{Host: hostOf(service), Baggage: route.PrependMember(nil, a.table.BaggageKey(), a.route)})
	if d.Version == nil || d.Service == nil || d.Service.Name != service.Name || d.Match == route.MatchNone {
		return ""
	}
	return d.Version.Name
}

// hostOf is a host that selects the service.
func hostOf(service *route.ServiceEntry) string {
	for _, host := range service.Hosts {
		if !strings.HasPrefix(host, "*") {
			return host
		}
	}
	return "x" + strings.TrimPrefix(service.Hosts[0], "*")
}

// versions are those that the route has besides default versions, as service@version, in the order of the services.
func (a *aim) versions() []string {
	var out []string
	for service := range a.table.Services() {
		if name := a.versionOf(service); name != "" && name != service.Definition().Default {
			out = append(out, service.Name+"@"+name)
		}
	}
	slices.Sort(out)
	return out
}

// wanted is the version of a service that the route asks for, whether or not it is there; "" where it asks for none by name.
func (a *aim) wanted(service string) string {
	if s := a.table.Service(service); s != nil {
		if name := a.versionOf(s); name != "" {
			return name
		}
	}
	r, err := route.ParseRoute(a.route)
	if err != nil {
		return ""
	}
	for _, s := range r.Selectors {
		if s.Service == service {
			return s.Version
		}
	}
	for _, s := range r.Selectors {
		if s.Service == "" && !slices.ContainsFunc(a.table.NamedRoutes(), func(n route.NamedRoute) bool { return n.Name == s.Version }) {
			return s.Version
		}
	}
	return ""
}

// defaultOf is the default version of a service.
func (a *aim) defaultOf(service string) string {
	if s := a.table.Service(service); s != nil {
		return s.Definition().Default
	}
	return route.DefaultVersion
}

// isOurs says whether a host is one of the environment.
func (a *aim) isOurs(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	d := a.table.Resolve(&route.Request{Host: host})
	return d.Service != nil || strings.HasSuffix(strings.TrimSuffix(strings.ToLower(host), "."), "."+a.env.Domain)
}

// hosts are those of all services, without the "*." of suffixes, and the domain of previews.
func (a *aim) hosts() []string {
	out := []string{a.env.Domain}
	for service := range a.table.Services() {
		for _, host := range service.Hosts {
			out = append(out, strings.TrimPrefix(host, "*."))
		}
	}
	return out
}

// proxyAddress is where the proxy of the environment is reached, as host:port.
func (a *aim) proxyAddress() (string, error) {
	if a.env.ProxyURL == "" {
		return "", &control.Error{Code: api.CodeUnavailable, Message: "the server does not know where its proxy is reached", Hint: "set proxy.address in its layover.yaml"}
	}
	_, address, _ := strings.Cut(a.env.ProxyURL, "://")
	return strings.TrimSuffix(address, "/"), nil
}

// urls are where each service is reached through the proxy, by the names of variables for programs.
func (a *aim) urls() []string {
	address, err := a.proxyAddress()
	if err != nil {
		return nil
	}
	_, port, _ := net.SplitHostPort(address)
	var out []string
	for service := range a.table.Services() {
		if len(service.Hosts) == 0 {
			continue
		}
		host := hostOf(service)
		if port != "" && port != "80" {
			host = net.JoinHostPort(host, port)
		}
		out = append(out, "LAYOVER_URL_"+variableName(service.Name)+"=http://"+host)
	}
	slices.Sort(out)
	return out
}

// variableName makes a part of the name of an environment variable of a service's name.
func variableName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, strings.ToUpper(name))
}
