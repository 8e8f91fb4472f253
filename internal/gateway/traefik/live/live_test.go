package live_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/gateway/traefik/live"
	"github.com/layover-dev/layover/internal/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type object = map[string]any

// api answers as Traefik's API does: lists page by page.
type api struct {
	version     string
	providers   []string
	entryPoints []string
	routers     []object
	services    []object
	user        string // with the password "s3cret"; "" lets everybody in
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, ok := r.BasicAuth(); a.user != "" && (!ok || user != a.user || password != "s3cret") {
		http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var points []object
	for _, name := range a.entryPoints {
		points = append(points, object{"name": name})
	}
	switch r.URL.Path {
	case "/api/version":
		write(w, object{"Version": a.version, "Codename": "x"})
	case "/api/overview":
		write(w, object{"providers": a.providers})
	case "/api/entrypoints":
		page(w, r, points)
	case "/api/http/routers":
		page(w, r, a.routers)
	case "/api/http/services":
		var found []object
		for _, s := range a.services {
			if strings.Contains(s["name"].(string), r.URL.Query().Get("search")) {
				found = append(found, s)
			}
		}
		page(w, r, found)
	default:
		http.NotFound(w, r)
	}
}

func write(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func page(w http.ResponseWriter, r *http.Request, items []object) {
	at, _ := strconv.Atoi(r.URL.Query().Get("page"))
	size, _ := strconv.Atoi(r.URL.Query().Get("per_page"))
	from := min((at-1)*size, len(items))
	to := min(from+size, len(items))
	next := 1
	if to < len(items) {
		next = at + 1
	}
	w.Header().Set("X-Next-Page", strconv.Itoa(next))
	write(w, append([]object{}, items[from:to]...))
}

func config(t *testing.T, s traefik.Settings) *traefik.Config {
	t.Helper()
	spec := route.Spec{Environment: "shop", Domain: "test", Services: []route.Service{{
		Name: "cart", Hosts: []string{"cart.test", "*.cart.example"}, Versions: []route.Version{
			{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "a", Address: "10.0.0.1:80"}}},
			{Name: "feature-1", State: route.Ready, Instances: []route.Instance{{ID: "b", Address: "10.0.0.2:80"}}},
		},
	}}}
	table, err := route.Compile(spec)
	require.NoError(t, err)
	s.Mode, s.Proxies = traefik.Full, []string{"http://10.0.0.9:8080"}
	c, err := traefik.Build(table, s)
	require.NoError(t, err)
	return c
}

// running is a Traefik that has the configuration.
func running(c *traefik.Config) *api {
	a := &api{version: "3.6.12", providers: []string{"Docker", "HTTP"}, entryPoints: []string{"web", "websecure"}}
	for name, r := range c.HTTP.Routers {
		a.routers = append(a.routers, object{
			"name": name + "@http", "provider": "http", "service": r.Service, "rule": r.Rule, "priority": r.Priority, "status": "enabled",
			"entryPoints": []string{"web"}, "using": []string{"web"},
		})
	}
	for name, s := range c.HTTP.Services {
		a.services = append(a.services, object{"name": name + "@http", "provider": "http", "status": "enabled", "loadBalancer": s.LoadBalancer})
	}
	a.routers = append(a.routers,
		object{"name": "dashboard@internal", "provider": "internal", "rule": "PathPrefix(`/`)", "priority": 9223372036854775805, "status": "enabled", "entryPoints": []string{"web"}},
		object{"name": "cart@docker", "provider": "docker", "rule": "Host(`cart.test`)", "status": "enabled", "entryPoints": []string{"web"}},
	)
	return a
}

func check(t *testing.T, a http.Handler, g live.Given) live.Report {
	t.Helper()
	s := httptest.NewServer(a)
	defer s.Close()
	c, err := live.New(s.URL + "/dashboard/")
	require.NoError(t, err)
	r := c.Check(t.Context(), g)
	require.Equal(t, s.URL, r.URL)
	return r
}

