package route

import (
	"fmt"
	"strings"
)

// Explanation is a decision as steps that a person can read. It is made by the
// code that decides requests, and cannot say anything else than that did.
type Explanation struct {
	Outcome     string     `json:"outcome"`               // found, unknown-host, unknown-route or no-version
	Service     string     `json:"service,omitempty"`     // empty where the host is unknown
	Version     string     `json:"version,omitempty"`     // empty where none answers
	State       State      `json:"state,omitempty"`       // of the version
	Reason      string     `json:"reason,omitempty"`      // why the version is not ready
	Instances   []Instance `json:"instances,omitempty"`   // that answer for the version
	HostBy      string     `json:"host_by"`               // none, exact, suffix or preview (R1)
	By          string     `json:"by"`                    // where the route came from (R2)
	Route       string     `json:"route,omitempty"`       // as it came, maybe percent-encoded
	Strict      bool       `json:"strict,omitempty"`      // the route ends in "!"
	Match       string     `json:"match,omitempty"`       // scoped, named or name (R4); empty where nothing matched
	Fallback    string     `json:"fallback,omitempty"`    // default or unknown (R5); empty where there was none
	Suggestions []string   `json:"suggestions,omitempty"` // what an unknown host or route may have been meant to be
	Steps       []Step     `json:"steps"`
}

// Step is one rule applied.
type Step struct {
	Rule    string `json:"rule"`    // R1 to R5
	Text    string `json:"text"`    // what was looked at and found, as a sentence
	Outcome string `json:"outcome"` // in a word or two: what came of it
}

// suggestions is how many names an explanation suggests.
const suggestions = 3

// Explain decides a request as [Table.Resolve] does, and says how.
func (t *Table) Explain(r *Request) Explanation {
	var x recorder
	return t.explanation(t.resolve(r, &x), &x)
}

// explanation puts a decision and the steps to it together.
func (t *Table) explanation(d Decision, x *recorder) Explanation {
	e := Explanation{
		Outcome: d.Outcome.String(), HostBy: d.HostBy.String(), By: d.By.String(),
		Route: d.Route, Strict: d.Strict, Fallback: d.Fallback.String(),
		Suggestions: x.suggestions, Steps: x.steps,
	}
	if d.Service != nil {
		e.Service = d.Service.Name
	}
	if v := d.Version; v != nil {
		e.Version, e.State, e.Reason, e.Instances = v.Name, v.State, v.Reason, v.Instances
	}
	if d.Match != MatchNone {
		e.Match = d.Match.String()
	}
	return e
}

// recorder writes down the steps of one decision. It only ever reads.
type recorder struct {
	steps       []Step
	suggestions []string
	unknown     []string // selectors that match nothing anywhere
}

func (x *recorder) step(rule, outcome, format string, args ...any) {
	x.steps = append(x.steps, Step{Rule: rule, Text: fmt.Sprintf(format, args...), Outcome: outcome})
}

// host records R1. Host is the normal form of the authority.
func (x *recorder) host(t *Table, d *Decision, authority, host, label string) {
	switch {
	case d.HostBy == HostExact:
		x.step("R1", d.Service.Name, "Host %q is a host of service %q.", host, d.Service.Name)
	case d.HostBy == HostSuffix:
		x.step("R1", d.Service.Name, "Host %q is under the wildcard host of service %q.", host, d.Service.Name)
	case d.HostBy == HostPreview:
		x.step("R1", d.Service.Name, "Host %q is a preview host of service %q, for %q.", host, d.Service.Name, label)
	case host == "":
		x.step("R1", "unknown host", "The request's host %s is empty or cannot be a host name.", quoteShort(authority))
	default:
		x.suggestions = t.Similar(host, suggestions)
		x.step("R1", "unknown host", "No service has the host %q, no wildcard host covers it, and it is no preview host.%s", host, orMeant(x.suggestions))
	}
}

