package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/go-units"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Validate checks f as a whole. The error is [*Problems], and holds everything
// that is wrong, in the order of the file.
func (f *File) Validate() error {
	c := &collector{source: f.source}
	f.check(c)
	return c.err()
}

// checker checks the values of one file.
type checker struct {
	*collector
	file *File
}

func (f *File) check(c *collector) {
	if c.source == nil {
		c.source = newSource("", "", "")
	}
	k := checker{collector: c, file: f}
	k.globals()
	k.gateway()
	k.telemetry()
	k.webhooks()
	k.forges()
	k.env(f.Defaults.Env, path{"defaults", "env"})
	k.health(f.Defaults.Health, path{"defaults", "health"})
	for _, name := range slices.Sorted(maps.Keys(f.ServicesByName)) {
		k.service(name, f.ServicesByName[name])
	}
	k.hosts()
	k.routes()
}

// value reports a problem of the value at p, key one of its key.
func (k checker) value(p path, hint, format string, args ...any) {
	k.add(k.source.value(p), hint, "%s: "+format, append([]any{clip(p.String())}, args...)...)
}

func (k checker) key(p path, hint, format string, args ...any) {
	k.add(k.source.key(p), hint, "%s: "+format, append([]any{clip(p.String())}, args...)...)
}

func (k checker) globals() {
	f := k.file
	k.name(f.Environment, k.source.value(path{"environment"}), "environment")
	if hint, message := hostProblem(f.Domain, false); message != "" {
		k.value(path{"domain"}, hint, "%s", message)
	}
	k.listeners()
	k.proxy()
	k.logs(f.Logs, path{"logs"})
	k.address(f.Server.Listen, path{"server", "listen"}, false)
	if f.Server.Address != "" {
		k.reachable(f.Server.Address, path{"server", "address"})
	}
	for i, host := range f.Server.AllowedHosts {
		bare := host
		if h, port, err := net.SplitHostPort(host); err == nil && !strings.Contains(port, "/") {
			bare = h
		}
		if _, message := hostProblem(bare, true); message != "" {
			k.value(path{"server", "allowed_hosts", strconv.Itoa(i)}, "write a host such as layover.example.com", "%s", message)
		}
	}
	for i, origin := range f.Server.AllowedOrigins {
		u, err := url.Parse(origin)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			k.value(path{"server", "allowed_origins", strconv.Itoa(i)}, "write scheme and host such as https://tools.example.com", "%q is not an origin", clip(origin))
		}
	}
	k.store()
	k.environmentECS()
	if !isToken(f.BaggageKey) {
		k.value(path{"baggage_key"}, "use letters, digits, - and _", "%q cannot be a baggage key", clip(f.BaggageKey))
	}
	if f.RouteHeader == "" {
		return
	}
	if !isToken(f.RouteHeader) {
		k.value(path{"route_header"}, "use letters, digits and -", "%q cannot be a header name", clip(f.RouteHeader))
	} else if slices.Contains(reservedHeaders(), strings.ToLower(f.RouteHeader)) {
		k.value(path{"route_header"}, "choose a header of your own such as X-Route", "the header %s has another meaning", f.RouteHeader)
	}
}

// reservedHeaders returns headers that cannot carry the route besides what they mean.
func reservedHeaders() []string {
	return []string{
		"authorization", "baggage", "connection", "content-length", "content-type", "cookie", "forwarded", "host",
		"proxy-connection", "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade",
		"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
	}
}

