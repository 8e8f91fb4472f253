// Package forge is what Layover has to do with GitHub, GitLab and Bitbucket: their webhooks, by which versions end with their
// branches and pull requests; asking them, so that a missed webhook leaks nothing; and telling them, in one comment and a status,
// what became of a change.
//
// A webhook alone is a hint: its signature is checked, it is taken once, and one that is older than a version does not end that. Where
// there is a token, the forge is asked whether the branch is really gone, before anything is removed.
package forge

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

// The kinds of forges.
const (
	GitHub    = "github"
	GitLab    = "gitlab"
	Bitbucket = "bitbucket" // Cloud
)

// Forge is one that is configured.
type Forge struct {
	Name         string
	Kind         string
	URL          string                 // of its API; "" for the public one
	Secret       func() ([]byte, error) // that its webhooks are signed with; nil where none are taken
	Token        func() ([]byte, error) // nil where it is not asked
	Repositories map[string][]string    // owner/name -> services
	Comment      bool
	Status       bool
}

// Environment is what a Hub needs of the environment.
type Environment interface {
	// Versions returns all versions.
	Versions(ctx context.Context) ([]api.Version, error)
	// Remove ends one, as layover rm does, where it is still the generation that v is, and says whether it was: one that was
	// deployed anew meanwhile stays.
	Remove(ctx context.Context, v api.Version, actor string) (bool, error)
	// TestRuns returns the newest test runs of a version, service@version, the newest first.
	TestRuns(ctx context.Context, id string) ([]api.TestRun, error)
	// Requests returns how many requests a version answered lately, and how many of those failed.
	Requests(service, version string) (requests, failed int)
}

// Store keeps durably which webhooks were followed, so that none is followed again after the server was started anew or another one
// leads. Each method is one transaction. Implementations pass storetest.Run.
type Store interface {
	// HasDelivery says whether one of them is stored.
	HasDelivery(ctx context.Context, ids []string) (bool, error)
	// PutDeliveries stores them, all or none. Of all that are stored the newest keep stay.
	PutDeliveries(ctx context.Context, ids []string, keep int) error
}

// Options are what a Hub is made from. Of and Store are required.
type Options struct {
	Environment string // its name
	Forges      []Forge
	Of          Environment
	Store       Store
	Every       time.Duration // how often forges are asked; 0 means 5 minutes
	TellEvery   time.Duration // how often it is looked whether comments and statuses are right; 0 means 10 s
	HTTP        *http.Client  // nil for one with a time-out
	Logger      *slog.Logger
	Clock       func() time.Time // nil for the real one
}

// Hub takes webhooks and tells forges. It is safe for concurrent use.
type Hub struct {
	opts   Options
	forges map[string]*client
	log    *slog.Logger

	reading chan struct{} // one for each webhook that is read

	mu      sync.Mutex
	taken   map[string]bool // deliveries, by forge and ID or body
	order   []string        // of taken
	refused map[Refusal]uint64
	logged  map[Refusal]time.Time
	removed uint64
	absent  map[string]absence // what was not there, by version
	told    map[change]telling
	pulls   map[branchKey]found // pull requests of branches
	wake    chan struct{}
}

// Refusal counts webhooks that were refused.
type Refusal struct{ Forge, Reason string }

// Reasons of refusals.
const (
	refusedForge      = "unknown forge"
	refusedSignature  = "signature"
	refusedMalformed  = "malformed"
	refusedSize       = "too large"
	refusedReplayed   = "replayed"
	refusedRepository = "repository"
	refusedOrder      = "out of order"
	refusedUnknown    = "not confirmed"
	refusedOld        = "too old"
	refusedProtected  = "protected"
	refusedBusy       = "busy"
)

const (
	maxBody      = 1 << 20
	maxReading   = 32
	maxTaken     = 20_000
	maxLogin     = 100
	logEvery     = time.Minute // how often a refusal for the same reason is logged
	readTime     = 10 * time.Second
	removeTime   = 20 * time.Second // GitHub waits for 10 s, and takes that for a failure; what was begun goes on
	defaultEvery = 5 * time.Minute
	defaultTell  = 10 * time.Second
)

