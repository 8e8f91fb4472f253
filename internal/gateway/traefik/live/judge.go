package live

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/gateway/traefik"
)

// Given is what Layover gives to Traefik.
type Given struct {
	Environment string
	Config      *traefik.Config
	Age         time.Duration // for how long it has been the newest
}

// Report is what one Traefik makes of it.
type Report struct {
	URL       string   `json:"url"`
	Version   string   `json:"version"`
	Providers []string `json:"providers"` // that it has Layover's routers from
	Routers   int      `json:"routers"`   // of the newest configuration, that it has as they are given
	Missing   int      `json:"missing"`   // of the newest configuration, that it has not, or otherwise
	Leftover  int      `json:"leftover"`  // of an older configuration
	Newest    bool     `json:"newest"`    // it has the newest configuration, and no other
	Notes     []string `json:"notes"`     // what is worth knowing, and may be as it is meant
	Problems  []string `json:"problems"`  // what has to be put right, and how
}

const (
	// patience is how long Traefik may take to have a configuration: two of its polls, and the time to take it up.
	patience = 15 * time.Second
	// named is how many of many things a sentence names.
	named = 3
	// foreignNamed is how many routers of others are told one by one.
	foreignNamed = 10
)

// Check asks a Traefik, and compares what it says with what it is given. That it cannot be asked is a problem as well.
func (c *Client) Check(ctx context.Context, g Given) Report {
	s, err := c.State(ctx, traefik.Prefix(g.Environment))
	r := Report{Providers: []string{}, Notes: []string{}}
	if err != nil {
		r.Problems = []string{err.Error()}
	} else {
		r = Judge(s, g)
	}
	r.URL = c.URL()
	return r
}

// Judge compares what a Traefik says with what it is given.
func Judge(s *State, g Given) Report {
	j := judge{state: s, given: g, report: Report{Version: s.Version, Providers: []string{}, Notes: []string{}, Problems: []string{}}}
	if !j.version() {
		return j.report
	}
	j.sort()
	if len(j.own) == 0 {
		j.nothing()
		return j.report
	}
	j.providers()
	j.compare()
	j.entryPoints()
	j.statuses()
	j.services()
	j.priorities()
	return j.report
}

type judge struct {
	state   *State
	given   Given
	report  Report
	own     []ownRouter
	foreign []Router
	told    map[string]bool // errors of routers that another sentence tells of
}

// ownRouter is a router of this environment at Traefik.
type ownRouter struct {
	Router
	name string // that it was given
}

func (j *judge) problem(format string, args ...any) {
	j.report.Problems = append(j.report.Problems, fmt.Sprintf(format, args...))
}

func (j *judge) note(format string, args ...any) {
	j.report.Notes = append(j.report.Notes, fmt.Sprintf(format, args...))
}

// version says whether the rules are in the language of this Traefik. A build of somebody's own has no number.
func (j *judge) version() bool {
	major, _, numbered := strings.Cut(strings.TrimPrefix(j.state.Version, "v"), ".")
	if numbered && len(major) == 1 && major < "3" {
		j.problem("Traefik is version %s, which does not know the rules that Layover writes (HeaderRegexp): take version 3", j.state.Version)
		return false
	}
	return true
}

// sort tells the routers of this environment from those of others. Traefik's own stand above all that anybody
// may write, and are left out.
func (j *judge) sort() {
	prefix := traefik.Prefix(j.given.Environment)
	for _, r := range j.state.Routers {
		if r.Priority == 0 {
			r.Priority = len(r.Rule)
		}
		name, _, _ := strings.Cut(r.Name, "@")
		if len(r.EntryPoints) == 1 && !strings.HasPrefix(name, prefix) {
			// Of a router for several entry points that have settings of their own, Traefik makes one for each.
			name = strings.TrimPrefix(name, r.EntryPoints[0]+"-")
		}
		switch {
		case strings.HasPrefix(name, prefix):
			j.own = append(j.own, ownRouter{r, name})
		case r.Provider != "internal":
			j.foreign = append(j.foreign, r)
		}
	}
}

// nothing says why Traefik has no router of Layover.
func (j *judge) nothing() {
	if len(j.given.Config.HTTP.Routers) == 0 {
		j.report.Newest = true
		j.note("Layover has no service yet, and so no router for Traefik")
		return
	}
	j.report.Missing = len(j.given.Config.HTTP.Routers)
	reads := func(provider string) bool {
		return slices.ContainsFunc(j.state.Providers, func(p string) bool { return strings.EqualFold(p, provider) })
	}
	if !reads("http") && !reads("redis") {
		j.problem("Traefik has neither its HTTP nor its Redis provider (it has: %s), and so none of Layover's %d routers: start it with --providers.http.endpoint=http://<server>:7070/gateway/traefik",
			cmp.Or(strings.Join(j.state.Providers, ", "), "none"), j.report.Missing)
		return
	}
	j.problem("Traefik has none of Layover's %d routers, although it has the provider for them: see its log for why it cannot read them, whether it can connect to the server or Redis, whether server.allowed_hosts has the name that it uses, and whether the environment is %q",
		j.report.Missing, j.given.Environment)
}

func (j *judge) providers() {
	for _, r := range j.own {
		if !slices.Contains(j.report.Providers, r.Provider) {
			j.report.Providers = append(j.report.Providers, r.Provider)
		}
	}
	slices.Sort(j.report.Providers)
	if len(j.report.Providers) > 1 {
		j.problem("Traefik has Layover's routers from several providers (%s), and one may be older than the other: take all but one out of Traefik's static configuration",
			strings.Join(j.report.Providers, ", "))
	}
}

