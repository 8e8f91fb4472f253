package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/layover-dev/layover/examples/shop"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// proveECSShop has the shop run on the fake of ECS, behind the real Traefik, as a company has it that knows nothing of
// Layover. Then Layover comes, does all that it does, and goes; requests come all the while.
func proveECSShop(ctx context.Context) (result, error) {
	began := time.Now()
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	p := &shopOnECS{environment: e}
	defer p.close()
	if err := p.company(ctx); err != nil {
		return result{}, fmt.Errorf("set up the shop on ECS: %w", err)
	}
	if err := p.configure(ctx); err != nil {
		return result{}, err
	}
	p.load = newShopLoad(p.traefik)
	loading, endLoad := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer endLoad()
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"ecs check, as the server", p.check},
		{"adopt main", p.adopt},
		{"", func(context.Context) (string, error) { group.Go(func() { p.load.run(loading) }); return "", nil }},
		{"deploy, and route over three hops", p.deploy},
		{"replace, twice each", p.replace},
		{"logs", p.logs},
		{"sleep, and wake by a request", p.sleepAndWake},
		{"not ready: never main", p.notReady},
		{"main, deployed past Layover", p.mainDeployed},
		{"remove all versions", p.remove},
		{"Layover ends", p.layoverEnds},
	}
	held, all := 0, 0
	for _, s := range steps {
		stepBegan := time.Now()
		said, err := s.do(ctx)
		switch {
		case ctx.Err() != nil:
			return result{}, ctx.Err()
		case s.name == "":
			continue
		case err == nil:
			held++
		default:
			said = "BROKEN: " + err.Error()
		}
		all++
		fmt.Printf("  %-34s %6.2f s  %s\n", s.name, time.Since(stepBegan).Seconds(), said)
	}
	endLoad()
	group.Wait()
	for _, fault := range p.load.faults {
		fmt.Println("  fault:", fault)
	}
	if held < all {
		fmt.Println("  layover said:\n" + lastLines(p.upSaid, 40))
	}
	left := len(p.cloud.Leftovers("layover-"))
	p.close()
	left += len(p.runner.Processes())
	sum := p.load.total()
	return result{
		figure: fmt.Sprintf("%d of %d steps held in %.0f s; %d requests for the storefront, %d of them with a route: %d failed, %d answered by a wrong version; %d left behind",
			held, all, time.Since(began).Seconds(), sum.sent, sum.routed, sum.failed, sum.wrong, left),
		bar: fmt.Sprintf("%d steps, 0 failed, 0 wrong, 0 left", all),
		ok:  held == all && sum.failed+sum.wrong+left == 0 && sum.routed > 100,
	}, nil
}

// shopOnECS is a company's cluster with the shop in it, the Traefik in front, and Layover beside them.
type shopOnECS struct {
	*environment
	cloud   *ecstest.Cloud
	runner  *ecstest.ProcessRunner
	client  *ecs.Client // of the company
	queue   string
	traefik string // its address
	load    *shopLoad
	upSaid  *lockedBuffer
	ending  []func()

	untouched string // what the company's ECS services are
	config    []byte // of Traefik, while main is as it was
	builds    map[string]int
}

func (p *shopOnECS) close() {
	_ = p.end()
	for _, end := range slices.Backward(p.ending) {
		end()
	}
	p.ending = nil
}

// check is `layover ecs check` with the credentials of the server.
func (p *shopOnECS) check(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, p.binary, "ecs", "check", "-f", p.file())
	cmd.Env = append(os.Environ(), p.variables...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return fmt.Sprintf("%d things are right", strings.Count(string(out), "✓")), nil
}

// adopt starts Layover, which adopts main.
func (p *shopOnECS) adopt(ctx context.Context) (said string, err error) {
	if p.untouched, err = p.mains(ctx); err != nil {
		return "", err
	}
	err = p.start(ctx)
	p.upSaid = p.said
	if err == nil {
		err = p.allRun(ctx)
	}
	if err != nil {
		return "", err
	}
	if err := p.byItself(ctx); err != nil {
		return "", err
	}
	plain, err := p.plainCalls(ctx, 20)
	if err == nil && plain > 0 {
		err = fmt.Errorf("%d calls without a route went by way of Layover's proxy", plain)
	}
	if err != nil {
		return "", err
	}
	if p.config, err = p.traefikConfig(ctx); err != nil {
		return "", err
	}
	return "5 ECS services as they were; 20 requests with 5 calls each answered by Traefik alone", p.stillUntouched(ctx)
}

// byItself waits until Traefik answers with main by itself. What is not ready is asked for by way of Layover's proxy,
// which waits for it.
func (p *shopOnECS) byItself(ctx context.Context) error {
	var last error
	return until(ctx, time.Minute, func() (bool, error) {
		plain, err := p.plainCalls(ctx, 1)
		last = err
		return err == nil && plain == 0, nil
	}, func() string { return fmt.Sprintf("Traefik does not answer with main by itself: %v", last) })
}

