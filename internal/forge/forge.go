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
	"github.com/layover-dev/layover/internal/route"
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
	// Remove ends one, as layover rm does.
	Remove(ctx context.Context, service, version, actor string) error
	// TestRuns returns the newest test runs of a version, service@version, the newest first.
	TestRuns(ctx context.Context, id string) ([]api.TestRun, error)
	// Requests returns how many requests a version answered lately, and how many of those failed.
	Requests(service, version string) (requests, failed int)
}

// Options are what a Hub is made from.
type Options struct {
	Environment string // its name
	Forges      []Forge
	Of          Environment
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

	mu      sync.Mutex
	taken   map[string]bool // deliveries, by forge and ID
	order   []string        // of taken
	refused map[Refusal]uint64
	removed uint64
	gone    map[string]int // how often in a row something was not there, by version
	told    map[change]telling
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
)

const (
	maxBody      = 1 << 20
	maxTaken     = 10_000
	removeTime   = 30 * time.Second
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
		opts: o, forges: map[string]*client{}, log: o.Logger, taken: map[string]bool{}, refused: map[Refusal]uint64{}, gone: map[string]int{},
		told: map[change]telling{}, wake: make(chan struct{}, 1),
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
	if !signed(c.Kind, r.Header, body, secret) {
		h.refuse(w, name, refusedSignature, http.StatusUnauthorized, "the signature is not that of the secret")
		return
	}
	e, err := parse(c.Kind, r.Header, body)
	if err != nil {
		h.refuse(w, name, refusedMalformed, http.StatusBadRequest, err.Error())
		return
	}
	if e.delivery == "" {
		h.refuse(w, name, refusedMalformed, http.StatusBadRequest, "the delivery has no ID")
		return
	}
	h.take(r.Context(), w, c, e)
}

// take does what a webhook that is genuine asks for.
func (h *Hub) take(ctx context.Context, w http.ResponseWriter, c *client, e event) {
	if !h.isFirst(c.Name, e.delivery) {
		h.refuse(w, c.Name, refusedReplayed, http.StatusConflict, "this delivery was taken before")
		return
	}
	if len(e.gone) == 0 {
		answer(w, http.StatusOK, map[string]any{"removed": []string{}})
		return
	}
	if _, known := c.Repositories[e.repository]; !known {
		h.refuse(w, c.Name, refusedRepository, http.StatusNotFound, "no service is of this repository")
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	var removed []string
	refused := ""
	for _, g := range e.gone {
		ids, reason, err := h.end(ctx, c, e.repository, g, c.Kind+"/"+cmp.Or(e.login, "webhook"))
		removed = append(removed, ids...)
		if err != nil {
			h.forget(c.Name, e.delivery) // it may be sent again
			h.log.ErrorContext(ctx, "a webhook could not be followed", "forge", c.Name, "repository", e.repository, "err", err)
			writeProblem(w, http.StatusServiceUnavailable, "the versions could not be removed; send it again")
			return
		}
		refused = cmp.Or(refused, reason)
	}
	if len(removed) == 0 && refused != "" {
		h.refuse(w, c.Name, refused, http.StatusConflict, "nothing is removed: "+refused)
		return
	}
	h.stir()
	answer(w, http.StatusOK, map[string]any{"removed": orNone(removed)})
}

func orNone(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// isFirst notes a delivery, and says whether it is new.
func (h *Hub) isFirst(forge, id string) bool {
	key := forge + "/" + id
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken[key] {
		return false
	}
	h.taken[key] = true
	if h.order = append(h.order, key); len(h.order) > maxTaken {
		delete(h.taken, h.order[0])
		h.order = h.order[1:]
	}
	return true
}

func (h *Hub) forget(forge, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.taken, forge+"/"+id)
}

// end removes the versions of what is gone. It says why it removed none where there are some.
func (h *Hub) end(ctx context.Context, c *client, repository string, g gone, actor string) (removed []string, refused string, err error) {
	all, err := h.opts.Of.Versions(ctx)
	if err != nil {
		return nil, "", err
	}
	confirmed, asked := false, false
	for _, v := range all {
		if !slices.Contains(c.Repositories[repository], v.Service) || v.Default || v.State == api.StateRemoving || !g.is(v) {
			continue
		}
		if c.Token != nil {
			if !asked {
				asked = true
				if confirmed, err = c.isGone(ctx, repository, g.branch, g.pull); err != nil {
					return removed, "", err
				}
			}
			if !confirmed {
				return removed, refusedUnknown, nil
			}
		} else if !g.isBehind(v) {
			refused = refusedOrder
			continue
		}
		if err := h.opts.Of.Remove(ctx, v.Service, v.Name, actor); err != nil {
			return removed, "", err
		}
		h.mu.Lock()
		h.removed++
		h.mu.Unlock()
		removed = append(removed, v.ID())
		h.log.InfoContext(ctx, "a version ends with its branch", "version", v.ID(), "forge", c.Name, "repository", repository, "branch", g.branch, "pull_request", g.pull)
	}
	return removed, refused, nil
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

// is says whether a version is of it.
func (g gone) is(v api.Version) bool {
	if g.pull != "" && v.Origin.PullRequest != "" {
		return v.Origin.PullRequest == g.pull
	}
	if g.branch == "" {
		return g.pull != "" && v.Name == route.NameOf("pr-"+g.pull)
	}
	branch := cmp.Or(v.Branch, v.Origin.Branch)
	return branch == g.branch || branch == "" && v.Name == route.NameOf(g.branch)
}

// isBehind says whether the end came behind the deployment, as its commit or its time says. Without either it is not believed.
func (g gone) isBehind(v api.Version) bool {
	if len(g.commit) >= 7 && strings.HasPrefix(v.Origin.Commit, g.commit) {
		return true
	}
	return !g.at.IsZero() && g.at.After(v.DeployedAt)
}

// refuse answers a webhook that nothing comes of, and counts it.
func (h *Hub) refuse(w http.ResponseWriter, forge, reason string, status int, detail string) {
	h.mu.Lock()
	h.refused[Refusal{forge, reason}]++
	h.mu.Unlock()
	h.log.Warn("a webhook is refused", "forge", forge, "reason", reason)
	writeProblem(w, status, detail)
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