// New returns a hub.
func New(o Options) (*Hub, error) {
	o.Every, o.TellEvery = cmp.Or(o.Every, defaultEvery), cmp.Or(o.TellEvery, defaultTell)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 20 * time.Second}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Hub{
		opts: o, forges: map[string]*client{}, log: o.Logger, taken: map[string]bool{}, refused: map[Refusal]uint64{}, logged: map[Refusal]time.Time{},
		absent: map[string]absence{}, told: map[change]telling{}, pulls: map[branchKey]found{}, wake: make(chan struct{}, 1), reading: make(chan struct{}, maxReading),
	}
	for _, f := range o.Forges {
		c, err := newClient(f, o.HTTP, o.Clock)
		if err != nil {
			return nil, err
		}
		h.forges[f.Name] = c
	}
	return h, nil
}

// Stats returns how many webhooks were refused, and how many versions were removed.
func (h *Hub) Stats() (refused map[Refusal]uint64, removed uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.refused), h.removed
}

// ServeHTTP takes a webhook: POST /forges/{name}.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	c := h.forges[name]
	if c == nil || c.Secret == nil {
		h.refuse(w, "", refusedForge, http.StatusNotFound, "no forge with this name takes webhooks")
		return
	}
	select {
	case h.reading <- struct{}{}:
		defer func() { <-h.reading }()
	default:
		w.Header().Set("Retry-After", "10")
		h.refuse(w, name, refusedBusy, http.StatusServiceUnavailable, "too many webhooks come at once; send it again")
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime)) // some writers have none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			h.refuse(w, name, refusedSize, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", maxBody))
			return
		}
		h.refuse(w, name, refusedMalformed, http.StatusBadRequest, "the body breaks off")
		return
	}
	secret, err := c.Secret()
	if err != nil {
		h.log.ErrorContext(r.Context(), "the secret of a forge cannot be read", "forge", name, "err", err)
		h.refuse(w, name, refusedSignature, http.StatusUnauthorized, "the signature cannot be checked")
		return
	}
	switch reason := signed(c.Kind, r.Header, body, secret, h.opts.Clock()); reason {
	case "":
	case refusedMalformed:
		h.refuse(w, name, reason, http.StatusBadRequest, "the time of the delivery is no number")
		return
	case refusedOld:
		h.refuse(w, name, reason, http.StatusUnauthorized, fmt.Sprintf("it was sent more than %s ago, or later than now", maxSkew))
		return
	default:
		h.refuse(w, name, reason, http.StatusUnauthorized, "the signature is not that of the secret")
		return
	}
	e, err := parse(c.Kind, r.Header, body)
	if err != nil {
		h.refuse(w, name, refusedMalformed, http.StatusBadRequest, err.Error())
		return
	}
	h.take(r.Context(), w, c, e, body)
}