// plainCalls asks the storefront, and says how many calls without a route Layover's proxy saw meanwhile.
func (p *shopOnECS) plainCalls(ctx context.Context, requests int) (int, error) {
	before, _, err := p.throughProxy()
	if err != nil {
		return 0, err
	}
	for range requests {
		if err := p.load.expect(ctx, nil, nil); err != nil {
			return 0, err
		}
	}
	// The log is written in batches: a call with a route is the last of this one.
	_, last, err := p.throughProxy()
	if err != nil {
		return 0, err
	}
	if err := p.load.expect(ctx, []string{"dynamic_route=nobody"}, nil); err != nil {
		return 0, err
	}
	err = until(ctx, time.Minute, func() (bool, error) {
		_, now, err := p.throughProxy()
		return now >= last+6, err
	}, func() string { return "the access log of Layover's proxy has no request with a route" })
	after, _, logErr := p.throughProxy()
	return after - before, errors.Join(err, logErr)
}

// deploy runs three versions beside main: a task, an ECS service, and one that speaks gRPC.
func (p *shopOnECS) deploy(ctx context.Context) (string, error) {
	var times strings.Builder
	for _, v := range [][2]string{{"cart@" + shopFeature, "shop/cart:feature-1"}, {"pricing@" + shopFeature, "shop/pricing:feature-1"}, {"inventory@pr-88", "shop/inventory:pr-88"}} {
		began := time.Now()
		if _, err := p.cli(ctx, "deploy", v[0], "--image", v[1]); err != nil {
			return "", err
		}
		fmt.Fprintf(&times, ", %s after %.1f s", v[0], time.Since(began).Seconds())
	}
	p.builds = map[string]int{shop.Cart: 1, shop.Pricing: 1}
	feature := map[string]string{shop.Cart: shopFeature, shop.Pricing: shopFeature}
	for _, c := range []struct {
		baggage []string
		chosen  map[string]string
	}{
		{nil, nil},
		{[]string{"dynamic_route=" + shopFeature}, feature},
		{[]string{"sentry-environment=dev,sentry-trace_id=771a43a4192642f0b136d5159a501700, dynamic_route=" + shopFeature + " ,user=42;tier=gold"}, feature},
		{[]string{"sentry-release=1.2.3", "dynamic_route=" + shopFeature + ";source=qa"}, feature},
		{[]string{"dynamic_route=feature%2D2981"}, feature},
		{[]string{"dynamic_route=pr-88"}, map[string]string{shop.Inventory: "pr-88"}},
		{[]string{"dynamic_route=" + shopFeature + "~pr-88"}, map[string]string{shop.Cart: shopFeature, shop.Pricing: shopFeature, shop.Inventory: "pr-88"}},
		{[]string{"sentry-environment=" + shopFeature}, nil},
	} {
		for range 3 {
			if err := p.load.expect(ctx, c.baggage, c.chosen); err != nil {
				return "", fmt.Errorf("baggage %q: %w", c.baggage, err)
			}
		}
	}
	if err := p.sameConfig(ctx); err != nil {
		return "", err
	}
	p.load.routed.Store(true)
	return "8 kinds of baggage" + times.String(), p.stillUntouched(ctx)
}

// replace deploys other builds over both versions, while requests come.
func (p *shopOnECS) replace(ctx context.Context) (string, error) {
	before := p.load.total()
	for build := 2; build <= 3; build++ {
		for _, service := range []string{shop.Cart, shop.Pricing} {
			if _, err := p.cli(ctx, "deploy", service+"@"+shopFeature, "--image", fmt.Sprintf("shop/%s:feature-%d", service, build)); err != nil {
				return "", err
			}
			p.load.atLeast(service+"@"+shopFeature, build)
		}
	}
	if err := p.settled(ctx); err != nil {
		return "", err
	}
	return p.load.since(before)
}

// settled waits until what was replaced is gone from ECS: a definition for each version is left.
func (p *shopOnECS) settled(ctx context.Context) error {
	var left []string
	return until(ctx, time.Minute, func() (bool, error) {
		left = slices.DeleteFunc(p.cloud.Leftovers("layover-"), func(what string) bool { return !strings.HasPrefix(what, "definition ") })
		return len(left) == 3, nil
	}, func() string { return "of three versions there is left: " + strings.Join(left, ", ") })
}