// compare says whether Traefik has the newest configuration.
func (j *judge) compare() {
	given, servers := j.given.Config.HTTP, j.serversByService()
	same, other := map[string]bool{}, map[string]bool{}
	for _, r := range j.own {
		want := given.Routers[r.name]
		if want == nil {
			other[r.name] = true
			continue
		}
		service, _, _ := strings.Cut(r.Service, "@")
		is := r.Rule == want.Rule && service == want.Service && r.Priority == want.Priority && (want.TLS == nil || r.TLS != nil) &&
			slices.Equal(servers[service+"@"+r.Provider], traefikServers(given.Services[want.Service]))
		same[r.name] = is && (same[r.name] || !has(same, r.name)) // of one that is there several times, each
	}
	var missing []string
	for name := range given.Routers {
		if !same[name] {
			missing = append(missing, name)
		} else {
			j.report.Routers++
		}
	}
	j.report.Missing, j.report.Leftover = len(missing), len(other)
	j.report.Newest = len(missing)+len(other) == 0
	if j.report.Newest {
		return
	}
	var differs []string
	if len(missing) > 0 {
		differs = append(differs, fmt.Sprintf("it lacks the newest of %s", some(missing)))
	}
	if len(other) > 0 {
		differs = append(differs, fmt.Sprintf("it still has %s", some(slices.Collect(maps.Keys(other)))))
	}
	text := "Traefik has an older configuration than Layover's, which has been the newest for " + rounded(j.given.Age) + ": " + strings.Join(differs, ", and ")
	if j.given.Age < patience {
		j.note("%s; it takes up a change within its poll interval: ask again then", text)
		return
	}
	j.problem("%s; see Traefik's log for why it does not read or take up the newest, and whether --providers.http.pollInterval is longer than that", text)
}

func has(m map[string]bool, key string) bool {
	_, ok := m[key]
	return ok
}

func (j *judge) serversByService() map[string][]string {
	out := map[string][]string{}
	for _, s := range j.state.Services {
		if s.LoadBalancer == nil {
			continue
		}
		urls := []string{}
		for _, server := range s.LoadBalancer.Servers {
			urls = append(urls, server.URL)
		}
		slices.Sort(urls)
		out[s.Name] = urls
	}
	return out
}

func traefikServers(s *traefik.Service) []string {
	urls := []string{}
	for _, server := range s.LoadBalancer.Servers {
		urls = append(urls, server.URL)
	}
	slices.Sort(urls)
	return urls
}

// entryPoints says which ones Layover's routers name and Traefik has not.
func (j *judge) entryPoints() {
	j.told = map[string]bool{"no valid entryPoint for this router": true}
	lacking := map[string][]string{}
	for _, r := range j.own {
		for _, name := range r.EntryPoints {
			if !slices.Contains(j.state.EntryPoints, name) {
				lacking[name] = append(lacking[name], r.name)
				j.told[fmt.Sprintf("entryPoint %q doesn't exist", name)] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(lacking)) {
		j.problem("there is no entry point %q at Traefik, which has %s, so that nothing comes to %s there: set gateway.traefik.entry_points, or add it to Traefik's static configuration",
			name, strings.Join(j.state.EntryPoints, ", "), some(lacking[name]))
	}
	if len(lacking) == 0 {
		delete(j.told, "no valid entryPoint for this router")
	}
}

// statuses says to which routers and services Traefik objects, and what it says of them.
func (j *judge) statuses() {
	objections := map[string][]string{}
	for _, r := range j.own {
		if r.Status == statusEnabled || r.Status == "" {
			continue
		}
		for _, said := range orStatus(r.Errors, r.Status) {
			if !j.told[said] {
				said = strings.ReplaceAll(said, r.Rule, "…") // each has another
				objections[said] = append(objections[said], r.name)
			}
		}
	}
	for _, said := range slices.Sorted(maps.Keys(objections)) {
		todo := "see Traefik's log, and whether its version and static configuration allow it"
		if strings.Contains(said, "unsupported function") {
			todo = "it reads rules as version 2 did: take core.defaultRuleSyntax out of its static configuration"
		}
		j.problem("Traefik does not use %s as given: %q; %s", some(objections[said]), clip(said), todo)
	}
}

func orStatus(errs []string, status string) []string {
	if len(errs) == 0 {
		return []string{"its status is " + status}
	}
	return errs
}

// services says of which ones Traefik thinks that they do not answer.
func (j *judge) services() {
	prefix := traefik.Prefix(j.given.Environment)
	for _, s := range j.state.Services {
		name, _, _ := strings.Cut(s.Name, "@")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if s.Status != statusEnabled && s.Status != "" {
			j.problem("Traefik does not use the service %s as given: %q; see Traefik's log", name, clip(strings.Join(orStatus(s.Errors, s.Status), "; ")))
		}
		for _, server := range slices.Sorted(maps.Keys(s.ServerStatus)) {
			if status := s.ServerStatus[server]; !strings.EqualFold(status, "UP") {
				j.problem("to Traefik the server %s of the service %s is %s: see whether it can be connected to from where Traefik runs", server, name, status)
			}
		}
	}
}

// rounded is a duration as people say it.
func rounded(d time.Duration) string {
	if d < time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// some names the first of many.
func some(names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	if len(names) == 1 {
		return "the router " + names[0]
	}
	text := fmt.Sprintf("%d routers (%s", len(names), strings.Join(names[:min(named, len(names))], ", "))
	if len(names) > named {
		text += ", …"
	}
	return text + ")"
}
