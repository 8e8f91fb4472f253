// Package traefik writes a routing table as dynamic configuration of Traefik 3, for teams that keep the
// Traefik they have.
//
// Traefik decides by rules that look at one header line at a time. What such a rule decides exactly as
// [route.Table.Resolve] does, Traefik answers itself; all else goes to Layover's own proxy, which decides by the
// table. Nothing goes to a version that the table would not choose. The exceptions, which are few and concern no
// request that a program sends by itself, are what [Limits] lists.
//
// The package is pure: no I/O, and nothing of Traefik's own code. [Compile] decides as Traefik does, from the
// same text that Traefik reads, and a proof holds it to the real one.
package traefik

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/layover-dev/layover/internal/route"
)

// Mode says what Traefik answers itself.
type Mode string

// The modes.
const (
	// Hybrid: requests without a route, by the default versions. Two routers for a service, however many
	// versions it has.
	Hybrid Mode = "hybrid"
	// Full: also requests that name one version, or one named route. A router for each version.
	Full Mode = "full"
)

// WaitPath is the path that Layover's proxy answers itself on every host.
const WaitPath = "/.layover/wait"

// DefaultPriority is above that of any rule that has none: Traefik takes the length of such a rule.
const DefaultPriority = 1_000_000

// Settings are what the configuration needs besides the table.
type Settings struct {
	Mode         Mode
	Proxies      []string        // URLs of Layover's proxies, as Traefik reaches them: http or https, host and port
	EntryPoints  []string        // empty: Traefik's default ones
	Priority     int             // of the router that comes last; below zero they come after all that have none; 0 means DefaultPriority
	TLS          bool            // the entry points speak TLS
	CertResolver string          // that gets the certificates; only with TLS
	Leased       map[string]bool // IDs of the versions that sleep or end without activity: only Layover's proxy reports it
}

// ErrNoProxy says that the settings name no proxy of Layover: there would be nowhere to send what Traefik
// cannot decide.
var ErrNoProxy = errors.New("no address of a Layover proxy is known")

// Build writes the configuration of a table. The same table and settings give the same configuration.
func Build(t *route.Table, s Settings) (*Config, error) {
	if len(s.Proxies) == 0 {
		return nil, ErrNoProxy
	}
	if s.Priority == 0 {
		s.Priority = DefaultPriority
	}
	b := builder{table: t, settings: s, names: names{t.Environment().Environment}, out: newConfig()}
	for service := range t.Services() {
		for _, g := range b.groups(service) {
			b.group(service, g)
		}
	}
	b.previews()
	return b.out, nil
}

// builder makes one configuration.
type builder struct {
	table    *route.Table
	settings Settings
	names    names
	out      *Config
}

// Taken is how many priorities routers take at most, from that of the settings on.
const Taken = 1300

// group is one or more hosts of a service that stand in one place of the order of R1.
type group struct {
	name   string // in the names of its routers; "" for the exact hosts
	rank   int    // a higher one goes first
	rule   string // that a request is for one of the hosts
	sample string // an authority that is
}

// The ranks: exact hosts, then "*.suffix" hosts by their length, then previews.
const (
	rankExact   = 300 // above the length of any suffix
	rankPreview = 0
)

// The places of routers with one rank. They exclude each other; the order only spares Traefik work.
const (
	placeDefault = iota + 1
	placeRouted
	placeVersion
	places
)

func (b *builder) priority(rank, place int) int { return b.settings.Priority + rank*places + place }

// groups are the hosts of a service by their place in the order of R1.
func (b *builder) groups(s *route.ServiceEntry) (all []group) {
	var exact []string
	for _, host := range s.Hosts {
		suffix, wildcard := strings.CutPrefix(host, "*")
		if !wildcard {
			exact = append(exact, host)
			continue
		}
		sum := sha256.Sum256([]byte(suffix))
		if sample := b.below(s, suffix); sample != "" {
			all = append(all, group{
				name: "under-" + hex.EncodeToString(sum[:4]), rank: len(suffix), rule: ruleBelow(suffix), sample: sample,
			})
		}
	}
	if len(exact) > 0 {
		all = append(all, group{rank: rankExact, rule: ruleHosts(exact), sample: exact[0]})
	}
	return all
}

// below finds a host under a suffix that selects the service: one that is no host of another.
func (b *builder) below(s *route.ServiceEntry, suffix string) string {
	for label := "x"; len(label) < 64; label += "x" {
		host := label + suffix
		if d := b.table.Resolve(&route.Request{Host: host}); d.Service == s && d.HostBy == route.HostSuffix {
			return host
		}
	}
	return "" // nobody has 63 hosts of such names
}

// group writes the routers of some hosts of a service.
func (b *builder) group(s *route.ServiceEntry, g group) {
	sources := b.sources()
	b.proxied(b.names.routed(s.Name, g.name), s, b.priority(g.rank, placeRouted), and(g.rule, or(sources...)))

	d := b.table.Resolve(&route.Request{Host: g.sample})
	rule := and(append([]string{g.rule}, not(sources)...)...)
	b.decided(b.names.unrouted(s.Name, g.name), s, d, b.priority(g.rank, placeDefault), rule)
	if b.settings.Mode != Full {
		return
	}
	for v := range s.Versions() {
		b.named(s, g, b.names.version(s.Name, v.Name, g.name), v.Name, route.MatchName)
	}
	for _, r := range b.table.NamedRoutes() {
		b.named(s, g, b.names.route(s.Name, r.Name, g.name), r.Name, route.MatchNamed)
	}
}