// sources records R2 and R3: where a route was looked for, up to the source that
// had one.
func (x *recorder) sources(t *Table, d *Decision, r *Request, label string) {
	if d.By == ByPreview {
		if d.Route == label {
			x.step("R2", "preview", "The preview host names the route %q, which goes before all other sources.", d.Route)
		} else {
			x.step("R2", "preview", "The preview host's label %q stands for the route %q, which goes before all other sources.", label, d.Route)
		}
		return
	}
	x.step("R2", "no route", "The host is no preview host.")
	x.baggage(t.spec.BaggageKey, r.Baggage)
	if d.By == ByBaggage {
		x.step("R2", "baggage", "The route comes from baggage: %s.", quoteShort(d.Route))
		return
	}
	if d.By == ByHeader {
		x.step("R2", "header", "The route comes from the header %q: %s.", t.spec.RouteHeader, quoteShort(d.Route))
		return
	}
	x.empty(t.spec.RouteHeader != "", "No alternative header is configured.",
		"The header "+t.spec.RouteHeader, r.Header, tooLong(r.Header))
	if d.By == ByCookie {
		x.step("R2", "cookie", "The route comes from the cookie %q: %s.", CookieName, quoteShort(d.Route))
		return
	}
	x.empty(true, "", "The cookie "+CookieName, r.Cookie, tooLong(r.Cookie))
	if d.By == ByHealedOrigin || d.By == ByHealedTrace {
		x.step("R2", "healed", "The route was lost on the way, and is known again (%s): %s.", d.By, quoteShort(d.Route))
		return
	}
	x.step("R2", "default", "No source has a route: the default version answers.")
}

// empty records a source that had no route.
func (x *recorder) empty(configured bool, otherwise, source string, lines []string, long bool) {
	switch {
	case !configured:
		x.step("R2", "no route", "%s", otherwise)
	case long:
		x.step("R2", "no route", "%s is not there, empty, or longer than the %d bytes that are read.", source, MaxBaggage)
	case len(lines) == 0:
		x.step("R2", "no route", "%s is not there.", source)
	default:
		x.step("R2", "no route", "%s is not there or empty.", source)
	}
}

// baggage records R3: what of the baggage could not be read, and what became of
// the members with the key.
func (x *recorder) baggage(key string, lines []string) {
	if len(lines) == 0 {
		x.step("R3", "no route", "There is no baggage header.")
		return
	}
	scan := memberScan{lines: lines}
	members, own, value := 0, 0, ""
	for raw, ok := scan.next(); ok; raw, ok = scan.next() {
		members++
		m, problem := parseMember(raw)
		switch {
		case problem != "":
			x.step("R3", "skipped", "The baggage member %s is malformed: %s.", quoteShort(raw), problem)
		case m.key == key:
			own++
			value = m.value
		case strings.EqualFold(m.key, key):
			x.step("R3", "ignored", "The baggage member %q is not %q: keys are case-sensitive.", m.key, key)
		}
	}
	if scan.cut {
		x.step("R3", "cut", "The baggage is longer than %d bytes: only the members that end within them are read.", MaxBaggage)
	}
	switch {
	case own == 0:
		x.step("R3", "no route", "Baggage has no well-formed member %q among the %s read.", key, count(members, "member"))
	case value == "":
		x.step("R3", "no route", "The last baggage member %q is empty.", key)
	case own > 1:
		x.step("R3", "read", "Baggage has %d members %q: the last one counts.", own, key)
	default:
		x.step("R3", "read", "Baggage has one member %q.", key)
	}
}

// chosen records the selector that decides for the service (R4): want is the
// version it means, got what the service has of it.
func (x *recorder) chosen(selector string, match Match, s *ServiceEntry, want string, got *VersionEntry) {
	how := map[Match]string{
		MatchScoped: "is scoped to service %q and asks for version %q",
		MatchNamed:  "is a named route that picks for service %q version %q",
		MatchName:   "names, for service %q, its version %q",
	}[match]
	text := fmt.Sprintf("Selector %s "+how, quoteShort(selector), s.Name, want)
	if got == nil {
		x.step("R4", "missing", "%s, which does not exist.", text)
		return
	}
	x.step("R4", match.String(), "%s.", text)
}

