package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/forge/forgetest"
)

// fuzzed is a forge of the proof, whose one service has a version of the branch feature/victim, and one of feature/closed.
type fuzzed struct {
	name, secret, repository string
	asked                    bool // it is asked whether a branch is gone: that it is there
	// deletes is its webhook of a branch that is gone, signed for the ID and the time at which it is sent.
	deletes func(address, id, branch, secret string, gone, sent time.Time) *http.Request
}

// signatures are the headers by which webhooks are genuine.
var signatures = []string{"X-Hub-Signature-256", "X-Hub-Signature", "Webhook-Signature"}

// fuzzedForges are one of each kind, and one that is asked.
func fuzzedForges() []fuzzed {
	const number = 99 // a pull request that no version names: its branch counts
	github := func(address, id, branch, secret string, gone, _ time.Time) *http.Request {
		repository := "acme/" + address[strings.LastIndexByte(address, '/')+1:]
		return forgetest.Delivery(address, "delete", id, forgetest.Deleted(repository, branch, gone), secret)
	}
	return []fuzzed{
		{name: "github", secret: forgeSecret, repository: "acme/github", deletes: github},
		{name: "asked", secret: forgeSecret, repository: "acme/asked", asked: true, deletes: github},
		{
			name: "gitlab", secret: "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))), repository: "acme/gitlab",
			deletes: func(address, id, branch, secret string, gone, sent time.Time) *http.Request {
				return forgetest.GitLabDelivery(address, "Merge Request Hook", id, forgetest.GitLabClosed("acme/gitlab", number, branch, "", gone), secret, sent)
			},
		},
		{
			name: "bitbucket", secret: forgeSecret, repository: "acme/bitbucket",
			deletes: func(address, id, branch, secret string, gone, _ time.Time) *http.Request {
				return forgetest.BitbucketDelivery(address, "pullrequest:fulfilled", id, forgetest.BitbucketClosed("acme/bitbucket", number, branch, "", gone), secret)
			},
		},
	}
}

// proveWebhookFuzz sends forged, replayed, malformed and late webhooks of all forges to a real server, among good ones.
func proveWebhookFuzz(deliveries int) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return webhookFuzz(ctx, deliveries, false) }
}

// webhookFuzz is the proof. With sabotage, who forges knows the secrets.
func webhookFuzz(ctx context.Context, deliveries int, sabotage bool) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	hub := forgetest.NewGitHub(forgeToken)
	defer hub.Close()
	hub.AddRepository("acme/asked")
	hub.Push("acme/asked", "feature/victim", strings.Repeat("1", 40))
	forges := fuzzedForges()
	e.variables = []string{"PROOF_TOKEN=" + forgeToken}
	yaml, services := "forges:\n", "services:\n"
	for _, f := range forges {
		kind := f.name
		if f.asked {
			kind = "github"
		}
		e.variables = append(e.variables, "SECRET_"+f.name+"="+f.secret)
		yaml += fmt.Sprintf("  - {name: %s, kind: %s, secret_env: SECRET_%s, repositories: {%s: %s}", f.name, kind, f.name, f.repository, f.name)
		if f.asked {
			yaml += fmt.Sprintf(", url: %q, token_env: PROOF_TOKEN", hub.URL)
		}
		yaml += "}\n"
		services += fmt.Sprintf(`  %s:
    health: /healthz
    run: {process: {command: [%q, shop, pricing]}}
    versions: {victim: {branch: feature/victim}, closed: {branch: feature/closed}}
`, f.name, e.binary)
	}
	if err := e.write(fmt.Sprintf("proxy: {listen: \"127.0.0.1:%s\"}\n", e.proxyPort) + yaml + services); err != nil {
		return result{}, err
	}
	if err := e.start(ctx); err != nil {
		return result{}, err
	}
	if err := e.allRun(ctx); err != nil {
		return result{}, err
	}

	storm := &storm{environment: e, random: rand.New(rand.NewPCG(17, 1)), later: time.Now().Add(time.Hour), known: sabotage}
	if err := storm.good(ctx, forges, "feature/closed", "before"); err != nil {
		return result{}, err
	}
	began, answered := time.Now(), map[int]int{}
	for i := range deliveries {
		status, err := post(storm.bad(forges[i%len(forges)], i).WithContext(ctx))
		if err != nil {
			return result{}, err
		}
		answered[status]++
	}
	took := time.Since(began)
	lost, err := storm.without(ctx, forges, "victim")
	if err != nil {
		return result{}, err
	}
	reasons, err := e.refusals(ctx)
	if err != nil {
		return result{}, err
	}
	refused, kinds := 0, []string{}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		refused += reasons[reason]
		kinds = append(kinds, fmt.Sprintf("%d %s", reasons[reason], reason))
	}
	// Good ones still work.
	ends := 0
	if len(lost) == 0 {
		hub.DeleteBranch("acme/asked", "feature/victim")
		if err := storm.good(ctx, forges, "feature/victim", "behind"); err != nil {
			return result{}, err
		}
		removed, err := storm.without(ctx, forges, "victim")
		if err != nil {
			return result{}, err
		}
		ends = len(removed)
	}
	return result{
		figure: fmt.Sprintf("%d deliveries to %d forges in %.1f s, %d refused and counted (%s), versions lost: %d; good ones before and behind ended %d of %d versions",
			deliveries, len(forges), took.Seconds(), refused, strings.Join(kinds, ", "), len(lost), len(forges)+ends, 2*len(forges)),
		bar: "all of them refused and counted, 0 versions lost, good ones work",
		ok:  refused == deliveries && len(lost) == 0 && ends == len(forges) && answered[http.StatusInternalServerError] == 0,
	}, nil
}

