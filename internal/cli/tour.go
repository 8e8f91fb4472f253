package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/examples/shop"
)

// tour makes the requests of `layover demo --once`, and checks every answer.
type tour struct {
	app    *App
	env    *environment
	client *api.Client
	http   *http.Client
	asked  int
	wrong  []string
}

// stop is one request of the tour, and what its answer has to be.
type stop struct {
	what     string
	host     string            // of the storefront unless told
	header   map[string]string // besides Host
	status   int               // 200 unless told
	pricing  string            // the version of pricing that has to answer, with all others at main
	servedBy string            // what Layover-Served-By has to contain
}

const storefrontHost = shop.Storefront + ".localhost"

func (t *tour) run(ctx context.Context) error {
	proxy, err := url.Parse(t.env.proxyURL())
	if err != nil {
		return err
	}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, proxy.Host) // whatever DNS says
	}
	t.http = &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: demoTimeout}
	defer t.http.CloseIdleConnections()

	t.app.printf("\none URL, and the version that the request asks for:\n")
	for _, s := range []stop{
		{what: "no route: everything answers with main", pricing: "main", servedBy: "by=default"},
		{
			what: "pricing has a feature-1, the others have not", pricing: "feature-1",
			header: map[string]string{"baggage": t.member("feature-1")}, servedBy: "fallback=default",
		},
		{
			what: "the member is found among others", pricing: "feature-1",
			header: map[string]string{"baggage": "userId=alice;vip, x=y, " + t.member("feature-1") + ";p=1"}, servedBy: "by=baggage",
		},
		{
			what: "a pick for one service only", pricing: "feature-1",
			header: map[string]string{"baggage": t.member("pricing%40feature-1")}, servedBy: "fallback=default",
		},
		{
			what: "a preview host: no header needed", pricing: "feature-1",
			host: "feature-1--" + storefrontHost, servedBy: "by=preview",
		},
		{
			what: "a cookie: no header needed", pricing: "feature-1",
			header: map[string]string{"Cookie": "layover_route=feature-1"}, servedBy: "by=cookie",
		},
		{
			what: "nobody knows nope: main answers, and says so", pricing: "main",
			header: map[string]string{"baggage": t.member("nope")}, servedBy: "fallback=unknown",
		},
		{
			what: "a strict route is refused instead", status: http.StatusMisdirectedRequest,
			header: map[string]string{"baggage": t.member("nope!")},
		},
		{what: "an unknown host is no open proxy", host: "example.test", status: http.StatusNotFound},
	} {
		t.visit(ctx, s)
	}
	if err := t.third(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(t.wrong) > 0 {
		return fmt.Errorf("%d of %d answers were wrong:\n  %s", len(t.wrong), t.asked, strings.Join(t.wrong, "\n  "))
	}
	t.app.printf("\n%s all %d answers were right\n", t.app.green("✓"), t.asked)
	return nil
}

// member is the baggage member that carries a route, as it is written.
func (t *tour) member(route string) string { return t.env.file.BaggageKey + "=" + route }

