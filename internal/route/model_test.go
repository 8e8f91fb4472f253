package route_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layover-dev/layover/internal/route"
)

// verdict is a decision as plain data, to compare.
type verdict struct {
	Outcome, Service, Version, HostBy, By, Route, Match, Fallback string
	Strict                                                        bool
}

func verdictOf(d route.Decision) verdict {
	v := verdict{
		Outcome: d.Outcome.String(), HostBy: d.HostBy.String(), By: d.By.String(), Route: d.Route,
		Match: d.Match.String(), Fallback: d.Fallback.String(), Strict: d.Strict,
	}
	if d.Service != nil {
		v.Service = d.Service.Name
	}
	if d.Version != nil {
		v.Version = d.Version.Name
	}
	return v
}

// model decides by rules R1 to R5 as they are written, from the Spec, with no
// thought for speed. It shares nothing with the package but PreviewLabel.
type model struct {
	spec route.Spec
}

func (m model) resolve(r *route.Request) verdict {
	v := verdict{Outcome: "found", HostBy: "none", By: "default", Match: "none"}
	host, ok := m.host(r.Host)
	if !ok {
		v.Outcome = "unknown-host"
		return v
	}
	s, by, label, room := m.service(host)
	if s == nil {
		v.Outcome = "unknown-host"
		return v
	}
	v.Service, v.HostBy = s.Name, by
	v.By, v.Route = m.route(r)
	if by == "preview" {
		v.By, v.Route = "preview", m.unlabel(label, room, r.Host)
	}
	value := m.decode(v.Route)
	value, v.Strict = strings.CutSuffix(value, "!")
	if v.By == "default" {
		v.Version = m.defaultVersion(s)
	} else {
		m.version(&v, s, strings.Split(value, "~"))
	}
	if v.Outcome == "found" && v.Version == "" {
		v.Outcome = "no-version"
	}
	return v
}

var (
	authorityForm = regexp.MustCompile(`^([A-Za-z0-9._-]+?)\.?(:[0-9]*)?$`)
	memberForm    = regexp.MustCompile("^[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*((?:[!#$&-+\\--:<-\\[\\]-~]|%[0-9A-Fa-f]{2})*)[ \t]*$")
	propertyForm  = regexp.MustCompile("^[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(=[ \t]*([!#$&-+\\--:<-\\[\\]-~]|%[0-9A-Fa-f]{2})*[ \t]*)?)?$")
	escapeForm    = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

func (m model) host(authority string) (string, bool) {
	parts := authorityForm.FindStringSubmatch(authority)
	if parts == nil || len(parts[1]) > 253 {
		return "", false
	}
	return strings.ToLower(parts[1]), true
}

// service is R1.
func (m model) service(host string) (s *route.Service, by, label string, room int) {
	for i := range m.spec.Services {
		if s := &m.spec.Services[i]; slices.Contains(m.hosts(s), host) {
			return s, "exact", "", 0
		}
	}
	best := ""
	for i := range m.spec.Services {
		for _, one := range m.hosts(&m.spec.Services[i]) {
			if suffix, ok := strings.CutPrefix(one, "*"); ok && strings.HasSuffix(host, suffix) && len(host) > len(suffix) && len(suffix) > len(best) {
				best, s = suffix, &m.spec.Services[i]
			}
		}
	}
	if s != nil {
		return s, "suffix", "", 0
	}
	first, rest, ok := strings.Cut(host, ".")
	if !ok || first == "" {
		return nil, "", "", 0
	}
	for i := range m.spec.Services {
		s := &m.spec.Services[i]
		tail := route.PreviewLabel(s.Name, 32)
		label, ok := strings.CutSuffix(first, "--"+tail)
		if ok && label != "" && !strings.Contains(label, "--") && rest == m.domain() {
			return s, "preview", label, 63 - 2 - len(tail)
		}
		if !strings.Contains(first, "--") && slices.Contains(m.hosts(s), rest) {
			return s, "preview", first, 63
		}
	}
	return nil, "", "", 0
}

func (m model) domain() string {
	if m.spec.Domain == "" {
		return "localhost"
	}
	return m.spec.Domain
}

func (m model) hosts(s *route.Service) []string {
	if len(s.Hosts) == 0 {
		return []string{s.Name + "." + m.domain()}
	}
	return s.Hosts
}

// route is R2.2 to R2.4.
func (m model) route(r *route.Request) (by, value string) {
	if value := m.baggage(r.Baggage); value != "" {
		return "baggage", value
	}
	for _, line := range r.Header {
		if line = strings.Trim(line, " \t"); line != "" && m.spec.RouteHeader != "" {
			return "header", line
		}
	}
	for pair := range strings.SplitSeq(strings.Join(r.Cookie, ";"), ";") {
		if value, ok := strings.CutPrefix(strings.Trim(pair, " \t"), "layover_route="); ok {
			if len(value) > 1 && strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) {
				value = value[1 : len(value)-1]
			}
			if value != "" {
				return "cookie", value
			}
			break
		}
	}
	return "default", ""
}