// storm makes webhooks.
type storm struct {
	*environment
	random *rand.Rand
	later  time.Time // when branches are said to be gone: behind all deployments
	known  bool      // the secrets are known to who forges
}

// good sends a webhook to each that is to end a version, and waits until it has.
func (s *storm) good(ctx context.Context, forges []fuzzed, branch, id string) error {
	for _, f := range forges {
		r := f.deletes(s.serverURL+"/forges/"+f.name, id, branch, f.secret, s.later, time.Now())
		if status, err := post(r.WithContext(ctx)); err != nil || status != http.StatusOK {
			return fmt.Errorf("a good webhook of %s is answered with %d: %w", f.name, status, err)
		}
	}
	version := strings.TrimPrefix(branch, "feature/")
	return until(ctx, 20*time.Second, func() (bool, error) {
		gone, err := s.without(ctx, forges, version)
		return len(gone) == len(forges), err
	}, func() string { return "good webhooks do not end the versions " + version })
}

// without are the forges whose service has no such version any more.
func (s *storm) without(ctx context.Context, forges []fuzzed, version string) (gone []string, err error) {
	versions, err := s.versions(ctx)
	for _, f := range forges {
		if !slices.ContainsFunc(versions, func(v api.Version) bool {
			return v.Service == f.name && v.Name == version && v.State == api.StateRunning
		}) {
			gone = append(gone, f.name)
		}
	}
	return gone, err
}