func (k checker) listeners() {
	proxy := k.file.Proxy
	if len(proxy.Listen) == 0 {
		k.value(path{"proxy", "listen"}, "", "the proxy needs an address to listen on")
	}
	var all []string
	for _, list := range []struct {
		key     string
		entries []string
	}{{"listen", proxy.Listen}, {"listen_tls", proxy.ListenTLS}} {
		for i, address := range list.entries {
			at := path{"proxy", list.key, strconv.Itoa(i)}
			k.address(address, at, true)
			if !strings.HasSuffix(address, ":0") {
				if slices.Contains(all, address) {
					k.value(at, "keep one of the two", "%q is there twice", address)
				}
				if address == k.file.Server.Listen {
					k.value(at, "give one of them another port", "the server listens on %q too", address)
				}
			}
			all = append(all, address)
		}
	}
	if proxy.Address != "" {
		k.reachable(proxy.Address, path{"proxy", "address"})
	}
	for i, address := range proxy.TrustedListen {
		if !slices.Contains(all, address) {
			k.value(path{"proxy", "trusted_listen", strconv.Itoa(i)}, didYouMean(address, all), "%q is not an entry of proxy.listen or proxy.listen_tls", clip(address))
		}
	}
	switch {
	case len(proxy.ListenTLS) > 0 && len(proxy.TLS) == 0:
		k.value(path{"proxy", "listen_tls"}, "add tls: with cert_file and key_file", "there is no certificate to listen with")
	case len(proxy.TLS) > 0 && len(proxy.ListenTLS) == 0:
		k.key(path{"proxy", "tls"}, "add listen_tls: with an address such as :8443", "nothing listens with these certificates")
	}
	k.networks(proxy.TrustForwarded, "trust_forwarded", forwardedHint)
	k.networks(proxy.ProxyProtocolFrom, "proxy_protocol_from", "name the networks of the load balancers, such as 10.0.0.0/8")
}

const forwardedHint = "name the networks of the proxies in front, such as 10.0.0.0/8; 0.0.0.0/0 and ::/0 are everybody"

// networks checks a list of networks of the proxy.
func (k checker) networks(entries []string, key, hint string) {
	for i, entry := range entries {
		if _, ok := parseNetwork(entry); !ok {
			k.value(path{"proxy", key, strconv.Itoa(i)}, hint, "%q is not a network", clip(entry))
		}
	}
}

// reachable checks a host:port to connect to.
func (k checker) reachable(address string, p path) {
	const hint = "write host:port such as 10.0.0.7:8080"
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		k.value(p, hint, "%q is not an address to connect to", clip(address))
		return
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		k.value(p, hint, "%q is an address to listen on, and cannot be connected to", clip(address))
	} else if _, message := hostProblem(host, false); ip == nil && message != "" {
		k.value(p, hint, "%s", message)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		k.value(p, "a port is a number from 1 to 65535", "%q is not a port", clip(port))
	}
}

// address checks a host:port to listen on.
func (k checker) address(address string, p path, docker bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		k.value(p, "write host:port such as 127.0.0.1:8080", "%q is not an address", clip(address))
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		k.value(p, "a port is a number from 1 to 65535, or 0 for any free one", "%q is not a port", clip(port))
	}
	if host == "" || net.ParseIP(host) != nil {
		return
	}
	if host == dockerHost && !docker {
		k.value(p, "", "only the proxy can listen on docker")
		return
	}
	if _, message := hostProblem(host, false); message != "" {
		k.value(p, "", "%s", message)
	}
}

func (k checker) name(name string, at position, what string) {
	if err := route.CheckName(what, name); err != nil {
		hint := ""
		if suggestion := route.NameOf(name); name != "" && suggestion != name {
			hint = fmt.Sprintf("write %q", suggestion)
		}
		k.add(at, hint, "%v", err)
	}
}