// logs reads the log of a version, and sees in one that is followed the lines of a request.
func (p *shopOnECS) logs(ctx context.Context) (string, error) {
	following, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(following, p.binary, "logs", "cart@"+shopFeature, "-f")
	cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+p.serverURL)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() { cancel(); _ = cmd.Wait() }() // it was ended
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			select {
			case lines <- in.Text():
			case <-following.Done():
			}
		}
	}()
	a, err := p.load.ask(ctx, []string{"dynamic_route=" + shopFeature})
	if err != nil {
		return "", err
	}
	began := time.Now()
	mark := "trace_id=" + a.TraceID
	for limit := time.After(20 * time.Second); ; {
		select {
		case line, ok := <-lines:
			if !ok {
				return "", errors.New("`layover logs -f` ended")
			}
			if !strings.Contains(line, mark) {
				continue
			}
		case <-limit:
			return "", fmt.Errorf("no line with %s came in what is followed", mark)
		}
		break
	}
	waited := time.Since(began)
	for service, wanted := range map[string]string{
		shop.Cart:      `msg=listening service=cart version=feature-2981`,
		shop.Pricing:   `msg=request service=pricing version=feature-2981 trace`,
		shop.Inventory: `msg=request service=inventory version=pr-88`,
	} {
		of := service + "@" + shopFeature
		if service == shop.Inventory {
			of = service + "@pr-88"
		}
		text, err := p.cli(ctx, "logs", of)
		if wanted = strings.TrimSuffix(wanted, " trace"); err == nil && !strings.Contains(text, wanted) {
			err = fmt.Errorf("the log of %s has no %q: %s", of, wanted, text)
		}
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("of a task, an ECS service and gRPC; a followed line came %.1f s after its answer", waited.Seconds()), nil
}

// sleepAndWake has both kinds of versions sleep, and many requests at once wake them.
func (p *shopOnECS) sleepAndWake(ctx context.Context) (string, error) {
	p.load.routed.Store(false)
	for _, service := range []string{shop.Cart, shop.Pricing} {
		if _, err := p.cli(ctx, "sleep", service+"@"+shopFeature); err != nil {
			return "", err
		}
	}
	var left []string
	if err := until(ctx, time.Minute, func() (bool, error) {
		left = slices.DeleteFunc(p.cloud.Leftovers("layover-"), func(what string) bool { return !strings.Contains(what, shopFeature) })
		for _, t := range p.cloud.Tasks(ecsCluster) {
			if t.Tags["layover:version"] == shopFeature && t.Status != "STOPPED" {
				left = append(left, "task "+t.ARN)
			}
		}
		return len(left) == 0, nil
	}, func() string { return "of versions that sleep there is in ECS: " + strings.Join(left, ", ") }); err != nil {
		return "", err
	}
	if err := p.load.expect(ctx, nil, nil); err != nil {
		return "", err
	}
	before, began := p.cloud.Calls(), time.Now()
	errs := make([]error, 20)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			errs[i] = p.load.expect(ctx, []string{"dynamic_route=" + shopFeature}, map[string]string{shop.Cart: shopFeature, shop.Pricing: shopFeature})
		})
	}
	group.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	after := p.cloud.Calls()
	tasks, services := after["ecs:RunTask"]-before["ecs:RunTask"], after["ecs:CreateService"]-before["ecs:CreateService"]
	if tasks != 1 || services != 1 {
		return "", fmt.Errorf("20 requests at once ran %d tasks and %d ECS services, and one each was to wake", tasks, services)
	}
	p.load.routed.Store(true)
	return fmt.Sprintf("nothing ran; 20 requests at once woke the cart's task and pricing's ECS service, one after the other, and were answered by them after %.1f s", took.Seconds()), nil
}

// notReady asks for versions that start, that never come up, and whose image is not there.
func (p *shopOnECS) notReady(ctx context.Context) (string, error) {
	if _, err := p.cli(ctx, "deploy", "pricing@slow", "--image", "shop/pricing:feature-1", "--env", "SHOP_START_DELAY=9s", "--no-wait"); err != nil {
		return "", err
	}
	if err := p.load.refused(ctx, shop.Pricing, "slow", "version-not-ready"); err != nil {
		return "", err
	}
	if err := until(ctx, 40*time.Second, func() (bool, error) {
		err := p.load.expect(ctx, []string{"dynamic_route=slow"}, map[string]string{shop.Pricing: "slow"})
		if _, wrong := errors.AsType[*wrongError](err); wrong {
			return false, err
		}
		return err == nil, nil
	}, func() string { return "pricing@slow does not come up" }); err != nil {
		return "", err
	}
	for version, c := range map[string]struct{ image, why string }{
		"crashes": {"shop/recommendations:crashes", "code 3"},
		"absent":  {"shop/recommendations:absent", "not found"},
	} {
		_, err := p.cli(ctx, "deploy", "recommendations@"+version, "--image", c.image, "--timeout", "5s")
		if err == nil || !strings.Contains(err.Error(), c.why) {
			return "", fmt.Errorf("a deployment of %s was to fail with %q: %w", c.image, c.why, err)
		}
		if err := p.load.refused(ctx, shop.Recommendations, version, "version-failed"); err != nil {
			return "", err
		}
	}
	return "one that starts, one that crashes and one without an image were refused with 503, and none was answered by main", nil
}