// baggage is R3.
func (m model) baggage(lines []string) (value string) {
	end := 0
	for text := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		end += len(text)
		if end > 8192 {
			break
		}
		end++
		pair, properties, _ := strings.Cut(text, ";")
		parts := memberForm.FindStringSubmatch(pair)
		good := parts != nil && parts[1] == "dynamic_route"
		for one := range strings.SplitSeq(properties, ";") {
			good = good && propertyForm.MatchString(one)
		}
		if good {
			value = strings.TrimRight(parts[2], " \t")
		}
	}
	return value
}

func (m model) decode(value string) string {
	return escapeForm.ReplaceAllStringFunc(value, func(escape string) string {
		high, low := strings.Index("0123456789abcdef", strings.ToLower(escape[1:2])), strings.Index("0123456789abcdef", strings.ToLower(escape[2:]))
		return string([]byte{byte(high*16 + low)})
	})
}

// unlabel is R2.1: the name that a preview label stands for.
func (m model) unlabel(label string, room int, authority string) string {
	names := m.names()
	if slices.Contains(names, label) {
		return label
	}
	for _, name := range names {
		if route.PreviewLabel(name, room) == label {
			return name
		}
	}
	return authority[:len(label)]
}

// version is R4 and R5.
func (m model) version(v *verdict, s *route.Service, selectors []string) {
	anyKnown, allKnown := false, true
	want, match := "", "none"
	for _, selector := range selectors {
		known := slices.Contains(m.names(), selector)
		if service, version, scoped := strings.Cut(selector, "@"); scoped {
			other := m.find(service)
			known = other != nil && m.has(other, version)
		}
		anyKnown, allKnown = anyKnown || known, allKnown && known
	}
	for _, selector := range slices.Backward(selectors) {
		if pick := m.pick(selector, s.Name, 0); pick != "" {
			want, match = pick, "named"
		} else if m.has(s, selector) {
			want, match = selector, "name"
		}
	}
	for _, selector := range slices.Backward(selectors) {
		if version, ok := strings.CutPrefix(selector, s.Name+"@"); ok {
			want, match = version, "scoped"
		}
	}
	exists := m.has(s, want)
	switch {
	case v.Strict && (!allKnown || match != "none" && !exists):
		v.Outcome = "unknown-route"
	case match != "none" && exists:
		v.Version, v.Match = want, match
	case match == "none" && anyKnown:
		v.Version, v.Fallback = m.defaultVersion(s), "default"
	default:
		v.Version, v.Fallback = m.defaultVersion(s), "unknown"
	}
}

func (m model) names() (names []string) {
	for _, r := range m.spec.Routes {
		names = append(names, r.Name)
	}
	for _, s := range m.spec.Services {
		for _, v := range s.Versions {
			names = append(names, v.Name)
		}
	}
	return names
}

func (m model) find(service string) *route.Service {
	for i := range m.spec.Services {
		if m.spec.Services[i].Name == service {
			return &m.spec.Services[i]
		}
	}
	return nil
}

func (m model) has(s *route.Service, version string) bool {
	return slices.ContainsFunc(s.Versions, func(v route.Version) bool { return v.Name == version })
}

