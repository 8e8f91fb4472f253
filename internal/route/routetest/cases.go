package routetest

import (
	"slices"
	"strings"

	"github.com/layover-dev/layover/internal/route"
)

// Case is a request to the environment of [Shop], and what it comes to. The tests of package route check them;
// other data planes are held to the same ones.
type Case struct {
	Group    string // host, preview, source, value, state or default
	Name     string
	Request  route.Request
	NoHeader bool   // the environment has no alternative header
	Want     string // in the form of the group
}

// Cases are all cases of a group, in the order of their names; of every group where it is "".
func Cases(group string) (all []Case) {
	for name, cases := range map[string]func() []Case{
		"host": hostCases, "preview": previewCases, "source": sourceCases,
		"value": valueCases, "state": stateCases, "default": defaultCases,
	} {
		if group != "" && group != name {
			continue
		}
		for _, c := range cases() {
			c.Group = name
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b Case) int { return strings.Compare(a.Group+" "+a.Name, b.Group+" "+b.Name) })
	return all
}

// Shop is the environment of the cases.
func Shop() route.Spec {
	ready := func(name string) route.Version {
		return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{{ID: "i", Address: "127.0.0.1:9000"}}}
	}
	long := LongName
	return route.Spec{
		Revision: 3, RouteHeader: "X-Route",
		Services: []route.Service{
			{Name: "cart", Versions: []route.Version{
				ready("main"), ready("feature-1"), ready("pr-88"), ready("1.2.3"), ready(long), ready("both"),
				{Name: "sleeping", State: route.Asleep},
				{Name: "broken", State: route.Failed, Reason: "exit code 1"},
				{Name: "new", State: route.Starting},
			}},
			{Name: "pricing", Hosts: []string{"pricing.test", "*.pricing.test"}, Default: "stable", Versions: []route.Version{
				ready("stable"), ready("main"), ready("feature-2"), ready("try"),
			}},
			{Name: "deep", Hosts: []string{"*.deep.pricing.test"}, Versions: []route.Version{ready("main")}},
			{Name: "empty", Versions: []route.Version{ready("only")}},
			{Name: "a.b_c", Hosts: []string{"abc.test", "[::1]", "127.0.0.1"}, Versions: []route.Version{ready("main")}},
		},
		Routes: []route.NamedRoute{
			{Name: "team-a", Picks: map[string]string{"cart": "pr-88"}, Parent: "base"},
			{Name: "base", Picks: map[string]string{"pricing": "try", "cart": "feature-1"}},
			{Name: "gone", Picks: map[string]string{"cart": "removed"}},
			{Name: "both", Picks: map[string]string{"cart": "feature-1"}},
			{Name: "r.1", Picks: map[string]string{"cart": "pr-88"}},
		},
	}
}

// LongName is the name of a version of cart that no preview label can hold whole.
const LongName = "feature-with-a-long-name-that-no-preview-label-can-hold-whole"

