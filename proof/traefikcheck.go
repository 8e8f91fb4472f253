package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/gateway/traefik/live"
	"github.com/layover-dev/layover/internal/route"
)

// checkedTraefik is a real Traefik whose API is asked.
type checkedTraefik struct {
	*agreeScene
	api      string // URL
	private  string // address of an entry point that has nothing of Layover's
	problems int    // that were told as they should be
	silences int    // that were none, and none was told
}

// proveTraefikCheck has the real Traefik in good order and in bad, and looks for what is told of each.
func proveTraefikCheck(ctx context.Context) (result, error) {
	total := checkedTraefik{}
	for _, part := range []func(context.Context, *checkedTraefik) error{checkHTTP, checkRedis, checkOldSyntax, checkNoProvider} {
		c := &checkedTraefik{}
		err := part(ctx, c)
		if c.agreeScene != nil {
			c.stop()
		}
		if err != nil {
			return result{}, err
		}
		total.problems += c.problems
		total.silences += c.silences
	}
	return result{
		figure: fmt.Sprintf("%d things that were wrong, each told with what to do; %d times nothing was wrong, and nothing was told", total.problems, total.silences),
		bar:    "each told, and nothing else",
		ok:     total.problems >= 6 && total.silences >= 4,
	}, nil
}

// start starts a Traefik with an API. Two entry points make it give each router a name for each.
func (c *checkedTraefik) start(ctx context.Context, provider string, more ...string) (err error) {
	address, args, err := withAPI()
	if err != nil {
		return err
	}
	c.api = "http://" + address
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.private = l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	args = append(args, "--entrypoints.private.address="+c.private, "--entrypoints.web.asdefault=true", "--entrypoints.second.asdefault=true")
	c.agreeScene, err = newAgreeScene(ctx, traefik.Full, provider, agreeSpec(false), append(args, more...)...)
	return err
}

func withAPI() (address string, args []string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = l.Close() }()
	address = l.Addr().String()
	return address, []string{"--api.insecure=true", "--entrypoints.traefik.address=" + address, "--entrypoints.second.address=127.0.0.1:0"}, nil
}