func TestCheck(t *testing.T) {
	c := config(t, traefik.Settings{})
	n := len(c.HTTP.Routers)
	router := "layover--shop--cart--version--feature-1"
	of := func(a *api, name string) object {
		for _, r := range append(a.routers, a.services...) {
			if strings.HasPrefix(r["name"].(string), name+"@") {
				return r
			}
		}
		t.Fatal(name)
		return nil
	}
	for name, tt := range map[string]struct {
		change   func(a *api)
		age      time.Duration
		problems []string // what each has in it
		notes    []string
	}{
		"good":                 {change: func(*api) {}},
		"a version of its own": {change: func(a *api) { a.version = "dev" }},
		"version 2":            {change: func(a *api) { a.version = "2.11.3" }, problems: []string{"Traefik is version 2.11.3, which does not know"}},
		"no provider": {
			change:   func(a *api) { a.routers, a.providers = nil, []string{"Docker"} },
			problems: []string{"has neither its HTTP nor its Redis provider (it has: Docker), and so none of Layover's " + strconv.Itoa(n) + " routers: start it with --providers.http.endpoint"},
		},
		"nothing of it": {change: func(a *api) { a.routers = nil }, problems: []string{"has none of Layover's"}},
		"an older one": {
			change: func(a *api) {
				of(a, "layover--shop--cart--instances--feature-1")["loadBalancer"] = object{"servers": []object{{"url": "http://10.0.0.7:80"}}}
				a.routers = append(a.routers, object{"name": "layover--shop--cart--version--gone@http", "provider": "http", "rule": "Host(`cart.test`)", "priority": 5, "status": "enabled"})
			},
			age: 3 * time.Minute,
			problems: []string{"an older configuration than Layover's, which has been the newest for 3m: it lacks the newest of 2 routers (" + router +
				", layover--shop--cart--version--feature-1--under-"},
		},
		"an older one, just now": {
			change: func(a *api) { of(a, router)["rule"] = "Host(`cart.test`)" }, age: 3 * time.Second,
			notes: []string{"newest for 3s: it lacks the newest of the router " + router},
		},
		"entry points of its own": {change: func(a *api) {
			r := of(a, router)
			r["entryPoints"] = []string{"web"}
			r["name"] = "web-" + router + "@http"
		}},
		"no such entry point": {
			change: func(a *api) {
				r := of(a, router)
				r["entryPoints"], r["status"] = []string{"nope"}, "disabled"
				r["error"] = []string{`entryPoint "nope" doesn't exist`, "no valid entryPoint for this router"}
			},
			problems: []string{`there is no entry point "nope" at Traefik, which has web, websecure, so that nothing comes to the router ` + router + " there: set gateway.traefik.entry_points"},
		},
		"refused": {
			change: func(a *api) {
				r := of(a, router)
				r["status"], r["error"] = "disabled", []string{"error while parsing rule"}
			},
			problems: []string{"Traefik does not use the router " + router + ` as given: "error while parsing rule"`},
		},
		"rules of version 2": {
			change: func(a *api) {
				for _, r := range a.routers {
					if r["provider"] == "http" {
						r["status"], r["error"] = "disabled", []string{fmt.Sprintf("error while parsing rule %s: unsupported function: HeaderRegexp", r["rule"])}
					}
				}
			},
			problems: []string{fmt.Sprintf("Traefik does not use %d routers (layover--shop----previews--http1, ", n)},
		},
		"a server that is down": {
			change: func(a *api) {
				of(a, "layover--shop--cart--instances--main")["serverStatus"] = object{"http://10.0.0.1:80": "DOWN", "http://10.0.0.3:80": "UP"}
			},
			problems: []string{"the server http://10.0.0.1:80 of the service layover--shop--cart--instances--main is DOWN"},
		},
		"two providers": {
			change: func(a *api) {
				for _, r := range append([]object{}, a.routers...) {
					if r["provider"] == "http" {
						two := maps.Clone(r)
						two["provider"], two["name"] = "redis", strings.Replace(r["name"].(string), "@http", "@redis", 1)
						a.routers = append(a.routers, two)
					}
				}
				for _, s := range append([]object{}, a.services...) {
					a.services = append(a.services, object{"name": strings.Replace(s["name"].(string), "@http", "@redis", 1), "provider": "redis", "status": "enabled", "loadBalancer": s["loadBalancer"]})
				}
			},
			problems: []string{"from several providers (http, redis)"},
		},
		"others go first": {
			change: func(a *api) {
				a.routers = append(a.routers,
					object{"name": "high@docker", "provider": "docker", "rule": "Host(`a.test`) || Host(`Cart.test`) && PathPrefix(`/x`)", "priority": 2000000, "status": "enabled", "entryPoints": []string{"web"}},
					object{"name": "all@file", "provider": "file", "rule": "PathPrefix(`/api`)", "priority": 3000000, "status": "enabled", "entryPoints": []string{"web", "websecure"}},
					object{"name": "below@file", "provider": "file", "rule": "Host(`y.cart.example`)", "priority": 1500000, "status": "enabled", "entryPoints": []string{"web"}},
					// None of these does.
					object{"name": "tls@file", "provider": "file", "rule": "Host(`cart.test`)", "priority": 2000000, "status": "enabled", "entryPoints": []string{"web"}, "tls": object{}},
					object{"name": "elsewhere@file", "provider": "file", "rule": "Host(`cart.test`)", "priority": 2000000, "status": "enabled", "entryPoints": []string{"websecure"}},
					object{"name": "off@file", "provider": "file", "rule": "Host(`cart.test`)", "priority": 2000000, "status": "disabled", "entryPoints": []string{"web"}},
					object{"name": "other@file", "provider": "file", "rule": "Host(`other.test`)", "priority": 2000000, "status": "enabled", "entryPoints": []string{"web"}},
				)
			},
			problems: []string{
				"the router all@file (provider file, priority 3000000) goes before", "the router high@docker (provider docker, priority 2000000) goes before Layover's router layover--shop--cart--default (priority 1001201) for requests to cart.test: lower its priority, take it out, or set gateway.traefik.priority above 2000000",
				"the router below@file (provider file, priority 1500000) goes before Layover's router layover--shop--cart--default--under-",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := running(c)
			tt.change(a)
			r := check(t, a, live.Given{Environment: "shop", Config: c, Age: tt.age})
			require.Len(t, r.Problems, len(tt.problems), "%q", r.Problems)
			for i, want := range tt.problems {
				require.Contains(t, r.Problems[i], want)
			}
			require.Len(t, r.Notes, len(tt.notes), "%q", r.Notes)
			for i, want := range tt.notes {
				require.Contains(t, r.Notes[i], want)
			}
			if len(tt.problems)+len(tt.notes) == 0 {
				require.True(t, r.Newest)
				require.Equal(t, n, r.Routers)
				require.Equal(t, []string{"http"}, r.Providers)
			}
		})
	}
}