// hostCases say which service is selected, and how (R1).
func hostCases() (all []Case) {
	for host, want := range map[string]string{
		"cart.localhost":                            "cart exact",
		"CART.LocalHost":                            "cart exact",
		"cart.localhost:8080":                       "cart exact",
		"cart.localhost:":                           "cart exact",
		"cart.localhost.":                           "cart exact",
		"cart.localhost.:80":                        "cart exact",
		"pricing.test":                              "pricing exact",
		"eu.pricing.test":                           "pricing suffix",
		"a.b.pricing.test":                          "pricing suffix",
		"x.deep.pricing.test":                       "deep suffix",
		"deep.pricing.test":                         "pricing suffix",
		"x--pricing.pricing.test":                   "pricing suffix", // a wildcard goes before previews
		"[::1]":                                     "a.b_c exact",
		"[::1]:8080":                                "a.b_c exact",
		"127.0.0.1:8080":                            "a.b_c exact",
		"feature-1--cart.localhost":                 "cart preview",
		"Feature-1--Cart.localhost:8080":            "cart preview",
		"feature-1.cart.localhost":                  "cart preview",
		"x--a-b-c-" + hash6("a.b_c") + ".localhost": "a.b_c preview",
		"x.abc.test":                                "a.b_c preview",
		"":                                          "none",
		".":                                         "none",
		":80":                                       "none",
		"nope.localhost":                            "none",
		"cart.localhost..":                          "none",
		"cart.localhost:x":                          "none",
		"cart.localhost:80:80":                      "none",
		"user@cart.localhost":                       "none",
		"user:pw@cart.localhost":                    "none",
		"cart.localhost/":                           "none",
		" cart.localhost":                           "none",
		"cart.localhost\x00":                        "none",
		"::1":                                       "none",
		"[::1":                                      "none",
		"[::1]x":                                    "none",
		"[::1]:x":                                   "none",
		".cart.localhost":                           "none",
		"--cart.localhost":                          "none",
		"a--b--cart.localhost":                      "none",
		"a--b.cart.localhost":                       "none",
		"x--nope.localhost":                         "none",
		"x--cart.test":                              "none",
		"a.b.cart.localhost":                        "none",
		"pricingxtest":                              "none",
		".pricing.test":                             "none",
		"cárt.localhost":                            "none",
		strings.Repeat("a.", 4000) + "cart.localhost": "none",
		strings.Repeat("a", 254):                      "none",
	} {
		all = append(all, Case{Name: host[:min(len(host), 40)], Request: route.Request{Host: host}, Want: want})
	}
	return all
}

// previewCases say what is served by (R2.1).
func previewCases() (all []Case) {
	const long = LongName
	for host, want := range map[string]string{
		"feature-1--cart.localhost":                       "cart@feature-1; route=feature-1; by=preview",
		"feature-1.cart.localhost":                        "cart@feature-1; route=feature-1; by=preview",
		"FEATURE-1.cart.localhost":                        "cart@feature-1; route=feature-1; by=preview",
		"feature-2--cart.localhost":                       "cart@main; route=feature-2; by=preview; fallback=default",
		"team-a--cart.localhost":                          "cart@pr-88; route=team-a; by=preview",
		"base--pricing.localhost":                         "pricing@try; route=base; by=preview",
		"nope--cart.localhost":                            "cart@main; route=nope; by=preview; fallback=unknown",
		"1-2-3-" + hash6("1.2.3") + "--cart.localhost":    "cart@1.2.3; route=1.2.3; by=preview",
		"1-2-3-" + hash6("1.2.3") + "--pricing.localhost": "pricing@stable; route=1.2.3; by=preview; fallback=default",
		"1-2-4-" + hash6("1.2.3") + "--cart.localhost":    "cart@main; route=1-2-4-" + hash6("1.2.3") + "; by=preview; fallback=unknown",
		"r-1-" + hash6("r.1") + ".cart.localhost":         "cart@pr-88; route=r.1; by=preview",
		route.PreviewLabel(long, 57) + "--cart.localhost": "cart@" + long + "; route=" + long + "; by=preview",
		long + ".cart.localhost":                          "cart@" + long + "; route=" + long + "; by=preview",
		"a_b--cart.localhost":                             "cart@main; route=a_b; by=preview; fallback=unknown",
	} {
		all = append(all, Case{Name: host, Request: route.Request{Host: host, Baggage: []string{"dynamic_route=pr-88"}}, Want: want})
	}
	return all
}

