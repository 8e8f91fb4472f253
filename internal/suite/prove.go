package suite

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// Kinds of findings.
const (
	NotExercised       = "not exercised"       // a version under test got no request of the run
	NotReached         = "not reached"         // something that the suite must reach got none
	UnexpectedFallback = "unexpected fallback" // the default version answered although the route has one of the service
)

// Claim is what a run has to prove by its receipts.
type Claim struct {
	Route    string
	Under    []string // versions under test, as service@version
	Reach    []string // what else has to be reached, as service@version
	Versions []string // all that the route has
	Fallback []string // services that may answer with their default version nonetheless

	// Strays are requests that came from no instance while the tests ran, and named neither route nor run: they may be those of
	// tests that go past the proxy of layover exec.
	Strays []api.ReachedEdge
}

// Prove says what the receipts of a run have against a claim; nothing where it holds. The X-ray of the environment names who loses
// the route where the run itself does not show it. A run without a route proves that by its reach alone.
func Prove(c Claim, r api.Reached, x api.XRay) []api.RunFinding {
	p := prover{c, r, x}
	var out []api.RunFinding
	missed := map[string]bool{}
	for kind, all := range map[string][]string{NotExercised: c.Under, NotReached: c.Reach} {
		for _, id := range all {
			service, _, _ := strings.Cut(id, "@")
			if r.Requests > 0 && p.requests(id) > 0 || missed[id] {
				continue
			}
			if kind == NotReached && slices.Contains(c.Under, id) {
				continue
			}
			missed[id], missed[service] = true, true
			f := p.missing(id)
			f.Kind, f.Version = kind, id
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b api.RunFinding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Version, b.Version))
	})
	for i, e := range r.Edges {
		want := p.wanted(e.Service)
		if want == "" || want == e.Version || missed[e.Service] || slices.Contains(c.Fallback, e.Service) || chose(e) {
			continue
		}
		f := p.instead(&r.Edges[i], e.Service+"@"+want)
		f.Kind, f.Version = UnexpectedFallback, e.Service+"@"+want
		out = append(out, f)
	}
	return out
}

// chose says whether the caller itself named another route.
func chose(e api.ReachedEdge) bool { return e.By == "preview" || e.By == "cookie" }

// Gap is what the receipts of a run do not tell of.
type Gap struct {
	Since   time.Time // since when receipts are kept, where that is another time than when the run began; else zero
	Dropped uint64    // requests of which proxies could not tell while it ran, of any run
}

// GapBetween is what lies between what a server said of a run when it began, and what it says at its end.
func GapBetween(begin, end api.Reached) Gap {
	if !end.Since.Equal(begin.Since) {
		return Gap{Since: end.Since}
	}
	if end.Dropped > begin.Dropped {
		return Gap{Dropped: end.Dropped - begin.Dropped}
	}
	return Gap{}
}

// Doubt returns which findings hold nonetheless, and why the receipts prove nothing; "" where they do. Where another server keeps them than
// when the run began, they never do: what speaks against it may be in the part that is gone. Where proxies could not tell of
// some requests, a version that seems not to have been reached may have been.
func (g Gap) Doubt(findings []api.RunFinding) (hold []api.RunFinding, why string) {
	hold = slices.DeleteFunc(slices.Clone(findings), func(f api.RunFinding) bool { return f.Kind == NotExercised || f.Kind == NotReached })
	switch {
	case !g.Since.IsZero():
		return hold, "the server changed during the run: receipts are kept since " + g.Since.UTC().Format(time.RFC3339) + " only, and the run began before that"
	case g.Dropped > 0 && len(findings) > 0 && len(hold) == 0:
		return hold, fmt.Sprintf("proxies could not tell of %d requests during the run, and none to %s is known", g.Dropped, findings[0].Version)
	}
	return findings, ""
}

type prover struct {
	claim   Claim
	reached api.Reached
	xray    api.XRay
}

func (p prover) requests(id string) (n int) {
	for _, e := range p.reached.Edges {
		if e.ID() == id {
			n += e.Requests
		}
	}
	return n
}

// wanted is the version of a service that the route has, "" where it has none.
func (p prover) wanted(service string) string {
	for _, id := range p.claim.Versions {
		if name, version, _ := strings.Cut(id, "@"); name == service {
			return version
		}
	}
	return ""
}

