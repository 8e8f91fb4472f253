package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/examples/shop"
)

// shopLoad asks the storefront, through Traefik, and looks at each hop of the answers.
type shopLoad struct {
	client *http.Client
	routed atomic.Bool // every other request has a route

	mu     sync.Mutex
	least  map[string]int // the build that must answer, or a later one; by version
	sum    shopCounts
	faults []string // the first ones
}

type shopCounts struct{ sent, routed, failed, wrong int }

const shopRate = 16 // requests a second, each with five calls behind it

func newShopLoad(address string) *shopLoad {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	return &shopLoad{
		client: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}, Timeout: time.Minute},
		least:  map[string]int{},
	}
}

// run sends requests at their times, whatever becomes of those before, until ctx ends; it waits for all answers.
func (l *shopLoad) run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	tick := time.NewTicker(time.Second / shopRate)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var baggage []string
		var chosen map[string]string
		if n%2 == 1 && l.routed.Load() {
			baggage = []string{"sentry-environment=dev,dynamic_route=" + shopFeature + ",user=42"}
			chosen = map[string]string{shop.Cart: shopFeature, shop.Pricing: shopFeature}
		}
		group.Go(func() { l.count(baggage != nil, l.expect(context.WithoutCancel(ctx), baggage, chosen)) })
	}
}

func (l *shopLoad) count(routed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.sent++
	if routed {
		l.sum.routed++
	}
	if err == nil {
		return
	}
	if _, ok := errors.AsType[*wrongError](err); ok {
		l.sum.wrong++
	} else {
		l.sum.failed++
	}
	if len(l.faults) < 10 {
		l.faults = append(l.faults, fmt.Sprintf("%s routed %v: %v", time.Now().Format(time.TimeOnly), routed, err))
	}
}

func (l *shopLoad) total() shopCounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// since says what became of the requests since then; it is an error where one was lost.
func (l *shopLoad) since(before shopCounts) (string, error) {
	now := l.total()
	said := fmt.Sprintf("%d requests meanwhile, %d failed, %d wrong", now.sent-before.sent, now.failed-before.failed, now.wrong-before.wrong)
	if now.failed+now.wrong > before.failed+before.wrong {
		return "", errors.New(said)
	}
	return said, nil
}

// atLeast has answers of a version that are asked for from now on be of a build, or a later one.
func (l *shopLoad) atLeast(version string, build int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.least[version] = build
}

// shopAnswer is what came back of the storefront.
type shopAnswer struct {
	shop.Answer
	status int
	routed string // what the answer says of itself
	code   string // of a problem of Layover's own
	text   string
}

func (a shopAnswer) problem() error {
	if a.status == http.StatusOK {
		return nil
	}
	return fmt.Errorf("status %d: %s", a.status, cmp.Or(a.Error, firstLine(a.text)))
}

// builds are the numbers of the builds that took part, by version.
func (a shopAnswer) builds() map[string]int {
	out := map[string]int{}
	var add func(shop.Answer)
	add = func(a shop.Answer) {
		out[a.ServedBy] = buildOf(a.Build)
		for _, c := range a.Calls {
			add(c)
		}
	}
	add(a.Answer)
	return out
}

// ask asks the storefront.
func (l *shopLoad) ask(ctx context.Context, baggage []string) (shopAnswer, error) {
	a, err := l.get(ctx, "http://storefront."+shopDomain+"/api/products", baggage)
	if err == nil {
		err = json.Unmarshal([]byte(a.text), &a.Answer)
	}
	if err != nil && a.status != http.StatusOK && a.status != 0 {
		return a, nil // a problem has another form
	}
	return a, err
}

func (l *shopLoad) get(ctx context.Context, url string, baggage []string) (shopAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return shopAnswer{}, err
	}
	for _, line := range baggage {
		req.Header.Add("Baggage", line)
	}
	res, err := l.client.Do(req)
	if err != nil {
		return shopAnswer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return shopAnswer{status: res.StatusCode, routed: res.Header.Get("Layover-Served-By"), code: res.Header.Get("Layover-Error"), text: string(text)}, err
}

// expect asks the storefront, and holds that each hop was answered by the version that was chosen for it, or by main.
func (l *shopLoad) expect(ctx context.Context, baggage []string, chosen map[string]string) error {
	l.mu.Lock()
	least := maps.Clone(l.least)
	l.mu.Unlock()
	a, err := l.ask(ctx, baggage)
	if err != nil {
		return err
	}
	if err := a.problem(); err != nil {
		return err
	}
	var want []string
	for _, service := range []string{shop.Storefront, shop.Cart, shop.Pricing, shop.Inventory, shop.Recommendations, shop.Inventory} {
		version := chosen[service]
		if version == "" {
			version = "main"
		}
		want = append(want, service+"@"+version)
	}
	if got := a.Hops(); !slices.Equal(got, want) {
		return &wrongError{fmt.Sprintf("%v instead of %v", got, want)}
	}
	a.Routed = a.routed
	if err := sameWord(a.Answer, len(baggage) > 0 && strings.Contains(strings.Join(baggage, ","), "dynamic_route=")); err != nil {
		return err
	}
	for version, build := range a.builds() {
		if build < least[version] {
			return &wrongError{fmt.Sprintf("build %d of %s instead of %d", build, version, least[version])}
		}
	}
	return nil
}

// sameWord holds that the gateway said of each hop what the instance said, and by which route.
func sameWord(a shop.Answer, routed bool) error {
	id, rest, _ := strings.Cut(a.Routed, ";")
	if id != a.ServedBy || strings.Contains(rest, "route=") != routed {
		return &wrongError{fmt.Sprintf("%s, of which the gateway said %q", a.ServedBy, a.Routed)}
	}
	for _, c := range a.Calls {
		if err := sameWord(c, routed); err != nil {
			return err
		}
	}
	return nil
}

// refused holds that a version is not answered for by any other: asked for itself, and three hops away.
func (l *shopLoad) refused(ctx context.Context, service, version, code string) error {
	baggage := []string{"dynamic_route=" + version}
	path := map[string]string{shop.Pricing: "/prices", shop.Recommendations: "/recommendations"}[service]
	var direct, far shopAnswer
	var directErr, farErr error
	var group sync.WaitGroup
	group.Go(func() { direct, directErr = l.get(ctx, "http://"+service+"."+shopDomain+path, baggage) })
	group.Go(func() { far, farErr = l.ask(ctx, baggage) })
	group.Wait()
	if err := errors.Join(directErr, farErr); err != nil {
		return err
	}
	if direct.status != http.StatusServiceUnavailable || direct.code != code {
		return &wrongError{fmt.Sprintf("%d %q by %q, instead of %s: %s", direct.status, direct.code, direct.routed, code, direct.text)}
	}
	if far.status == http.StatusOK || far.Served(service+"@main") {
		return &wrongError{fmt.Sprintf("%v, though %s@%s is not ready", far.Hops(), service, version)}
	}
	return nil
}
