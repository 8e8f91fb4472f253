package live

import (
	"cmp"
	"slices"
	"strings"

	"github.com/layover-dev/layover/internal/gateway/traefik"
)

// hostGroup is all routers of this environment with the same hosts on the same entry points.
type hostGroup struct {
	hosts       *traefik.HostRule
	entryPoints []string
	tls         bool
	lowest      int // priority of them
	router      string
}

// priorities says which routers of others take requests for hosts that Layover has routers for.
func (j *judge) priorities() {
	groups, lowest := j.hostGroups()
	var before []beaten
	for _, f := range j.foreign {
		if f.Status == "disabled" {
			continue // it takes no request
		}
		rule, err := traefik.ReadHosts(f.Rule)
		if err != nil {
			continue // Traefik could not read it either, or it is of a language that is not known here
		}
		for _, g := range groups {
			if host := g.common(rule); host != "" && f.Priority >= g.lowest && g.meets(f) {
				before = append(before, beaten{f, g, host})
				break
			}
		}
	}
	slices.SortFunc(before, func(a, b beaten) int {
		return cmp.Or(b.by.Priority-a.by.Priority, strings.Compare(a.by.Name, b.by.Name))
	})
	if len(before) == 0 {
		return
	}
	if lowest < 0 {
		j.note("%d routers of others go before Layover's, as gateway.traefik.priority is below zero; the first is %s (priority %d), for %s: take the setting out when Layover is to decide",
			len(before), before[0].by.Name, before[0].by.Priority, before[0].host)
		return
	}
	for _, b := range before[:min(foreignNamed, len(before))] {
		j.problem("the router %s (provider %s, priority %d) goes before Layover's router %s (priority %d) for requests to %s: lower its priority, take it out, or set gateway.traefik.priority above %d",
			b.by.Name, b.by.Provider, b.by.Priority, b.group.router, b.group.lowest, b.host, b.by.Priority)
	}
	if more := len(before) - foreignNamed; more > 0 {
		j.problem("%d more routers of others go before Layover's: set gateway.traefik.priority above %d", more, before[0].by.Priority)
	}
}

// beaten is a router of somebody else that goes before some of Layover's.
type beaten struct {
	by    Router
	group *hostGroup
	host  string // that both are for
}

// hostGroups are the routers by their hosts: one for each version has the same as the others.
func (j *judge) hostGroups() (groups []*hostGroup, lowest int) {
	type key struct {
		hosts, entryPoints string
		tls                bool
	}
	found := map[key]*hostGroup{}
	lowest = traefik.DefaultPriority
	for _, r := range j.own {
		lowest = min(lowest, r.Priority)
		// What stands behind the hosts is about the request.
		text, _, _ := strings.Cut(r.Rule, " && ")
		k := key{text, strings.Join(r.EntryPoints, ","), r.TLS != nil}
		if g := found[k]; g != nil {
			if r.Priority < g.lowest {
				g.lowest, g.router = r.Priority, r.name
			}
			continue
		}
		hosts, err := traefik.ReadHosts(text)
		if err != nil {
			continue // it is none that was given: that is said
		}
		g := &hostGroup{hosts: hosts, entryPoints: r.EntryPoints, tls: r.TLS != nil, lowest: r.Priority, router: r.name}
		found[k] = g
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *hostGroup) int { return strings.Compare(a.router, b.router) })
	return groups, lowest
}

// common is a host that both rules may be true of, as far as that can be told; "" where there is none.
func (g *hostGroup) common(rule *traefik.HostRule) string {
	for _, host := range g.hosts.Samples() {
		if rule.MayCover(host) {
			return host
		}
	}
	for _, host := range rule.Samples() {
		if g.hosts.MayCover(host) {
			return host
		}
	}
	return ""
}

// meets says whether requests come to both: those of TLS and the others are told apart before any rule.
func (g *hostGroup) meets(r Router) bool {
	return g.tls == (r.TLS != nil) && slices.ContainsFunc(r.EntryPoints, func(name string) bool { return slices.Contains(g.entryPoints, name) })
}