// named writes the router of requests whose route is one name, where that selects a version in the given way
// that Traefik can answer for.
func (b *builder) named(s *route.ServiceEntry, g group, router, name string, match route.Match) {
	key := b.table.BaggageKey()
	d := b.table.Resolve(&route.Request{Host: g.sample, Baggage: []string{key + "=" + name}})
	if d.Match != match || !b.direct(d) {
		return
	}
	b.decided(router, s, d, b.priority(g.rank, placeVersion), and(
		g.rule,
		headerRegexp("Baggage", baggageIs(key, name)),
		"!"+headerRegexp("Baggage", baggageIsNot(key, name)),
		"!"+headerRegexp("Upgrade", upgradeToHTTP),
		"!"+path(WaitPath),
	))
}

// sources are the rules of everything that may carry a route (R2), is Layover's own, or asks for another HTTP (R7): granted by an
// instance, all later requests of the client's connection would be the instance's, whatever their route.
func (b *builder) sources() []string {
	all := []string{headerRegexp("Baggage", baggageHas(b.table.BaggageKey()))}
	if header := b.table.RouteHeader(); header != "" {
		all = append(all, headerRegexp(header, `[^ \t]`))
	}
	return append(all, headerRegexp("Cookie", cookieHas(route.CookieName)), headerRegexp("Upgrade", upgradeToHTTP), path(WaitPath))
}

// previews writes the router of all preview hosts. Their requests need the baggage member that only the proxy
// adds (R7).
func (b *builder) previews() {
	for _, protocol := range []route.Protocol{route.HTTP1, route.H2C} {
		if rule := b.rulePreviews(protocol); rule != "" {
			name := b.names.previews(protocol)
			b.out.HTTP.Routers[name] = b.router(b.proxy(protocol), b.priority(rankPreview, placeDefault), rule)
		}
	}
}

func (b *builder) rulePreviews(protocol route.Protocol) string {
	var labels, hosts []string
	for s := range b.table.Services() {
		if s.Protocol != protocol {
			continue
		}
		labels = append(labels, s.PreviewLabel())
		for _, host := range s.Hosts {
			if !strings.HasPrefix(host, "*") {
				hosts = append(hosts, host)
			}
		}
	}
	var rules []string
	if len(labels) > 0 {
		rules = append(rules, rulePreview(labels, b.table.Environment().Domain))
	}
	if len(hosts) > 0 {
		rules = append(rules, rulePreviewOf(hosts))
	}
	return or(rules...)
}

// decided writes the router of requests that are all decided as d says.
func (b *builder) decided(name string, s *route.ServiceEntry, d route.Decision, priority int, rule string) {
	if !b.direct(d) {
		b.proxied(name, s, priority, rule)
		return
	}
	service := b.names.instances(s.Name, d.Version.Name)
	if b.out.HTTP.Services[service] == nil {
		b.out.HTTP.Services[service] = loadBalancer(instanceURLs(s.Protocol, d.Version.Instances))
	}
	r := b.router(service, priority, rule, name)
	b.out.HTTP.Routers[name] = r
	b.out.HTTP.Middlewares[name] = &Middleware{Headers: &Headers{Response: map[string]string{HeaderServedBy: d.ServedBy()}}}
}

// HeaderServedBy says on each answer which version it is from (R7).
const HeaderServedBy = "Layover-Served-By"

// proxied writes a router that leads to Layover's proxy.
func (b *builder) proxied(name string, s *route.ServiceEntry, priority int, rule string) {
	b.out.HTTP.Routers[name] = b.router(b.proxy(s.Protocol), priority, rule)
}

func (b *builder) router(service string, priority int, rule string, middlewares ...string) *Router {
	r := &Router{EntryPoints: b.settings.EntryPoints, Middlewares: middlewares, Service: service, Rule: rule, Priority: priority}
	if b.settings.TLS {
		r.TLS = &RouterTLS{CertResolver: b.settings.CertResolver}
	}
	return r
}

// proxy is the service of Layover's proxies, which are spoken to as the instances would be: gRPC needs HTTP/2.
func (b *builder) proxy(protocol route.Protocol) string {
	name := b.names.proxy(protocol)
	if b.out.HTTP.Services[name] == nil {
		urls := slices.Clone(b.settings.Proxies)
		for i, address := range urls {
			if u, err := url.Parse(address); err == nil && protocol == route.H2C && u.Scheme == "http" {
				u.Scheme = "h2c"
				urls[i] = u.String()
			}
		}
		b.out.HTTP.Services[name] = loadBalancer(urls)
	}
	return name
}

// direct says whether Traefik can answer what is decided so: by instances that it can speak to as Layover's proxy
// would, of a version whose activity nobody has to see.
func (b *builder) direct(d route.Decision) bool {
	if d.Outcome != route.Found || d.Fallback != route.FallbackNone || d.Version.State != route.Ready || b.settings.Leased[d.Version.ID] {
		return false
	}
	return !slices.ContainsFunc(d.Version.Instances, func(i route.Instance) bool { return i.TLS || i.Host != "" })
}

func instanceURLs(protocol route.Protocol, instances []route.Instance) (urls []string) {
	scheme := "http://"
	if protocol == route.H2C {
		scheme = "h2c://"
	}
	for _, i := range instances {
		urls = append(urls, scheme+i.Address)
	}
	slices.Sort(urls)
	return urls
}

func loadBalancer(urls []string) *Service {
	s := &Service{LoadBalancer: &LoadBalancer{}}
	for _, u := range urls {
		s.LoadBalancer.Servers = append(s.LoadBalancer.Servers, Server{URL: u})
	}
	return s
}