// sourceCases say what is served by, by the order of R2.
func sourceCases() (all []Case) {
	for name, tt := range map[string]struct {
		baggage, header, cookie string
		noHeader                bool
		want                    string
	}{
		"none":                        {want: "cart@main; by=default"},
		"baggage":                     {baggage: "dynamic_route=feature-1", header: "pr-88", cookie: "layover_route=both", want: "cart@feature-1; route=feature-1; by=baggage"},
		"header":                      {baggage: "a=b", header: " pr-88 ", cookie: "layover_route=both", want: "cart@pr-88; route=pr-88; by=header"},
		"header is not configured":    {noHeader: true, header: "pr-88", want: "cart@main; by=default"},
		"cookie":                      {header: " ", cookie: "a=b; layover_route=pr-88; c=d", want: "cart@pr-88; route=pr-88; by=cookie"},
		"quoted cookie":               {cookie: `layover_route="pr-88"`, want: "cart@pr-88; route=pr-88; by=cookie"},
		"first cookie":                {cookie: "layover_route=pr-88; layover_route=feature-1", want: "cart@pr-88; route=pr-88; by=cookie"},
		"first cookie is empty":       {cookie: "layover_route=; layover_route=feature-1", want: "cart@main; by=default"},
		"cookie of another name":      {cookie: "xlayover_route=pr-88; layover_route2=pr-88; layover_route", want: "cart@main; by=default"},
		"encoded cookie":              {cookie: "layover_route=cart%40pr-88", want: "cart@pr-88; route=cart%40pr-88; by=cookie"},
		"empty baggage":               {baggage: "dynamic_route=", cookie: "layover_route=pr-88", want: "cart@pr-88; route=pr-88; by=cookie"},
		"malformed baggage":           {baggage: "dynamic_route=a b", cookie: "layover_route=pr-88", want: "cart@pr-88; route=pr-88; by=cookie"},
		"baggage that makes no sense": {baggage: "dynamic_route=***", cookie: "layover_route=pr-88", want: "cart@main; route=***; by=baggage; fallback=unknown"},
		"header that is too long":     {header: strings.Repeat("x", 9000), cookie: "layover_route=pr-88", want: "cart@pr-88; route=pr-88; by=cookie"},
		"cookie that is too long":     {cookie: "layover_route=" + strings.Repeat("x", 9000), want: "cart@main; by=default"},
		"header that breaks headers":  {header: "a;b, c\r\n\"é=", want: "cart@main; route=a%3Bb%2C%20c%0D%0A%22%C3%A9%3D; by=header; fallback=unknown"},
	} {
		all = append(all, Case{
			Name: name, NoHeader: tt.noHeader, Want: tt.want,
			Request: route.Request{Host: "cart.localhost", Baggage: []string{tt.baggage}, Header: []string{"", tt.header}, Cookie: []string{tt.cookie}},
		})
	}
	return all
}