// Labels that go first are as they are meant where Layover's routers run beside them.
func TestCheck_Beside(t *testing.T) {
	c := config(t, traefik.Settings{Priority: -10_000})
	r := check(t, running(c), live.Given{Environment: "shop", Config: c})
	require.Empty(t, r.Problems)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "1 routers of others go before Layover's, as gateway.traefik.priority is below zero; the first is cart@docker (priority 17), for cart.test")
}

func TestReadsAllPages(t *testing.T) {
	c := config(t, traefik.Settings{})
	a := running(c)
	for i := range 1234 {
		a.routers = append(a.routers, object{"name": fmt.Sprintf("r%d@docker", i), "provider": "docker", "rule": "Host(`x`)", "status": "enabled"})
	}
	s := httptest.NewServer(a)
	defer s.Close()
	client, err := live.New(s.URL)
	require.NoError(t, err)
	state, err := client.State(t.Context(), "layover--shop--")
	require.NoError(t, err)
	require.Len(t, state.Routers, len(a.routers))
	require.Len(t, state.Services, len(c.HTTP.Services))

	// One whose pages never end.
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "entrypoints") {
			at, _ := strconv.Atoi(r.URL.Query().Get("page"))
			w.Header().Set("X-Next-Page", strconv.Itoa(at+1))
			_, _ = w.Write([]byte("[]"))
			return
		}
		_, _ = w.Write([]byte("{}"))
	})
	require.Contains(t, check(t, endless, live.Given{Environment: "shop", Config: c}).Problems[0], "more than 1000 pages")
}

func TestAuth(t *testing.T) {
	c := config(t, traefik.Settings{})
	a := running(c)
	a.user = "ops"
	s := httptest.NewServer(a)
	defer s.Close()
	for address, want := range map[string]string{
		strings.Replace(s.URL, "http://", "http://ops:s3cret@", 1): "",
		strings.Replace(s.URL, "http://", "http://ops:wr0ng@", 1):  "lets nobody in without the right user and password (401): set LAYOVER_TRAEFIK",
		s.URL: "lets nobody in",
	} {
		client, err := live.New(address)
		require.NoError(t, err)
		require.Equal(t, s.URL, client.URL())
		r := client.Check(t.Context(), live.Given{Environment: "shop", Config: c})
		text := fmt.Sprintf("%+v", r)
		require.NotContains(t, text, "s3cret")
		require.NotContains(t, text, "wr0ng")
		if want == "" {
			require.Empty(t, r.Problems)
			continue
		}
		require.Len(t, r.Problems, 1)
		require.Contains(t, r.Problems[0], want)
	}
}

func TestWhatIsNoTraefik(t *testing.T) {
	for _, bad := range []string{"", "traefik:8080", "ftp://x", "http://", "http://u:s3cret@x:y:z/", "http://x/?a=b"} {
		_, err := live.New(bad)
		require.ErrorIs(t, err, live.ErrURL, bad)
	}
	given := live.Given{Environment: "shop", Config: config(t, traefik.Settings{})}
	for want, handler := range map[string]http.HandlerFunc{
		"there is no API of Traefik at": http.NotFound,
		"sends on to https://elsewhere.test (302)": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.test/secret-path", http.StatusFound)
		},
		`answers 502: "Bad Gateway\n"`:                          func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Bad Gateway", http.StatusBadGateway) },
		"answers with something else than Traefik's API does: ": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"is longer than 32 MiB": func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
	} {
		r := check(t, handler, given)
		require.Len(t, r.Problems, 1)
		require.Contains(t, r.Problems[0], want)
		require.NotContains(t, r.Problems[0], "secret-path")
	}
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	client, err := live.New(strings.Replace(s.URL, "http://", "http://u:s3cret@", 1))
	require.NoError(t, err)
	r := client.Check(context.Background(), given)
	require.Contains(t, r.Problems[0], "there is no answer of Traefik's API at "+s.URL)
	require.NotContains(t, r.Problems[0], "s3cret")
}