// unscoped records a selector without a scope that came before any that decides.
func (x *recorder) unscoped(selector string, match Match, s *ServiceEntry, name string, got *VersionEntry) {
	switch match {
	case MatchNamed:
		x.chosen(selector, match, s, s.picks[name], got)
	case MatchName:
		x.chosen(selector, match, s, name, got)
	default:
		x.step("R4", "skipped", "Selector %s is no version of service %q, and no named route with a pick for it.", quoteShort(selector), s.Name)
	}
}

// skipped records a selector that cannot decide for the service (R4).
func (x *recorder) skipped(selector string, scoped bool) {
	why := "is scoped to another service"
	if !scoped {
		why = "comes after the one that decides"
	}
	x.step("R4", "skipped", "Selector %s %s.", quoteShort(selector), why)
}

// known records whether a selector names anything in the environment (R5).
func (x *recorder) known(selector string, known bool) {
	if known {
		x.step("R5", "known", "Selector %s exists in the environment.", quoteShort(selector))
		return
	}
	x.unknown = append(x.unknown, selector)
	x.step("R5", "unknown", "Selector %s names nothing that exists anywhere in the environment.", quoteShort(selector))
}

// end records R5: what answers.
func (x *recorder) end(t *Table, d *Decision) {
	if len(x.unknown) > 0 {
		x.suggestions = t.DidYouMean(x.unknown[0], suggestions)
	}
	s := d.Service
	switch {
	case d.Outcome == UnknownRoute && len(x.unknown) > 0:
		x.step("R5", "unknown route", "The route is strict and selector %s matches nothing: the request is refused.%s",
			quoteShort(x.unknown[0]), orMeant(x.suggestions))
	case d.Outcome == UnknownRoute:
		x.step("R5", "unknown route", "The route is strict and service %q lacks the version it names: the request is refused.", s.Name)
	case d.Outcome == NoVersion:
		x.step("R5", "no version", "The default version %q of service %q does not exist: nothing can answer.", s.defaultName, s.Name)
	case d.Fallback == FallbackDefault:
		x.step("R5", "fallback", "Service %q has nothing the route names, which exists elsewhere: its default version %q answers.", s.Name, d.Version.Name)
	case d.Fallback == FallbackUnknown:
		x.step("R5", "fallback", "What the route names for service %q does not exist: its default version %q answers, and the response says so.%s",
			s.Name, d.Version.Name, orMeant(x.suggestions))
	}
	if d.Version != nil {
		x.state(d.Version)
	}
}

// state records whether the version can answer (R5).
func (x *recorder) state(v *VersionEntry) {
	because := ""
	if v.Reason != "" {
		because = " (" + v.Reason + ")"
	}
	switch v.State {
	case Ready:
		x.step("R5", "ready", "Version %q is ready, with %s.", v.ID, count(len(v.Instances), "healthy instance"))
	case Failed:
		x.step("R5", "failed", "Version %q has failed%s: the request is answered 503 at once, never by another version.", v.ID, because)
	default:
		x.step("R5", string(v.State), "Version %q is %s%s: the request is held until it is ready, never answered by another version.", v.ID, v.State, because)
	}
}

// orMeant is the end of a sentence about something unknown.
func orMeant(names []string) string {
	if len(names) == 0 {
		return ""
	}
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		quoted = append(quoted, fmt.Sprintf("%q", name))
	}
	return " Did you mean " + strings.Join(quoted, " or ") + "?"
}

// tooLong says whether a line is longer than what is read of a route.
func tooLong(lines []string) bool {
	for _, line := range lines {
		if len(line) > MaxBaggage {
			return true
		}
	}
	return false
}

// count is "1 thing" or "n things".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
