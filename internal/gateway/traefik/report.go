package traefik

import (
	"fmt"

	"github.com/layover-dev/layover/internal/route"
)

// Where says where requests of a kind are decided.
type Where string

// The places.
const (
	AtTraefik Where = "traefik" // by a rule that decides as the table does
	AtProxy   Where = "proxy"   // by Layover's proxy
	Nowhere   Where = "nowhere" // not, or otherwise than Layover would
)

// Line says where requests of a kind go, or what Traefik does not do.
type Line struct {
	What  string
	Where Where
	Text  string // as a sentence
}

// Report says what becomes of every kind of request that the rules of docs/design.md know, with this configuration of
// the table. What is Nowhere is a difference to Layover's own proxy.
func Report(t *route.Table, s Settings, c *Config) []Line {
	r := reporter{table: t, settings: s, config: c}
	r.unrouted()
	r.named()
	r.leased()
	r.add("chains, scoped and strict routes", AtProxy, "a~b, cart@a and a! are decided there, as is every other value that is not one plain name (R4).")
	r.add("percent-encoded, doubled or malformed members", AtProxy, "What W3C Baggage makes of them is decided there (R3).")
	r.add("cookie "+route.CookieName, AtProxy, "The member that the proxy adds takes it on to the next service (R2.4, R7).")
	if header := t.RouteHeader(); header != "" {
		r.add("header "+header, AtProxy, "The member that the proxy adds takes it on to the next service (R2.3, R7).")
	}
	r.add("upgrades to another HTTP", AtProxy, "It takes the wish for h2c or TLS from the request: granted, later requests of the connection would go past all rules (R7).")
	r.add("preview hosts", AtProxy, "<route>--<service>.<domain> and <route>.<service-host> (R2.1).")
	r.add("versions that sleep, start or have failed", AtProxy, "It holds the request, wakes the version, or answers 503 (R5).")
	r.add("healing", Nowhere, "No data plane of this version repairs a lost route (R6).")
	r.limits()
	return r.lines
}

type reporter struct {
	table    *route.Table
	settings Settings
	config   *Config
	lines    []Line
}

func (r *reporter) add(what string, where Where, format string, args ...any) {
	r.lines = append(r.lines, Line{what, where, fmt.Sprintf(format, args...)})
}

// unrouted tells of requests without a route.
func (r *reporter) unrouted() {
	names, direct, all := names{r.table.Environment().Environment}, 0, 0
	for s := range r.table.Services() {
		b := builder{table: r.table}
		for _, g := range b.groups(s) {
			all++
			if !isProxy(r.config.HTTP.Routers[names.unrouted(s.Name, g.name)].Service) {
				direct++
			}
		}
	}
	r.add("requests without a route", AtTraefik, "%d of %d groups of hosts: the instances of the default version.", direct, all)
	if direct < all {
		r.add("requests without a route, of the others", AtProxy, "Their default version is not ready, sleeps, is reached by TLS, or under a host of its own.")
	}
}

// named tells of requests that name one version or named route.
func (r *reporter) named() {
	if r.settings.Mode != Full {
		r.add("requests with a route", AtProxy, "All of them, in the mode %s.", r.settings.Mode)
		return
	}
	n := 0
	for _, router := range r.config.HTTP.Routers {
		if router.Priority%places == (r.priority()+placeVersion)%places {
			n++
		}
	}
	r.add("routes of one name", AtTraefik, "%d routers, for each version that is ready and each named route with a pick for the service; the others go to Layover's proxy.", n)
}

func (r *reporter) priority() int {
	if r.settings.Priority == 0 {
		return DefaultPriority
	}
	return r.settings.Priority
}

func (r *reporter) leased() {
	if n := len(r.settings.Leased); n > 0 && r.settings.Mode == Full {
		r.add("versions with idle_sleep or ttl", AtProxy, "%d of them: what Traefik answers itself is no activity that would keep them awake.", n)
	}
}

// limits tells in what Traefik's own answers differ from those of Layover's proxy.
func (r *reporter) limits() {
	r.add("odd hosts", Nowhere, LimitHost+".")
	r.add("fields for one hop", Nowhere, LimitConnection+".")
	if r.settings.Mode == Full {
		r.add("long baggage", Nowhere, LimitBaggage+".")
	}
	r.add("instances that break", Nowhere, "Traefik learns of it with its next configuration; until then it sends them requests. Layover's proxy tries another instance and gives the broken one a pause (R7).")
	r.add("limits and strict reading", Nowhere, "Requests that Traefik answers itself are bounded and read by its own settings.")
	r.add("records", Nowhere, "Requests that Traefik answers itself are in its access log, not in Layover's, and are not counted by `layover ls`.")
}