// mainDeployed has the company's CI deploy cart and pricing, as it always did.
func (p *shopOnECS) mainDeployed(ctx context.Context) (string, error) {
	before := p.load.total()
	plainBefore, _, err := p.throughProxy()
	if err != nil {
		return "", err
	}
	for _, service := range []string{shop.Cart, shop.Pricing} {
		definition, err := p.registerMain(ctx, service, "main-2")
		if err != nil {
			return "", err
		}
		if _, err := p.client.UpdateService(ctx, &ecs.UpdateServiceInput{Cluster: aws.String(ecsCluster), Service: &service, TaskDefinition: &definition}); err != nil {
			return "", err
		}
	}
	began := time.Now()
	if err := until(ctx, time.Minute, func() (bool, error) {
		a, err := p.load.ask(ctx, nil)
		if err != nil || a.status != http.StatusOK {
			return false, errors.Join(err, a.problem())
		}
		builds := a.builds()
		return builds[shop.Cart+"@main"] == 2 && builds[shop.Pricing+"@main"] == 2, nil
	}, func() string { return "the new build of main gets no requests" }); err != nil {
		return "", err
	}
	first := time.Since(began)
	if err := until(ctx, time.Minute, func() (bool, error) {
		return p.mainTasks() == len(shop.Services())+1, nil
	}, func() string { return "the deployment of main does not end" }); err != nil {
		return "", err
	}
	if p.untouched, err = p.mains(ctx); err != nil {
		return "", err
	}
	if err := p.byItself(ctx); err != nil {
		return "", err
	}
	p.load.atLeast(shop.Cart+"@main", 2)
	p.load.atLeast(shop.Pricing+"@main", 2)
	for range 10 {
		if err := p.load.expect(ctx, nil, nil); err != nil {
			return "", err
		}
	}
	if p.config, err = p.traefikConfig(ctx); err != nil {
		return "", err
	}
	plain, _, err := p.throughProxy()
	if err != nil {
		return "", err
	}
	said, err := p.load.since(before)
	return fmt.Sprintf("new tasks answered after %.1f s; %s; %d calls for main by way of Layover's proxy meanwhile", first.Seconds(), said, plain-plainBefore), err
}

// remove removes all versions but main.
func (p *shopOnECS) remove(ctx context.Context) (string, error) {
	p.load.routed.Store(false)
	versions, err := p.versions(ctx)
	if err != nil {
		return "", err
	}
	removed := 0
	for _, v := range versions {
		if v.Name == "main" {
			continue
		}
		if _, err := p.cli(ctx, "rm", v.ID(), "--yes"); err != nil {
			return "", err
		}
		removed++
	}
	var left []string
	if err := until(ctx, time.Minute, func() (bool, error) {
		left = p.cloud.Leftovers("layover-")
		return len(left) == 0, nil
	}, func() string { return "left behind: " + strings.Join(left, ", ") }); err != nil {
		return "", err
	}
	if err := p.taggedAnywhere(ctx); err != nil {
		return "", err
	}
	if err := p.sameConfig(ctx); err != nil {
		return "", err
	}
	// A route that names nothing any more falls to main, and only now.
	if err := p.load.expect(ctx, []string{"dynamic_route=" + shopFeature}, nil); err != nil {
		return "", err
	}
	_, routed, err := p.throughProxy()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d versions; nothing of them in ECS; %d calls went by way of Layover's proxy in all", removed, routed), p.stillUntouched(ctx)
}

// layoverEnds ends Layover; Traefik goes on with what it has, and main with it.
func (p *shopOnECS) layoverEnds(ctx context.Context) (string, error) {
	if err := p.end(); err != nil {
		return "", err
	}
	for range 10 {
		if err := p.load.expect(ctx, nil, nil); err != nil {
			return "", err
		}
	}
	if running, want := len(p.runner.Processes()), len(shop.Services())+1; running != want {
		return "", fmt.Errorf("%d processes of tasks run, and main has %d", running, want)
	}
	if broken := p.cloud.Broken(); len(broken) > 0 {
		return "", fmt.Errorf("the fake gave answers that AWS would not give: %w", errors.Join(broken...))
	}
	calls := 0
	for _, n := range p.cloud.Calls() {
		calls += n
	}
	return fmt.Sprintf("main answers behind Traefik as before; AWS was asked %d things in all", calls), p.stillUntouched(ctx)
}

func lastLines(of fmt.Stringer, n int) string {
	lines := strings.Split(strings.TrimSpace(of.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