// says waits until what is told of a configuration is one problem or note that has all of some texts in it; nothing, where there
// are none.
func (c *checkedTraefik) says(ctx context.Context, what, url string, g live.Given, parts ...string) error {
	client, err := live.New(url)
	if err != nil {
		return err
	}
	var last live.Report
	err = waitFor(ctx, what, func() bool {
		last = client.Check(ctx, g)
		said := append(last.Problems, last.Notes...)
		if len(parts) == 0 {
			return len(said) == 0 && last.Newest
		}
		for _, part := range parts {
			if len(said) != 1 || !strings.Contains(said[0], part) {
				return false
			}
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("%w; it says: %+v", err, last)
	}
	if len(parts) == 0 {
		c.silences++
		fmt.Printf("  %-34s nothing, of %d routers of Traefik %s\n", what, last.Routers, last.Version)
		return nil
	}
	c.problems++
	fmt.Printf("  %-34s %s\n", what, append(last.Problems, last.Notes...)[0])
	return nil
}

func (c *checkedTraefik) given(config *traefik.Config) live.Given {
	return live.Given{Environment: "shop", Config: config, Age: time.Minute}
}

// built is a configuration with other settings.
func (c *checkedTraefik) built(s traefik.Settings) (*traefik.Config, error) {
	s.Mode, s.Proxies = traefik.Full, []string{"http://" + c.fallBack}
	return traefik.Build(c.table, s)
}

func checkHTTP(ctx context.Context, c *checkedTraefik) error {
	if err := c.start(ctx, "http"); err != nil {
		return err
	}
	if err := c.says(ctx, "in good order", c.api, c.given(c.config)); err != nil {
		return err
	}
	if err := c.odd(ctx); err != nil {
		return err
	}
	for _, bad := range []struct {
		what     string
		settings traefik.Settings
		given    bool // Traefik gets it
		parts    []string
	}{
		{"an older configuration", traefik.Settings{Priority: 7_000_000}, false, []string{"an older configuration than Layover's, which has been the newest for 1m: it lacks the newest of"}},
		{"an entry point that is not there", traefik.Settings{EntryPoints: []string{"nope"}}, true, []string{`there is no entry point "nope" at Traefik, which has`, "set gateway.traefik.entry_points"}},
		{"beside labels", traefik.Settings{Priority: -10_000}, true, []string{"1 routers of others go before Layover's", "the first is old@file (priority 22), for cart.localhost"}},
	} {
		config, err := c.built(bad.settings)
		if err != nil {
			return err
		}
		if bad.given {
			if err := c.offer(config); err != nil {
				return err
			}
		}
		if err := c.says(ctx, bad.what, c.api, c.given(config), bad.parts...); err != nil {
			return err
		}
	}
	if err := c.offer(c.config); err != nil {
		return err
	}
	if err := c.says(ctx, "mended", c.api, c.given(c.config)); err != nil {
		return err
	}
	// A label that goes first, and an API for those alone who know the password.
	sum := sha1.Sum([]byte("s3cret"))
	text := `http:
  routers:
    old: {rule: 'Host(` + "`cart.localhost`" + `)', service: api@internal, priority: 2000000}
    api: {rule: 'PathPrefix(` + "`/api`" + `)', service: api@internal, entryPoints: [private], middlewares: [known]}
  middlewares: {known: {basicAuth: {users: ['ops:{SHA}` + base64.StdEncoding.EncodeToString(sum[:]) + `']}}}
`
	if err := os.WriteFile(c.labels, []byte(text), 0o600); err != nil {
		return err
	}
	if err := c.says(ctx, "a label that goes first", c.api, c.given(c.config), "the router", "old@file", "priority 2000000) goes before Layover's router", "set gateway.traefik.priority above 2000000"); err != nil {
		return err
	}
	if err := os.WriteFile(c.labels, []byte(strings.Replace(text, "2000000", "9", 1)), 0o600); err != nil {
		return err
	}
	if err := c.says(ctx, "without the password", "http://"+c.private, c.given(c.config), "lets nobody in without the right user and password (401)"); err != nil {
		return err
	}
	return c.says(ctx, "with the password", "http://ops:s3cret@"+c.private, c.given(c.config))
}

// odd holds that the limit is one: Traefik does not route by fields that are for one hop, and Layover does; and that a wish for
// another HTTP comes to the proxy.
func (c *checkedTraefik) odd(ctx context.Context) error {
	r := &route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route=feature-1"}}
	for address, want := range map[string]string{c.address: "cart@main", c.fallBack: "cart@feature-1"} {
		a, err := c.sendTo(ctx, address, "close, baggage", r)
		if err != nil {
			return err
		}
		if a.instance != want {
			return fmt.Errorf("a request whose Connection names baggage was answered by %q, not by %s", a.instance, want)
		}
	}
	for upgrade, proxied := range map[string]bool{"h2c": true, "other": false} {
		a, err := c.sendTo(ctx, c.address, "close, Upgrade\r\nUpgrade: "+upgrade, r)
		if err != nil {
			return err
		}
		if a.instance != "cart@feature-1" || a.byProxy != proxied {
			return fmt.Errorf("a request with Upgrade: %s was answered by %q, by way of Layover's proxy: %t", upgrade, a.instance, a.byProxy)
		}
	}
	return nil
}

func checkRedis(ctx context.Context, c *checkedTraefik) error {
	if err := c.start(ctx, "redis"); err != nil {
		return err
	}
	return c.says(ctx, "in good order, from Redis", c.api, c.given(c.config))
}

// checkOldSyntax has a Traefik that reads rules as version 2 does: it takes none of Layover's.
func checkOldSyntax(ctx context.Context, c *checkedTraefik) error {
	good := &checkedTraefik{agreeScene: &agreeScene{fallBack: "127.0.0.1:1"}}
	defer good.stop()
	var err error
	if good.table, err = route.Compile(route.Spec{Environment: "shop", Services: []route.Service{{Name: "cart", Hosts: []string{"cart.localhost"}}}}); err != nil {
		return err
	}
	if good.config, err = good.built(traefik.Settings{}); err != nil {
		return err
	}
	if err := good.offer(good.config); err != nil {
		return err
	}
	address, args, err := withAPI()
	if err != nil {
		return err
	}
	endpoint, err := good.serveOffered()
	if err != nil {
		return err
	}
	process, _, err := harness.StartTraefik(ctx, append(args, "--providers.http.endpoint="+endpoint, "--core.defaultrulesyntax=v2")...)
	if err != nil {
		return err
	}
	defer process.Stop()
	err = c.says(ctx, "rules of version 2", "http://"+address, good.given(good.config), "Traefik does not use", "as given", "HeaderRegexp", "take core.defaultRuleSyntax out")
	if err != nil {
		return fmt.Errorf("%w; Traefik said: %s", err, process.Said())
	}
	return nil
}

func checkNoProvider(ctx context.Context, c *checkedTraefik) error {
	address, args, err := withAPI()
	if err != nil {
		return err
	}
	process, _, err := harness.StartTraefik(ctx, args...)
	if err != nil {
		return err
	}
	defer process.Stop()
	scene := &checkedTraefik{agreeScene: &agreeScene{fallBack: "127.0.0.1:1"}}
	if scene.table, err = route.Compile(agreeSpec(false)); err != nil {
		return err
	}
	config, err := scene.built(traefik.Settings{})
	if err != nil {
		return err
	}
	return c.says(ctx, "no provider", "http://"+address, scene.given(config), "has neither its HTTP nor its Redis provider", "start it with --providers.http.endpoint=")
}