// take does what a webhook that is genuine asks for. It answers with success also where nothing comes of it: forges switch off
// webhooks that fail.
func (h *Hub) take(ctx context.Context, w http.ResponseWriter, c *client, e event, body []byte) {
	marks := []string{c.Name + "/id/" + e.delivery}
	if len(e.gone) > 0 && c.Token == nil && c.Kind != GitLab {
		// Its ID is in no signature: who has seen one may send it again with another. A forge that can be asked is asked instead.
		marks = append(marks, fmt.Sprintf("%s/body/%x", c.Name, sha256.Sum256(body)))
	}
	if !h.isFirst(marks) {
		h.refuse(w, c.Name, refusedReplayed, http.StatusConflict, "this delivery was taken before")
		return
	}
	_, known := c.Repositories[e.repository]
	if len(e.gone) == 0 {
		if known {
			h.forgetPulls(c.Name, e.repository) // it may be of a new one
			h.stir()
		}
		answer(w, http.StatusOK, taken{Removed: []string{}})
		return
	}
	if !known {
		h.pass(w, c.Name, refusedRepository)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	stored, err := h.opts.Store.HasDelivery(ctx, hashed(marks))
	if err != nil {
		h.forget(marks)
		h.log.ErrorContext(ctx, "it is not known whether a webhook was followed before", "forge", c.Name, "err", err)
		w.Header().Set("Retry-After", "60")
		writeProblem(w, http.StatusServiceUnavailable, "the store does not answer; send it again")
		return
	}
	if stored {
		h.refuse(w, c.Name, refusedReplayed, http.StatusConflict, "this delivery was taken before")
		return
	}
	actor := c.Kind + "/" + cmp.Or(loginOf(e.login), "webhook")
	removed, refused := []string{}, ""
	for _, g := range e.gone {
		ids, reason, err := h.end(ctx, c, e.repository, g, actor)
		removed = append(removed, ids...)
		if err != nil {
			h.forget(marks) // it may be sent again
			h.log.ErrorContext(ctx, "a webhook could not be followed", "forge", c.Name, "repository", e.repository, "err", err)
			w.Header().Set("Retry-After", "60")
			writeProblem(w, http.StatusServiceUnavailable, "the versions could not be removed; send it again")
			return
		}
		refused = cmp.Or(refused, reason)
	}
	h.forgetPulls(c.Name, e.repository)
	h.stir()
	if len(removed) == 0 && refused != "" {
		if refused == refusedUnknown || refused == refusedProtected {
			h.forget(marks) // it may be true later
		}
		h.pass(w, c.Name, refused)
		return
	}
	// It is stored when it was followed: where the server ends before, it may be sent again.
	if err := h.opts.Store.PutDeliveries(ctx, hashed(marks), maxTaken); err != nil {
		h.log.WarnContext(ctx, "after the next start of the server a webhook may be followed again", "forge", c.Name, "err", err)
	}
	answer(w, http.StatusOK, taken{Removed: removed})
}

// hashed are marks as they are stored: all of one length, whatever a forge takes for an ID.
func hashed(marks []string) []string {
	out := make([]string, len(marks))
	for i, m := range marks {
		out[i] = fmt.Sprintf("%x", sha256.Sum256([]byte(m)))
	}
	return out
}

// taken is what came of a webhook that is genuine.
type taken struct {
	Removed []string `json:"removed"`
	Refused string   `json:"refused,omitempty"` // why none, where there was one to remove
}

// pass counts a genuine webhook that nothing comes of.
func (h *Hub) pass(w http.ResponseWriter, forge, reason string) {
	h.count(forge, reason)
	answer(w, http.StatusOK, taken{Removed: []string{}, Refused: reason})
}

// loginOf is the name of an account, without what no forge allows in one.
func loginOf(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.[]", r)) {
			return r
		}
		return -1
	}, text[:min(len(text), 4*maxLogin)])
	return text[:min(len(text), maxLogin)]
}

// isFirst notes a delivery, and says whether it is new.
func (h *Hub) isFirst(marks []string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range marks {
		if h.taken[m] {
			return false
		}
	}
	for _, m := range marks {
		h.taken[m] = true
		h.order = append(h.order, m)
	}
	for len(h.order) > maxTaken {
		delete(h.taken, h.order[0])
		h.order = h.order[1:]
	}
	return true
}

func (h *Hub) forget(marks []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range marks {
		delete(h.taken, m)
	}
	h.order = slices.DeleteFunc(h.order, func(m string) bool { return slices.Contains(marks, m) })
}