func (k checker) service(name string, s Service) {
	p := path{"services", name}
	k.name(name, k.source.key(p), "service")
	if s.Default != "" {
		k.name(s.Default, k.source.value(p.with("default")), "version")
	}
	k.health(s.Health, p.with("health"))
	k.env(s.Env, p.with("env"))
	k.run(s.Run, p.with("run"))
	k.hook(s.Setup, s.Run, p.with("setup"))
	k.hook(s.Teardown, s.Run, p.with("teardown"))
	if s.Replicas > 1 && s.Run.Adopted() {
		k.key(p.with("replicas"), "leave it out: who runs it says how many addresses it has", "somebody else runs the service")
	}
	own := false
	for _, version := range slices.Sorted(maps.Keys(s.Versions)) {
		v := s.Versions[version]
		at := p.with("versions", version)
		k.name(version, k.source.key(at), "version")
		k.version(s, v, at)
		own = own || overriddenRuntime(v.Overrides) != ""
	}
	if s.Run.Runtime() == "" && !own {
		if _, given := k.source.values[p.with("run").id()]; given {
			k.key(p.with("run"), "", "names no runtime: process, docker, ecs or external")
			return
		}
		k.key(p, "add run: with process, docker, ecs or external, or a version with image, command or url", "there is nothing to run")
	}
}

func (k checker) run(r api.Run, p path) {
	set := 0
	for _, given := range []struct {
		name string
		set  bool
	}{{"process", r.Process != nil}, {"docker", r.Docker != nil}, {"ecs", r.ECS != nil}, {"external", r.External != nil}} {
		if !given.set {
			continue
		}
		if set++; set > 1 {
			k.key(p.with(given.name), "keep one of process, docker, ecs and external", "a service runs in one way")
		}
	}
	if r.Process != nil {
		k.command(r.Process.Command, p.with("process", "command"))
		k.placeholders(r.Process.Dir, p.with("process", "dir"))
	}
	if d := r.Docker; d != nil {
		p := p.with("docker")
		k.image(d.Image, p.with("image"))
		if d.Command != nil {
			k.command(d.Command, p.with("command"))
		}
		k.memory(d.Memory, p.with("memory"))
	}
	if r.ECS != nil {
		k.ecs(*r.ECS, p.with("ecs"))
	}
	if r.External != nil {
		k.url(r.External.URL, p.with("external", "url"))
	}
}

func (k checker) version(s Service, v Version, p path) {
	set := ""
	for _, given := range []struct {
		name string
		set  bool
	}{{"image", v.Image != ""}, {"command", v.Command != nil}, {"url", v.URL != ""}, {"adopt", v.Adopt}} {
		switch {
		case !given.set:
		case set != "":
			k.key(p.with(given.name), "keep one of the two", "%s is set already, and a version runs in one way", set)
		default:
			set = given.name
		}
	}
	runtime := overriddenRuntime(v.Overrides)
	if runtime == "" || v.Image != "" && s.Run.ECS != nil {
		runtime = s.Run.Runtime()
	}
	if v.Adopt && (s.Run.ECS == nil || s.Run.ECS.Service == "") {
		k.key(p.with("adopt"), "set run.ecs.service of the service", "there is no ECS service to adopt")
	}
	if runtime == "" && s.anyRuntime() {
		k.key(p, "add image, command or url, or a run block to the service", "there is nothing to run: neither this version nor the service says what")
	}
	k.command(v.Command, p.with("command"))
	k.image(v.Image, p.with("image"))
	k.url(v.URL, p.with("url"))
	k.env(v.Env, p.with("env"))
	k.placeholders(v.Dir, p.with("dir"))
	if v.Dir != "" && runtime != api.RuntimeProcess && runtime != "" {
		k.key(p.with("dir"), "", "a folder is for commands, this version runs with %s", runtime)
	}
	k.versionHooks(s, v, p)
	k.replicas(s, v, runtime, p)
	if v.Port != 0 && runtime == api.RuntimeExternal {
		k.key(p.with("port"), "put the port into the url", "this version is an address that somebody else runs")
	}
}

// replicas looks for a number of instances that the version cannot have.
func (k checker) replicas(s Service, v Version, runtime string, p path) {
	n := cmp.Or(v.Replicas, s.Replicas)
	switch {
	case v.Replicas > 1 && (runtime == api.RuntimeExternal || v.Adopt):
		k.key(p.with("replicas"), "leave it out: who runs it says how many addresses it has", "somebody else runs this version")
	case n > 1 && v.Port != 0 && runtime == api.RuntimeProcess:
		k.key(p.with("port"), "leave it out: each instance gets a free one in PORT; or set replicas: 1", "%d instances cannot all listen on one port of this machine", n)
	}
}