// bad is a webhook of which nothing may come.
func (s *storm) bad(f fuzzed, i int) *http.Request {
	address, id, now := s.serverURL+"/forges/"+f.name, fmt.Sprint("bad-", i), time.Now()
	genuine := func(id string) *http.Request {
		return f.deletes(address, id, "feature/victim", f.secret, s.later.Add(time.Duration(i)*time.Second), now)
	}
	switch i / 4 % 12 {
	case 0: // forged: another key
		secret := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%030d", s.random.Uint64()))
		if strings.HasPrefix(f.secret, "whsec_") {
			secret = "whsec_" + secret
		}
		if s.known {
			secret = f.secret
		}
		return f.deletes(address, id, "feature/victim", secret, s.later, now)
	case 1: // forged: changed behind the signature
		return s.change(genuine(id), func(body []byte) []byte { return bytes.Replace(body, []byte("feature/"), []byte("feature//"), 1) })
	case 2: // forged: a signature that is none
		r := genuine(id)
		for _, name := range signatures {
			if r.Header.Get(name) != "" {
				r.Header.Set(name, []string{"", "sha256=", "v1,", "sha256=00", "v1,AAAA", strings.Repeat("x", s.random.IntN(4000))}[s.random.IntN(6)])
			}
		}
		return r
	case 3: // forged: two signatures
		r := genuine(id)
		for _, name := range signatures {
			if value := r.Header.Get(name); value != "" {
				r.Header.Add(name, value)
			}
		}
		return r
	case 4: // replayed, as the forge sends it again
		return f.deletes(address, "before", "feature/closed", f.secret, s.later, now)
	case 5: // replayed, with another ID
		r := f.deletes(address, "before", "feature/closed", f.secret, s.later, now)
		if f.asked { // there it would be asked about, and nothing is there that it could end
			r = genuine("before")
		}
		for _, name := range []string{"X-GitHub-Delivery", "X-Request-UUID", "Webhook-Id"} {
			if r.Header.Get(name) != "" {
				r.Header.Set(name, id)
			}
		}
		return r
	case 6: // malformed, and signed
		body := []byte(`{"repository":`)
		whole, _ := io.ReadAll(genuine(id).Body)
		if cut := s.random.IntN(len(whole) - 2); cut > 0 {
			body = whole[:cut]
		}
		return s.sign(f, genuine(id), id, body, now)
	case 7: // malformed: other types, and signed
		wrong := []string{
			`[]`, `"x"`, `{"ref":1,"object_kind":1,"repository":[],"pullrequest":7}`, `{"ref":{},"object_kind":{},"repository":{"full_name":[]},"pullrequest":[]}`,
			strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
		}
		return s.sign(f, genuine(id), id, []byte(wrong[s.random.IntN(len(wrong))]), now)
	case 8: // malformed: no ID
		r := genuine(id)
		for _, name := range []string{"X-GitHub-Delivery", "X-Request-UUID", "Webhook-Id", "Idempotency-Key", "X-Gitlab-Event-UUID"} {
			r.Header.Del(name)
		}
		return r
	case 9: // out of order: older than the deployment; or not true, where that is asked
		return f.deletes(address, id, "feature/victim", f.secret, now.Add(-time.Hour-time.Duration(s.random.IntN(1_000_000))*time.Second), now)
	case 10: // of another repository
		r := genuine(id)
		body, _ := io.ReadAll(r.Body)
		return s.sign(f, r, id, bytes.ReplaceAll(body, []byte(f.repository), []byte("acme/other")), now)
	default: // too large, of no forge, or sent long ago where that is signed
		switch {
		case strings.HasPrefix(f.secret, "whsec_"):
			return f.deletes(address, id, "feature/victim", f.secret, s.later, now.Add(-time.Hour))
		case f.asked:
			return s.change(genuine(id), func([]byte) []byte { return bytes.Repeat([]byte("x"), 1<<20+1000) })
		}
		return f.deletes(s.serverURL+"/forges/nobody", id, "feature/victim", f.secret, s.later, now)
	}
}

// change replaces the body, not the signature.
func (s *storm) change(r *http.Request, how func([]byte) []byte) *http.Request {
	body, _ := io.ReadAll(r.Body)
	body = how(body)
	r.Body, r.ContentLength, r.GetBody = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return r
}

// sign replaces the body, and signs it.
func (s *storm) sign(f fuzzed, r *http.Request, id string, body []byte, now time.Time) *http.Request {
	address := r.URL.String()
	switch {
	case r.Header.Get("X-Event-Key") != "":
		return forgetest.BitbucketDelivery(address, r.Header.Get("X-Event-Key"), id, body, f.secret)
	case r.Header.Get("X-Gitlab-Event") != "":
		return forgetest.GitLabDelivery(address, r.Header.Get("X-Gitlab-Event"), id, body, f.secret, now)
	}
	return forgetest.Delivery(address, r.Header.Get("X-GitHub-Event"), id, body, f.secret)
}

func post(r *http.Request) (int, error) {
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode, err
}

var refusalLine = regexp.MustCompile(`^layover_forge_webhooks_refused_total\{.*reason="([^"]*)".*\} ([0-9.e+]+)$`)

// refusals are those that the server's metrics count, by reason.
func (e *environment) refusals(ctx context.Context) (map[string]int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.serverURL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	reasons := map[string]int{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if m := refusalLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseFloat(m[2], 64)
			reasons[m[1]] += int(n)
		}
	}
	return reasons, err
}
