package config

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// SourceFile is the source of deployments that a file asks for.
const SourceFile = "file"

// dockerHost is the word for the gateway of the Docker bridge in proxy.listen.
const dockerHost = "docker"

// VersionDeployment is a version that the file asks for.
type VersionDeployment struct {
	Service    string
	Version    string
	Deployment api.Deployment
}

// Listener is one address of the proxy.
type Listener struct {
	Entry   string // as the file has it
	Host    string // empty means every interface, and with Docker it is not known yet
	Port    string
	Docker  bool // listen on the gateway of the Docker bridge
	TLS     bool // with the certificates of File.KeyPairs
	Trusted bool // its callers may be told names of services and versions
}

// Listeners returns the addresses of the proxy, in the order of the file.
func (f *File) Listeners() []Listener {
	listeners := make([]Listener, 0, len(f.Proxy.Listen)+len(f.Proxy.ListenTLS))
	for i, entry := range slices.Concat(f.Proxy.Listen, f.Proxy.ListenTLS) {
		host, port, err := net.SplitHostPort(entry)
		if err != nil {
			continue // Validate reports it
		}
		l := Listener{Entry: entry, Host: host, Port: port, TLS: i >= len(f.Proxy.Listen)}
		if host == dockerHost {
			l.Docker, l.Host = true, ""
		}
		if f.Proxy.TrustedListen != nil {
			l.Trusted = slices.Contains(f.Proxy.TrustedListen, entry)
		} else {
			l.Trusted = l.Docker || isLoopback(host)
		}
		listeners = append(listeners, l)
	}
	return listeners
}

// KeyPairs returns the certificates of the proxy, with absolute paths.
func (f *File) KeyPairs() []KeyPair {
	var pairs []KeyPair
	for _, pair := range f.Proxy.TLS {
		pairs = append(pairs, KeyPair{CertFile: f.absolute(pair.CertFile), KeyFile: f.absolute(pair.KeyFile)})
	}
	return pairs
}

// Networks returns the networks of a list such as Proxy.TrustForwarded, without what
// Validate reports.
func Networks(entries []string) []netip.Prefix {
	var networks []netip.Prefix
	for _, entry := range entries {
		if network, ok := parseNetwork(entry); ok {
			networks = append(networks, network)
		}
	}
	return networks
}

// parseNetwork reads 10.0.0.0/8, or one address.
func parseNetwork(entry string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(entry)
	return prefix.Masked(), err == nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Dir returns the folder of the file, absolute, and "" where f was not read from one.
func (f *File) Dir() string {
	if f.source == nil {
		return ""
	}
	return f.source.dir
}

// Services returns the services, ordered by name, with the defaults put in, hosts
// filled in and working directories absolute.
func (f *File) Services() []api.Service {
	services := make([]api.Service, 0, len(f.ServicesByName))
	for _, name := range slices.Sorted(maps.Keys(f.ServicesByName)) {
		s := f.ServicesByName[name].Service
		s.Name = name
		s.Hosts = f.hostsOf(name)
		s.Default = cmp.Or(s.Default, route.DefaultVersion)
		s.Health = mergeHealth(s.Health, f.Defaults.Health)
		s.Env = mergeEnv(f.Defaults.Env, s.Env)
		s.Timeout = cmp.Or(s.Timeout, f.Defaults.Timeout)
		s.Grace = cmp.Or(s.Grace, f.Defaults.Grace)
		s.Drain = cmp.Or(s.Drain, f.Defaults.Drain)
		s.IdleSleep = cmp.Or(s.IdleSleep, f.Defaults.IdleSleep)
		s.TTL = cmp.Or(s.TTL, f.Defaults.TTL)
		s.Held = api.Held{
			Requests: cmp.Or(s.Held.Requests, f.Defaults.Held.Requests),
			Bytes:    cmp.Or(s.Held.Bytes, f.Defaults.Held.Bytes),
		}
		s.Healing = api.Healing{
			Origin: cmp.Or(s.Healing.Origin, f.Defaults.Healing.Origin),
			Trace:  cmp.Or(s.Healing.Trace, f.Defaults.Healing.Trace),
		}
		if s.Run.Process != nil {
			process := *s.Run.Process
			process.Dir = f.absolute(process.Dir)
			s.Run.Process = &process
		}
		s.Setup, s.Teardown = f.hook(s.Setup), f.hook(s.Teardown)
		services = append(services, s)
	}
	return services
}

// Versions returns the versions the file asks for, ordered by service and name.
// The default version of a service with a run block is always among them.
func (f *File) Versions() []VersionDeployment {
	var all []VersionDeployment
	for _, name := range slices.Sorted(maps.Keys(f.ServicesByName)) {
		s := f.ServicesByName[name]
		versions := maps.Clone(s.Versions)
		if versions == nil {
			versions = map[string]Version{}
		}
		standard := cmp.Or(s.Default, route.DefaultVersion)
		if _, listed := versions[standard]; !listed && s.Run.Runtime() != "" {
			versions[standard] = Version{}
		}
		for _, version := range slices.Sorted(maps.Keys(versions)) {
			v := versions[version]
			overrides := v.Overrides
			if overrides.Dir != "" || overrides.Command != nil && s.Run.Process == nil {
				overrides.Dir = f.absolute(overrides.Dir)
			}
			overrides.Setup, overrides.Teardown = f.hook(overrides.Setup), f.hook(overrides.Teardown)
			all = append(all, VersionDeployment{
				Service: name,
				Version: version,
				Deployment: api.Deployment{
					Overrides: overrides,
					Branch:    v.Branch,
					Owner:     v.Owner,
					Source:    SourceFile,
					Timeout:   v.Timeout,
					IdleSleep: v.IdleSleep,
					TTL:       v.TTL,
				},
			})
		}
	}
	return all
}

// Routes returns the named routes, ordered by name.
func (f *File) Routes() []api.NamedRoute {
	routes := make([]api.NamedRoute, 0, len(f.RoutesByName))
	for _, name := range slices.Sorted(maps.Keys(f.RoutesByName)) {
		r := f.RoutesByName[name]
		routes = append(routes, api.NamedRoute{Name: name, Parent: r.Parent, Picks: maps.Clone(r.Picks)})
	}
	return routes
}

// hostsOf returns the hosts of a service: its own, or the one made from its name.
func (f *File) hostsOf(name string) []string {
	if hosts := f.ServicesByName[name].Hosts; len(hosts) > 0 {
		return slices.Clone(hosts)
	}
	return []string{name + "." + f.Domain}
}

// absolute returns dir as seen from the folder of the file.
func (f *File) absolute(dir string) string {
	if filepath.IsAbs(dir) || f.Dir() == "" {
		return dir
	}
	return filepath.Join(f.Dir(), dir)
}

// mergeHealth puts the fallback where own is silent. The kind and path of a
// check belong together: where own has either, both are its.
func mergeHealth(own, fallback api.Health) api.Health {
	if own.Kind == "" && own.Path == "" {
		own.Kind, own.Path = fallback.Kind, fallback.Path
	}
	own.Interval = cmp.Or(own.Interval, fallback.Interval)
	own.Timeout = cmp.Or(own.Timeout, fallback.Timeout)
	own.Failures = cmp.Or(own.Failures, fallback.Failures)
	return own
}

func mergeEnv(under, over map[string]string) map[string]string {
	if len(under) == 0 {
		return maps.Clone(over)
	}
	merged := maps.Clone(under)
	maps.Copy(merged, over)
	return merged
}