// valueCases say which version is selected, by what, and the fall-back (R4, R5).
func valueCases() (all []Case) {
	const long = LongName
	for value, want := range map[string]string{
		"feature-1":                         "cart@feature-1 name",
		"main":                              "cart@main name",
		long:                                "cart@" + long + " name",
		"cart@pr-88":                        "cart@pr-88 scoped",
		"cart%40pr-88":                      "cart@pr-88 scoped",
		"%63art%40pr%2D88":                  "cart@pr-88 scoped",
		"feature-1~cart@pr-88":              "cart@pr-88 scoped",
		"cart@pr-88~cart@feature-1":         "cart@pr-88 scoped",
		"feature-1~pr-88":                   "cart@feature-1 name",
		"feature-2~pr-88":                   "cart@pr-88 name",
		"feature-2%7Epr-88":                 "cart@pr-88 name",
		"nope~pr-88":                        "cart@pr-88 name",
		"~~pr-88":                           "cart@pr-88 name",
		"pricing@try~feature-1":             "cart@feature-1 name",
		"team-a":                            "cart@pr-88 named",
		"base":                              "cart@feature-1 named",
		"both":                              "cart@feature-1 named",
		"feature-2~team-a":                  "cart@pr-88 named",
		"feature-1~team-a":                  "cart@feature-1 name",
		"team-a~feature-1":                  "cart@pr-88 named",
		"cart@team-a":                       "cart@main none fallback=unknown",
		"feature-2":                         "cart@main none fallback=default",
		"nope~feature-2":                    "cart@main none fallback=default",
		"pricing@try":                       "cart@main none fallback=default",
		"stable":                            "cart@main none fallback=default",
		"pricing@nope":                      "cart@main none fallback=unknown",
		"nope@main":                         "cart@main none fallback=unknown",
		"nope":                              "cart@main none fallback=unknown",
		"Feature-1":                         "cart@main none fallback=unknown",
		"cart@nope":                         "cart@main none fallback=unknown",
		"cart@feature-2~feature-1":          "cart@main none fallback=unknown",
		"feature-1~cart@nope":               "cart@main none fallback=unknown",
		"cart@":                             "cart@main none fallback=unknown",
		"@feature-1":                        "cart@main none fallback=unknown",
		"cart@pr@88":                        "cart@main none fallback=unknown",
		"cart@" + strings.Repeat("x", 200):  "cart@main none fallback=unknown",
		strings.Repeat("x", 300):            "cart@main none fallback=unknown",
		strings.Repeat("x", 300) + "~pr-88": "cart@pr-88 name",
		"gone":                              "cart@main none fallback=unknown",
		"gone~feature-1":                    "cart@main none fallback=unknown",
		"~":                                 "cart@main none fallback=unknown",
		"@":                                 "cart@main none fallback=unknown",
		"feature-1!":                        "cart@feature-1 name strict",
		"feature-1%21":                      "cart@feature-1 name strict",
		"cart@pr-88~feature-2!":             "cart@pr-88 scoped strict",
		"feature-2!":                        "cart@main none fallback=default strict",
		"team-a!":                           "cart@pr-88 named strict",
		"pricing@try!":                      "cart@main none fallback=default strict",
		"nope!":                             "unknown-route strict",
		"feature-1~nope!":                   "unknown-route strict",
		"cart@pr-88~nope!":                  "unknown-route strict",
		"feature-1~cart@nope!":              "unknown-route strict",
		"gone!":                             "unknown-route strict",
		"!":                                 "unknown-route strict",
		"feature-1~!":                       "unknown-route strict",
		"feature-1!!":                       "unknown-route strict",
		"feature-1!~pr-88":                  "cart@pr-88 name", // "!" is strict at the end only
	} {
		all = append(all, Case{
			Name: value[:min(len(value), 40)], Want: want,
			Request: route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route=" + value}},
		})
	}
	return all
}

// stateCases say in what state the version is, which is never fallen back from (R5).
func stateCases() (all []Case) {
	for name, state := range map[string]route.State{"sleeping": route.Asleep, "broken": route.Failed, "new": route.Starting, "feature-1": route.Ready} {
		all = append(all, Case{
			Name: name, Want: "cart@" + name + " " + string(state),
			Request: route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route=" + name + "~main"}},
		})
	}
	return all
}

// defaultCases say what is served by, or the outcome, where the default version of a service is asked for.
func defaultCases() (all []Case) {
	for name, tt := range map[string]struct {
		host, value string
		want        string
	}{
		"of the service":           {"pricing.test", "", "pricing@stable; by=default"},
		"named, though another":    {"pricing.test", "main", "pricing@main; route=main; by=baggage"},
		"fallen back to":           {"pricing.test", "feature-1", "pricing@stable; route=feature-1; by=baggage; fallback=default"},
		"missing":                  {"empty.localhost", "", "no-version"},
		"missing, fallen back to":  {"empty.localhost", "feature-1", "no-version"},
		"missing, and not wanted":  {"empty.localhost", "only", "empty@only; route=only; by=baggage"},
		"missing, asked for alone": {"empty.localhost", "empty@main", "no-version"},
	} {
		all = append(all, Case{
			Name: name, Want: tt.want,
			Request: route.Request{Host: tt.host, Baggage: []string{"dynamic_route=" + tt.value}},
		})
	}
	return all
}

// hash6 is what a preview label ends in that had to be changed.
func hash6(name string) string {
	label := route.PreviewLabel(name, 63)
	return label[len(label)-6:]
}