// missing says why a version got no request.
func (p prover) missing(id string) api.RunFinding {
	service, _, _ := strings.Cut(id, "@")
	if stray := p.stray(service); stray != nil && p.reached.Requests == 0 {
		return api.RunFinding{
			Text: fmt.Sprintf("%s got no request of this run; while the tests ran, %s answered %d requests that named neither route nor run: the tests call it past HTTP_PROXY", id, stray.ID(), stray.Requests),
			Hint: "let the tests use HTTP_PROXY for it, or LAYOVER_PREVIEW_URL_…, in place of an address that is written down; layover requests --version " + stray.ID() + " shows them",
			Edge: stray,
		}
	}
	if p.reached.Requests == 0 {
		return api.RunFinding{
			Text: fmt.Sprintf("%s got no request of this run: none came to the environment at all", id),
			Hint: "do the tests go through HTTP_PROXY, or LAYOVER_URL_…? layover exec says how many requests it carried",
		}
	}
	var worst *api.ReachedEdge
	for i := range p.reached.Edges {
		e := &p.reached.Edges[i]
		if e.Service == service && (worst == nil || rank(e) > rank(worst) || rank(e) == rank(worst) && e.Requests > worst.Requests) {
			worst = e
		}
	}
	if worst != nil {
		return p.instead(worst, id)
	}
	if e := p.dropsOnTheWay(service); e != nil {
		return api.RunFinding{
			Text: fmt.Sprintf("%s got no request of this run; %s loses the route on its calls to %s: %d of %d carried it lately", id, e.Caller, service, e.Carried, e.Routed),
			Hint: "pass the baggage on in " + e.Caller + ", or let Layover heal it; layover xray shows all who lose it",
		}
	}
	var reached []string
	for _, e := range p.reached.Edges {
		reached = append(reached, e.ID())
	}
	slices.Sort(reached)
	return api.RunFinding{
		Text: fmt.Sprintf("%s got no request of this run, which reached %s", id, strings.Join(slices.Compact(reached), ", ")),
		Hint: "test something that leads to " + service + ", or name another service under test",
	}
}

// stray are requests to other versions of a service that may be those of the tests.
func (p prover) stray(service string) (most *api.ReachedEdge) {
	for i := range p.claim.Strays {
		if e := &p.claim.Strays[i]; e.Service == service && (most == nil || e.Requests > most.Requests) {
			most = e
		}
	}
	return most
}

// rank says how much an edge tells of a route that was lost.
func rank(e *api.ReachedEdge) int {
	switch {
	case e.Lost != "":
		return 2
	case e.Caller == "":
		return 1
	}
	return 0
}

// instead says why another version answered in place of id.
func (p prover) instead(e *api.ReachedEdge, id string) api.RunFinding {
	f := api.RunFinding{Edge: e}
	switch {
	case e.Lost != "":
		f.Text = fmt.Sprintf("%s loses the route: %d of its calls to %s came without it (%s), and %s answered them in place of %s", e.Caller, e.Requests, e.Service, e.Lost, e.ID(), id)
		f.Hint = "pass the baggage on in " + e.Caller + ", or let Layover heal it (healing in layover.yaml)"
	case e.Caller == "" && (e.By == "" || e.By == "default"):
		f.Text = fmt.Sprintf("the tests themselves called %s %d times without the route, and so not %s", e.ID(), e.Requests, id)
		f.Hint = "let their requests go through HTTP_PROXY, or to LAYOVER_PREVIEW_URL_…; an address that is written down in the tests is that of main"
	case e.By == "" || e.By == "default":
		if drop := p.firstDrop(); drop != nil && drop != e {
			f = p.instead(drop, drop.Service+"@"+cmp.Or(p.wanted(drop.Service), p.claim.Route))
			f.Text = fmt.Sprintf("%s called %s %d times without the route, which was lost before: %s", e.Caller, e.ID(), e.Requests, f.Text)
			return f
		}
		f.Text = fmt.Sprintf("%s called %s %d times without the route, and so not %s", e.Caller, e.ID(), e.Requests, id)
		f.Hint = "layover xray shows who loses the route"
	default:
		f.Text = fmt.Sprintf("%s answered %d requests of %s in place of %s (by=%s fallback=%s)", e.ID(), e.Requests, cmp.Or(e.Caller, "the tests"), id, e.By, cmp.Or(e.Fallback, "none"))
		f.Hint = "was the version there while the tests ran? layover status " + id
	}
	if e.Example != "" {
		f.Hint += "; one of them: layover receipt " + e.Example
	}
	return f
}

// firstDrop is the edge of the run that loses the route most often.
func (p prover) firstDrop() (worst *api.ReachedEdge) {
	for i := range p.reached.Edges {
		if e := &p.reached.Edges[i]; e.Lost != "" && (worst == nil || e.Requests > worst.Requests) {
			worst = e
		}
	}
	return worst
}

// dropsOnTheWay is an edge that loses the route in others' requests as well: from what the run reached to the service, or
// else to another one.
func (p prover) dropsOnTheWay(service string) (found *api.XRayEdge) {
	for i := range p.xray.Edges {
		e := &p.xray.Edges[i]
		if e.Verdict != api.VerdictDrops && e.Verdict != api.VerdictSometimes || p.requests(e.Caller) == 0 || e.Callee != service {
			continue
		}
		if found == nil || e.Routed-e.Carried > found.Routed-found.Carried {
			found = e
		}
	}
	return found
}

// Unexercised returns what others ask of the versions of the given services lately, and a run did not ask of the versions
// under test.
func Unexercised(known, run []api.Endpoint, under []string) []api.Endpoint {
	type point struct{ service, method, path string }
	asked := map[point]bool{}
	services := map[string]bool{}
	for _, id := range under {
		service, _, _ := strings.Cut(id, "@")
		services[service] = true
	}
	for _, e := range run {
		if slices.Contains(under, e.ID()) {
			asked[point{e.Service, e.Method, e.Path}] = true
		}
	}
	out := []api.Endpoint{}
	for _, e := range known {
		p := point{e.Service, e.Method, e.Path}
		if !services[e.Service] || asked[p] {
			continue
		}
		asked[p] = true
		out = append(out, api.Endpoint{Service: e.Service, Version: e.Version, Method: e.Method, Path: e.Path, Requests: e.Requests})
	}
	return out
}