func (m model) pick(name, service string, depth int) string {
	for _, r := range m.spec.Routes {
		if r.Name == name {
			if version, ok := r.Picks[service]; ok {
				return version
			}
			return m.pick(r.Parent, service, depth+1)
		}
	}
	return ""
}

func (m model) defaultVersion(s *route.Service) string {
	name := s.Default
	if name == "" {
		name = "main"
	}
	if m.has(s, name) {
		return name
	}
	return ""
}

var (
	someServices = []string{"cart", "pricing", "a.b", "in_ventory", "a-service-with-a-very-long-name-that-is-cut-in-labels"}
	someVersions = []string{"main", "feature-1", "pr-88", "1.2.3", "a_b", "team-a", "feature-with-a-long-name-that-no-preview-label-can-hold-whole"}
	someRoutes   = []string{"team-a", "base", "r.1", "feature-1"}
	someHosts    = []string{"cart.test", "shop.test", "*.cart.test", "*.test", "*.x.cart.test", "localhost", "127.0.0.1", "a-b.localhost"}
	someDomains  = []string{"", "localhost", "shop.test"}
)

func drawSpec(t *rapid.T) route.Spec {
	spec := route.Spec{Epoch: "e", Revision: 7, Domain: rapid.SampledFrom(someDomains).Draw(t, "domain")}
	if rapid.Bool().Draw(t, "has route header") {
		spec.RouteHeader = "X-Route"
	}
	hosts := rapid.Permutation(someHosts).Draw(t, "hosts")
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(someServices), 1, -1, rapid.ID[string]).Draw(t, "services") {
		s := route.Service{Name: name, Default: rapid.SampledFrom([]string{"", "main", "pr-88"}).Draw(t, "default")}
		n := rapid.IntRange(0, min(2, len(hosts))).Draw(t, "number of hosts")
		s.Hosts, hosts = hosts[:n], hosts[n:]
		for _, version := range rapid.SliceOfNDistinct(rapid.SampledFrom(someVersions), 1, -1, rapid.ID[string]).Draw(t, "versions") {
			state := rapid.SampledFrom([]route.State{route.Starting, route.Asleep, route.Failed}).Draw(t, "state")
			s.Versions = append(s.Versions, route.Version{Name: version, State: state})
		}
		spec.Services = append(spec.Services, s)
	}
	for i, name := range rapid.SliceOfDistinct(rapid.SampledFrom(someRoutes), rapid.ID[string]).Draw(t, "routes") {
		r := route.NamedRoute{Name: name, Picks: make(map[string]string)}
		if i > 0 && rapid.Bool().Draw(t, "has parent") {
			r.Parent = spec.Routes[rapid.IntRange(0, i-1).Draw(t, "parent")].Name
		}
		for _, s := range spec.Services {
			if rapid.Bool().Draw(t, "picks") {
				r.Picks[s.Name] = rapid.SampledFrom(someVersions).Draw(t, "pick")
			}
		}
		spec.Routes = append(spec.Routes, r)
	}
	return spec
}

func drawValue(t *rapid.T) string {
	selector := rapid.Custom(func(t *rapid.T) string {
		name := rapid.SampledFrom(slices.Concat(someVersions, someRoutes, []string{"nope", "", "Main", strings.Repeat("x", 200)})).Draw(t, "name")
		if rapid.IntRange(0, 2).Draw(t, "scoped") == 0 {
			name = rapid.SampledFrom(slices.Concat(someServices, []string{"nope", ""})).Draw(t, "scope") + "@" + name
		}
		return name
	})
	value := strings.Join(rapid.SliceOfN(selector, 1, 4).Draw(t, "selectors"), "~")
	value += rapid.SampledFrom([]string{"", "", "!", "~", "@", "!!"}).Draw(t, "end")
	if rapid.Bool().Draw(t, "encoded") {
		value = strings.NewReplacer("@", "%40", "~", "%7e", "!", "%21", "a", "%61", "-", "%2D").Replace(value)
	}
	return value + rapid.SampledFrom([]string{"", "", "", "%", "%2"}).Draw(t, "broken")
}