// anyRuntime says whether the service or one of its versions says what to run.
func (s Service) anyRuntime() bool {
	if s.Run.Runtime() != "" {
		return true
	}
	for _, v := range s.Versions {
		if overriddenRuntime(v.Overrides) != "" {
			return true
		}
	}
	return false
}

// overriddenRuntime returns the runtime that overrides select, "" where the
// template's stays.
func overriddenRuntime(o api.Overrides) string {
	switch {
	case o.Image != "":
		return api.RuntimeDocker
	case o.Command != nil:
		return api.RuntimeProcess
	case o.URL != "":
		return api.RuntimeExternal
	}
	return ""
}

func (k checker) command(command []string, p path) {
	if command == nil {
		return
	}
	if len(command) == 0 || command[0] == "" {
		k.value(p, "write the program and its arguments", "the command is empty")
	}
	for i, word := range command {
		k.placeholders(word, p.with(strconv.Itoa(i)))
	}
}

func (k checker) image(image string, p path) {
	if image == "" || k.placeholders(image, p) {
		return
	}
	values := map[string]string{}
	for _, word := range api.Placeholders() {
		values[word] = "0"
	}
	if _, err := reference.ParseNormalizedNamed(api.FillPlaceholders(image, values)); err != nil {
		k.value(p, "write it like registry.example.com/cart:1.2", "%q is not an image reference: %v", clip(image), err)
	}
}

// minMemory is the least that Docker Engine accepts.
const minMemory = 6 << 20

func (k checker) memory(memory string, p path) {
	if memory == "" {
		return
	}
	n, err := units.RAMInBytes(memory)
	switch {
	case err != nil:
		k.value(p, "write it like 256m or 1g", "%q is not an amount of memory", clip(memory))
	case n < minMemory:
		k.value(p, "write it with a unit, like 256m or 1g", "%q is less than the 6m that Docker needs", clip(memory))
	}
}

// minLogs is the least that is kept of a log, and maxLogs the most.
const (
	minLogs = 64 << 10
	maxLogs = 1 << 40
)

func (k checker) logs(l Logs, p path) {
	for name, size := range map[string]string{"running": l.Running, "ended": l.Ended} {
		if n, err := units.RAMInBytes(size); size != "" && (err != nil || n < minLogs || n > maxLogs) {
			k.value(p.with(name), "write it like 30m or 1g, at least 64k", "%q is not an amount of log", clip(size))
		}
	}
}

// RunningBytes is Running in bytes; settings that were checked always have it.
func (l Logs) RunningBytes() int64 { return logBytes(l.Running) }

// EndedBytes is Ended in bytes; settings that were checked always have it.
func (l Logs) EndedBytes() int64 { return logBytes(l.Ended) }

func logBytes(size string) int64 {
	n, err := units.RAMInBytes(size)
	if err != nil {
		return 30 << 20
	}
	return n
}

func (k checker) url(address string, p path) {
	if address == "" {
		return
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		k.value(p, "write it like http://cart.internal:8080", "%q is not an http or https URL", clip(address))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		k.value(p, "keep scheme, host and port: "+u.Scheme+"://"+u.Host, "%q has more than an address", clip(address))
	case u.Port() != "":
		if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
			k.value(p, "a port is a number from 1 to 65535", "%q is not a port", u.Port())
		}
	}
}

func (k checker) health(h api.Health, p path) {
	switch {
	case h.Path != "" && !strings.HasPrefix(h.Path, "/"):
		k.value(p.with("path"), "write a path such as /healthz", "%q does not start with /", clip(h.Path))
	case h.Path != "" && strings.ContainsFunc(h.Path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }):
		k.value(p.with("path"), "write a path such as /healthz", "%q cannot be a path", clip(h.Path))
	case h.Kind == api.HealthHTTP && h.Path == "":
		k.value(p, "add a path such as /healthz", "a health check with http needs a path")
	case h.Path != "" && h.Kind != "" && h.Kind != api.HealthHTTP:
		k.value(p.with("path"), "leave the path or the kind out", "a health check with %s has no path", h.Kind)
	}
}