// third deploys a third version, sees it answer, stops it, and sees it gone.
func (t *tour) third(ctx context.Context) error {
	t.app.printf("\na third version, deployed and stopped again:\n\n$ layover deploy pricing@try-1 --env PRICING_DISCOUNT=50\n")
	began := time.Now()
	v, err := t.client.Deploy(ctx, shop.Pricing, "try-1", api.Deployment{
		Overrides: api.Overrides{Env: map[string]string{"PRICING_DISCOUNT": "50"}},
		Owner:     t.app.user(), Source: "cli",
	})
	if err != nil {
		return err
	}
	if _, err := waitDeploy(ctx, t.app, t.client, v); err != nil {
		return err
	}
	t.app.printf("pricing@try-1 is up after %s\n", roundDuration(time.Since(began)))
	try := stop{
		what: "the new version answers", pricing: "try-1",
		header: map[string]string{"baggage": t.member("try-1")}, servedBy: "fallback=default",
	}
	t.visit(ctx, try)

	t.app.printf("\n$ layover explain http://pricing.localhost/ --route try-1\n")
	if err := runExplainWith(ctx, t.app, t.client, api.ExplainRequest{URL: "http://pricing.localhost/", Route: "try-1"}); err != nil {
		return err
	}

	t.app.printf("\n$ layover stop pricing@try-1\n")
	if _, err := t.client.Stop(ctx, shop.Pricing, "try-1", ""); err != nil {
		return err
	}
	err = poll(ctx, func() (bool, error) {
		v, err := t.client.Version(ctx, shop.Pricing, "try-1")
		return v.State == api.StateStopped, err
	})
	if err != nil {
		return err
	}
	t.app.printf("pricing@try-1 is stopped\n")
	try.what, try.pricing, try.servedBy = "stopped: main answers again, and says so", "main", "fallback=unknown"
	t.visit(ctx, try)
	return nil
}

// visit makes one request, prints who answered on each hop, and notes what is wrong.
func (t *tour) visit(ctx context.Context, s stop) {
	t.asked++
	if s.host == "" {
		s.host = storefrontHost
	}
	if s.status == 0 {
		s.status = http.StatusOK
	}
	t.app.printf("\n%s\n  GET http://%s/api/products", t.app.bold(s.what), s.host)
	for name, value := range s.header {
		t.app.printf("   %s: %s", name, value)
	}
	t.app.printf("\n")
	if problem := t.ask(ctx, s); problem != "" {
		t.app.printf("  %s %s\n", t.app.red("✗"), problem)
		t.wrong = append(t.wrong, s.what+": "+problem)
	}
}

// ask returns what is wrong with the answer, or "".
func (t *tour) ask(ctx context.Context, s stop) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.host+"/api/products", nil)
	if err != nil {
		return err.Error()
	}
	for name, value := range s.header {
		req.Header.Set(name, value)
	}
	res, err := t.http.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err.Error()
	}
	if res.StatusCode != s.status {
		return fmt.Sprintf("answered %d instead of %d: %s", res.StatusCode, s.status, firstLine(string(body)))
	}
	if s.pricing == "" {
		var problem struct{ Title, Detail string }
		_ = json.Unmarshal(body, &problem) // an answer that is no problem shows as an empty one
		t.app.printf("  %d %s: %s\n", res.StatusCode, problem.Title, problem.Detail)
		if problem.Detail == "" {
			return "the answer does not say what is wrong"
		}
		return ""
	}
	var answer shop.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Sprintf("the answer cannot be read: %v", err)
	}
	answer.Routed = res.Header.Get("Layover-Served-By")
	t.printHops(answer, 1)
	return checkHops(answer, s)
}

func (t *tour) printHops(a shop.Answer, depth int) {
	t.app.printf("  %s%-*s %s\n", strings.Repeat("  ", depth), 34-2*depth, a.ServedBy, t.app.faint(a.Routed))
	for _, call := range a.Calls {
		t.printHops(call, depth+1)
	}
}

// checkHops says what is wrong with who answered, or "".
func checkHops(a shop.Answer, s stop) string {
	hops := a.Hops()
	for _, service := range shop.Services() {
		want := service + "@main"
		if service == shop.Pricing {
			want = service + "@" + s.pricing
		}
		if !slices.Contains(hops, want) {
			return fmt.Sprintf("%s did not answer; %s did", want, strings.Join(hops, ", "))
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(hops)))) != len(shop.Services()) {
		return fmt.Sprintf("a service answered in two versions: %s", strings.Join(hops, ", "))
	}
	if !strings.Contains(a.Routed, s.servedBy) {
		return fmt.Sprintf("Layover-Served-By is %q, without %q", a.Routed, s.servedBy)
	}
	return ""
}