func drawHost(t *rapid.T, spec route.Spec) string {
	m := model{spec}
	host := rapid.SampledFrom([]string{"nope.test", "x.cart.test", "y.x.cart.test", "", ".", "--cart.localhost", ".cart.localhost", "[::1]:80", "a b", "u@cart.test"}).Draw(t, "odd host")
	if n := len(spec.Services); n > 0 && rapid.IntRange(0, 9).Draw(t, "kind of host") > 0 {
		s := spec.Services[rapid.IntRange(0, n-1).Draw(t, "service")]
		if hosts := m.hosts(&s); rapid.Bool().Draw(t, "own host") {
			host = strings.Replace(rapid.SampledFrom(hosts).Draw(t, "host"), "*", "sub", 1)
		}
		tail := route.PreviewLabel(s.Name, 32)
		name := rapid.SampledFrom(slices.Concat(someVersions, someRoutes, []string{"nope", "a--b"})).Draw(t, "previewed")
		switch rapid.IntRange(0, 3).Draw(t, "preview") {
		case 0:
			host = route.PreviewLabel(name, 61-len(tail)) + "--" + tail + "." + m.domain()
		case 1:
			host = route.PreviewLabel(name, 63) + "." + host
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "upper case") == 0 {
		host = strings.ToUpper(host)
	}
	return host + rapid.SampledFrom([]string{"", "", "", ".", ":8080", ".:80", ":", ":x", ".."}).Draw(t, "tail")
}

func drawRequest(t *rapid.T, spec route.Spec) *route.Request {
	r := &route.Request{Host: drawHost(t, spec)}
	member := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 2).Draw(t, "other member") == 0 {
			return rapid.SampledFrom([]string{"a=b", " ", "bad", "é=1", "Dynamic_Route=pr-88", "k=" + strings.Repeat("v", 8150)}).Draw(t, "member")
		}
		space := rapid.SampledFrom([]string{"", "", " ", "\t "}).Draw(t, "space")
		end := rapid.SampledFrom([]string{"", "", ";p=1", "; p ;q = %41", ";", ";=", ";a b", " x"}).Draw(t, "properties")
		return space + "dynamic_route" + space + "=" + space + drawValue(t) + space + end
	})
	for range rapid.IntRange(0, 2).Draw(t, "baggage lines") {
		r.Baggage = append(r.Baggage, strings.Join(rapid.SliceOfN(member, 0, 3).Draw(t, "members"), ","))
	}
	if rapid.Bool().Draw(t, "header") {
		r.Header = append(r.Header, rapid.SampledFrom([]string{"", " "}).Draw(t, "blank"), " "+drawValue(t))
	}
	if rapid.Bool().Draw(t, "cookie") {
		quote := rapid.SampledFrom([]string{"", `"`}).Draw(t, "quote")
		r.Cookie = append(r.Cookie, "a=b; xlayover_route=no", "layover_route="+quote+drawValue(t)+quote+"; layover_route=second")
	}
	return r
}

func TestResolve_AgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		table, err := route.Compile(spec)
		if err != nil {
			t.Skip("the services drawn have a host in common")
		}
		for range 50 {
			r := drawRequest(t, spec)
			d := table.Resolve(r)
			require.Equal(t, model{spec}.resolve(r), verdictOf(d), "%+v", r)

			e := table.Explain(r)
			require.Equal(t, verdictOf(d), explained(e))
			require.NotEmpty(t, e.Steps)
			require.Equal(t, "R1", e.Steps[0].Rule)
			for _, step := range e.Steps {
				require.Regexp(t, `^[A-Z].*[.?]$`, step.Text)
				require.NotContains(t, step.Text, "%!", "a format does not fit its arguments")
			}
		}
	})
}

func explained(e route.Explanation) verdict {
	v := verdict{
		Outcome: e.Outcome, Service: e.Service, Version: e.Version, HostBy: e.HostBy, By: e.By,
		Route: e.Route, Match: e.Match, Fallback: e.Fallback, Strict: e.Strict,
	}
	if v.Match == "" {
		v.Match = "none"
	}
	return v
}