// end removes the versions of what is gone. It says why it removed none where there are some. One that cannot be removed does not
// keep the others.
func (h *Hub) end(ctx context.Context, c *client, repository string, g gone, actor string) (removed []string, refused string, err error) {
	all, err := h.opts.Of.Versions(ctx)
	if err != nil {
		return nil, "", err
	}
	all = slices.DeleteFunc(all, func(v api.Version) bool {
		return !slices.Contains(c.Repositories[repository], v.Service) || v.Default || v.State == api.StateRemoving || !g.is(v)
	})
	if len(all) == 0 {
		return nil, "", nil
	}
	if c.Token != nil {
		confirmed, err := c.isGone(ctx, repository, g.branch, g.pull)
		if err != nil {
			return nil, "", err
		}
		if !confirmed {
			return nil, refusedUnknown, nil
		}
	}
	var failed []error
	for _, v := range all {
		switch {
		case c.Token == nil && !g.isBehind(v):
			refused = cmp.Or(refused, refusedOrder)
			continue
		case h.isProtected(v):
			refused = cmp.Or(refused, refusedProtected)
			continue
		}
		is, err := h.remove(ctx, c, repository, v, actor)
		switch {
		case err != nil:
			failed = append(failed, err)
		case is:
			removed = append(removed, v.ID())
		default:
			refused = cmp.Or(refused, refusedOrder)
		}
	}
	return removed, refused, errors.Join(failed...)
}

// isProtected says whether somebody wants it kept, whatever becomes of its branch.
func (h *Hub) isProtected(v api.Version) bool {
	return v.Lease != nil && h.opts.Clock().Before(v.Lease.ProtectUntil)
}

// remove ends a version. It says whether it did.
func (h *Hub) remove(ctx context.Context, c *client, repository string, v api.Version, actor string) (bool, error) {
	is, err := h.opts.Of.Remove(ctx, v, actor)
	if err != nil {
		return false, fmt.Errorf("remove %s: %w", v.ID(), err)
	}
	if is {
		h.mu.Lock()
		h.removed++
		h.mu.Unlock()
		h.log.InfoContext(ctx, "a version ends with its branch", "version", v.ID(), "forge", c.Name, "repository", repository, "branch", branchOf(v), "pull_request", v.Origin.PullRequest)
	}
	return is, nil
}

// stir has comments looked at now.
func (h *Hub) stir() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// gone is a branch or pull request that is no more.
type gone struct {
	branch string
	pull   string    // number; "" where it is about a branch
	commit string    // the last one, or its beginning; "" where that is not told
	at     time.Time // zero where that is not told
}

// is says whether a version was deployed from it, as was recorded: its name alone says nothing.
func (g gone) is(v api.Version) bool {
	if g.pull != "" && v.Origin.PullRequest != "" {
		return v.Origin.PullRequest == g.pull
	}
	return g.branch != "" && branchOf(v) == g.branch
}

// branchOf is the branch that a version was deployed from.
func branchOf(v api.Version) string { return cmp.Or(v.Branch, v.Origin.Branch) }

// isBehind says whether the end came behind the deployment: by its time, or by its commit where it has none. What has neither is
// not believed.
func (g gone) isBehind(v api.Version) bool {
	if !g.at.IsZero() {
		return g.at.After(v.DeployedAt)
	}
	return len(g.commit) >= 7 && len(v.Origin.Commit) >= 7 && (strings.HasPrefix(v.Origin.Commit, g.commit) || strings.HasPrefix(g.commit, v.Origin.Commit))
}

// refuse answers a webhook that nothing comes of, and counts it.
func (h *Hub) refuse(w http.ResponseWriter, forge, reason string, status int, detail string) {
	h.count(forge, reason)
	writeProblem(w, status, detail)
}

// count counts a refusal. The log says the same only now and then: anybody may send anything.
func (h *Hub) count(forge, reason string) {
	r, now := Refusal{forge, reason}, h.opts.Clock()
	h.mu.Lock()
	h.refused[r]++
	n, last := h.refused[r], h.logged[r]
	again := last.IsZero() || now.Sub(last) >= logEvery
	if again {
		h.logged[r] = now
	}
	h.mu.Unlock()
	if again {
		h.log.Warn("a webhook is refused", "forge", forge, "reason", reason, "refused", n)
	}
}

// writeProblem answers with a problem (RFC 9457).
func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// baseURL is where the API of a forge is.
func baseURL(f Forge) (*url.URL, error) {
	text := cmp.Or(f.URL, map[string]string{GitHub: "https://api.github.com", GitLab: "https://gitlab.com/api/v4", Bitbucket: "https://api.bitbucket.org/2.0"}[f.Kind])
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("forge %s: %q is not the URL of an API", f.Name, text)
	}
	return u, nil
}