func (k checker) env(env map[string]string, p path) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		k.variable(name, env[name], p)
		k.placeholders(env[name], p.with(name))
	}
}

func (k checker) variable(name, value string, p path) {
	if !api.IsVariable(name) {
		k.key(p.with(name), "use letters, digits and _", "%q cannot be the name of an environment variable", clip(name))
	}
	if strings.ContainsRune(value, 0) {
		k.value(p.with(name), "", "the value holds a NUL character")
	}
}

// placeholders reports the unknown placeholders of s, and says whether there are any.
func (k checker) placeholders(s string, p path) bool {
	unknown := api.UnknownPlaceholders(s)
	for _, word := range unknown {
		hint := didYouMean(word, api.Placeholders())
		k.value(p, hint, "unknown placeholder {%s}", clip(word))
	}
	return len(unknown) > 0
}

// hosts checks the form of each host, and that no two services share one.
func (k checker) hosts() {
	type owner struct{ service, line string }
	owners := map[string]owner{}
	for _, name := range slices.Sorted(maps.Keys(k.file.ServicesByName)) {
		p := path{"services", name, "hosts"}
		for i, host := range k.file.hostsOf(name) {
			at, report := p.with(strconv.Itoa(i)), k.value
			if len(k.file.ServicesByName[name].Hosts) == 0 {
				at, report = path{"services", name}, k.key // its host is made from its name
			} else if hint, message := hostProblem(host, true); message != "" {
				k.value(at, hint, "%s", message)
				continue
			}
			first, taken := owners[host]
			switch {
			case taken && first.service == name:
				report(at, "keep one of the two", "%q is there twice", host)
			case taken:
				report(at, "give each service hosts of its own", "%q is also a host of service %s%s", host, first.service, first.line)
			default:
				line := ""
				if n := k.source.key(at).line; n > 0 {
					line = " (line " + strconv.Itoa(n) + ")"
				}
				owners[host] = owner{service: name, line: line}
			}
		}
	}
}

func (k checker) routes() {
	services := slices.Collect(maps.Keys(k.file.ServicesByName))
	names := slices.Collect(maps.Keys(k.file.RoutesByName))
	for _, name := range slices.Sorted(maps.Keys(k.file.RoutesByName)) {
		r := k.file.RoutesByName[name]
		p := path{"routes", name}
		k.name(name, k.source.key(p), "route")
		if _, ok := k.file.RoutesByName[r.Parent]; r.Parent != "" && !ok {
			k.value(p.with("parent"), didYouMean(r.Parent, slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == name })), "there is no route %q", clip(r.Parent))
		} else if k.circular(name) {
			k.value(p.with("parent"), "leave one of the parents out", "the route is its own ancestor")
		}
		if len(r.Picks) == 0 && r.Parent == "" {
			k.key(p, "add picks, service: version", "the route picks nothing")
		}
		for _, service := range slices.Sorted(maps.Keys(r.Picks)) {
			at := p.with("picks", service)
			if _, ok := k.file.ServicesByName[service]; !ok {
				k.key(at, didYouMean(service, services), "there is no service %q", clip(service))
			}
			if r.Picks[service] != "" {
				k.name(r.Picks[service], k.source.value(at), "version")
			}
		}
	}
}

// circular says whether following the parents of a route leads back to it.
func (k checker) circular(name string) bool {
	seen := map[string]bool{}
	for at := k.file.RoutesByName[name].Parent; at != "" && !seen[at]; at = k.file.RoutesByName[at].Parent {
		if at == name {
			return true
		}
		seen[at] = true
	}
	return false
}
