package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// change is a pull request.
type change struct{ forge, repository, pull string }

// telling is what was told of a change.
type telling struct {
	id      string // of the comment
	text    string // without the figures that change all the time
	at      time.Time
	status  string // what was set last: commit and state
	failed  bool
	pending time.Time // nothing is tried before
}

// Run asks and tells forges until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	asking := time.NewTicker(h.opts.Every)
	defer asking.Stop()
	telling := time.NewTicker(h.opts.TellEvery)
	defer telling.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-asking.C:
			h.Reconcile(ctx)
		case <-telling.C:
			h.Tell(ctx)
		case <-h.wake:
			h.Tell(ctx)
		}
	}
}

// askedTwice is how often in a row something has to be gone before that is believed.
const askedTwice = 2

// Reconcile asks whether the branches and pull requests of all versions are still there, and removes the versions of those that were
// not twice in a row. What cannot be asked removes nothing.
func (h *Hub) Reconcile(ctx context.Context) {
	all, err := h.opts.Of.Versions(ctx)
	if err != nil {
		h.log.WarnContext(ctx, "forges are not asked: the versions are not known", "err", err)
		return
	}
	there := map[string]bool{}
	for _, v := range all {
		c, repository := h.of(v)
		if c == nil || c.Token == nil || v.Default || v.State == api.StateRemoving {
			continue
		}
		branch, pull := cmp.Or(v.Origin.Branch, v.Branch), v.Origin.PullRequest
		if branch == "" && pull == "" || v.Source != "ci" && v.Branch == "" {
			continue
		}
		is, err := c.isGone(ctx, repository, branch, pull)
		if err != nil {
			if !errors.Is(err, errPaused) {
				h.log.WarnContext(ctx, "a forge cannot be asked: nothing is removed", "version", v.ID(), "err", err)
			}
			there[v.ID()] = true // not known: the count stays
			continue
		}
		if !is {
			continue
		}
		there[v.ID()] = true
		h.mu.Lock()
		h.gone[v.ID()]++
		n := h.gone[v.ID()]
		h.mu.Unlock()
		if n < askedTwice {
			continue
		}
		if err := h.opts.Of.Remove(ctx, v.Service, v.Name, c.Kind+"/reconciler"); err != nil {
			h.log.WarnContext(ctx, "a version whose branch is gone could not be removed", "version", v.ID(), "err", err)
			continue
		}
		h.mu.Lock()
		h.removed++
		delete(h.gone, v.ID())
		h.mu.Unlock()
		h.log.InfoContext(ctx, "a version ends, as its branch is gone", "version", v.ID(), "repository", repository, "branch", branch, "pull_request", pull)
		h.stir()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.gone {
		if !there[id] {
			delete(h.gone, id)
		}
	}
}

// of is the forge and the repository of a version's service.
func (h *Hub) of(v api.Version) (*client, string) {
	for _, f := range h.opts.Forges {
		for repository, services := range f.Repositories {
			if slices.Contains(services, v.Service) {
				return h.forges[f.Name], repository
			}
		}
	}
	return nil, ""
}

const (
	figuresEvery = 10 * time.Minute // a comment is changed for its figures alone
	pauseFailed  = time.Minute
	maxComment   = 60_000
)

// Tell looks whether the comment and the status of each change say what is so, and puts right what does not.
func (h *Hub) Tell(ctx context.Context) {
	all, err := h.opts.Of.Versions(ctx)
	if err != nil {
		return
	}
	changes := map[change][]api.Version{}
	for _, v := range all {
		c, repository := h.of(v)
		if c == nil || c.Token == nil || !c.Comment && !c.Status || v.Default || v.Origin.PullRequest == "" {
			continue
		}
		key := change{c.Name, repository, v.Origin.PullRequest}
		changes[key] = append(changes[key], v)
	}
	h.mu.Lock()
	for key, t := range h.told {
		if _, is := changes[key]; !is && t.text != "" {
			changes[key] = nil // all of its versions are gone
		}
	}
	h.mu.Unlock()
	for key, versions := range changes {
		h.tellOne(ctx, key, versions)
	}
}

func (h *Hub) tellOne(ctx context.Context, key change, versions []api.Version) {
	c := h.forges[key.forge]
	h.mu.Lock()
	t := h.told[key]
	h.mu.Unlock()
	now := h.opts.Clock()
	if now.Before(t.pending) {
		return
	}
	tests := map[string][]api.TestRun{}
	for _, v := range versions {
		runs, err := h.opts.Of.TestRuns(ctx, v.ID())
		if err != nil {
			return
		}
		tests[v.ID()] = newestOfEach(runs)
	}
	err := h.comment(ctx, c, key, versions, tests, &t)
	if err == nil {
		err = h.status(ctx, c, key, versions, tests, &t)
	}
	if err != nil {
		t.pending = now.Add(pauseFailed)
		if !t.failed && !errors.Is(err, errPaused) {
			t.failed = true
			h.log.WarnContext(ctx, "a change cannot be told of its versions", "repository", key.repository, "pull_request", key.pull, "err", err)
		}
	} else {
		t.failed, t.pending = false, time.Time{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(versions) == 0 && err == nil {
		delete(h.told, key) // it was said
		return
	}
	h.told[key] = t
}

func (h *Hub) comment(ctx context.Context, c *client, key change, versions []api.Version, tests map[string][]api.TestRun, t *telling) error {
	if !c.Comment {
		return nil
	}
	plain := h.text(c.Kind, versions, tests, false)
	now := h.opts.Clock()
	if plain == t.text && (len(versions) == 0 || now.Sub(t.at) < figuresEvery) {
		return nil
	}
	if t.id == "" {
		id, err := c.comments(ctx, key.repository, key.pull, h.marker(c.Kind))
		if err != nil {
			return err
		}
		t.id = id
	}
	id, err := c.putComment(ctx, key.repository, key.pull, t.id, h.text(c.Kind, versions, tests, true))
	if isNotFound(err) && t.id != "" { // somebody deleted it
		t.id = ""
		id, err = c.putComment(ctx, key.repository, key.pull, "", h.text(c.Kind, versions, tests, true))
	}
	if err != nil {
		return err
	}
	t.id, t.text, t.at = id, plain, now
	return nil
}

// marker is how the comment is found again. It is not shown: Bitbucket shows comments of HTML, and no link that nothing uses.
func (h *Hub) marker(kind string) string {
	if kind == Bitbucket {
		return "[//]: # (layover:" + h.opts.Environment + ")"
	}
	return "<!-- layover:" + h.opts.Environment + " -->"
}

// text is the comment. Figures that change all the time are in it where they are asked for.
func (h *Hub) text(kind string, versions []api.Version, tests map[string][]api.TestRun, figures bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n### Layover: %s\n\n", h.marker(kind), markdown(h.opts.Environment))
	if len(versions) == 0 {
		b.WriteString("The versions of this change have ended.\n")
		return b.String()
	}
	b.WriteString("| version | state | preview | requests and errors, beside those of the default version |\n|---|---|---|---|\n")
	routes := map[string]bool{}
	for _, v := range versions {
		preview, beside := "–", "–"
		if v.PreviewURL != "" {
			preview = "<" + strings.NewReplacer("<", "", ">", "", "|", "%7C").Replace(v.PreviewURL) + ">"
		}
		if figures {
			requests, failed := h.opts.Of.Requests(v.Service, v.Name)
			usual, usualFailed := h.opts.Of.Requests(v.Service, "")
			beside = fmt.Sprintf("%d, %s; default: %d, %s", requests, share(failed, requests), usual, share(usualFailed, usual))
		}
		state := string(v.State)
		if v.Reason != "" {
			state += ": " + markdown(cut(v.Reason, 300))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", markdown(v.ID()), state, preview, beside)
		routes[v.Name] = true
	}
	tested := false
	for _, v := range versions {
		for _, r := range tests[v.ID()] {
			if !tested {
				b.WriteString("\n| tests | of | result | proved |\n|---|---|---|---|\n")
				tested = true
			}
			proved := "reached by its requests"
			if !r.Exercised {
				proved = "**not exercised**"
			}
			result := fmt.Sprintf("%s: %d passed, %d failed, %d skipped", r.Status, r.Passed, r.Failed, r.Skipped)
			if r.Excused > 0 {
				result += fmt.Sprintf(", %d of the failed excused", r.Excused)
			}
			if r.Reason != "" {
				result += ": " + markdown(cut(r.Reason, 300))
			}
			fmt.Fprintf(&b, "| %s (%s) | %s | %s | %s |\n", markdown(r.Suite), markdown(r.ID), markdown(v.ID()), result, proved)
		}
	}
	if !tested {
		b.WriteString("\nNo test run was aimed at these versions yet.\n")
	}
	return cut(b.String(), maxComment)
}

// share is how many of all failed.
func share(failed, all int) string {
	if all == 0 {
		return "no errors"
	}
	return fmt.Sprintf("%.1f %% errors", 100*float64(failed)/float64(all))
}

// newestOfEach are the newest runs of each suite.
func newestOfEach(runs []api.TestRun) []api.TestRun {
	var out []api.TestRun
	seen := map[string]bool{}
	for _, r := range runs {
		if r.Status != api.RunRunning && !seen[r.Suite] && len(out) < 20 {
			seen[r.Suite] = true
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b api.TestRun) int { return strings.Compare(a.Suite, b.Suite) })
	return out
}

// status sets that of the commit: failure where a version or a test failed, pending while one starts.
func (h *Hub) status(ctx context.Context, c *client, key change, versions []api.Version, tests map[string][]api.TestRun, t *telling) error {
	if !c.Status || len(versions) == 0 {
		return nil
	}
	commit, page, deployed := "", "", time.Time{}
	state, failing, starting, tested := "success", []string{}, 0, 0
	for _, v := range versions {
		if v.Origin.Commit != "" && v.DeployedAt.After(deployed) {
			commit, deployed = v.Origin.Commit, v.DeployedAt
		}
		page = cmp.Or(page, v.PreviewURL)
		switch v.State {
		case api.StateFailed:
			failing = append(failing, v.ID()+" does not run")
		case api.StateStarting:
			starting++
		}
		for _, r := range tests[v.ID()] {
			tested++
			if r.Status != api.RunPassed {
				failing = append(failing, r.Suite+" "+string(r.Status))
			}
		}
	}
	text := fmt.Sprintf("%d versions run, %d suites passed", len(versions), tested)
	switch {
	case len(failing) > 0:
		state, text = "failure", strings.Join(failing, ", ")
	case starting > 0:
		state, text = "pending", fmt.Sprintf("%d of %d versions are starting", starting, len(versions))
	}
	text = cut(text, 140) // GitHub's bound
	if said := commit + state + text; commit != "" && said != t.status {
		if err := c.putStatus(ctx, key.repository, commit, state, "layover/"+h.opts.Environment, text, page); err != nil {
			return err
		}
		t.status = said
	}
	return nil
}

// markdown is text that means nothing in a cell of a table in Markdown, and in HTML; it mentions nobody.
func markdown(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < ' ':
			b.WriteByte(' ')
		case strings.ContainsRune("\\`*_{}[]()#+!|~>", r):
			b.WriteString("\\" + string(r))
		case r == '<':
			b.WriteString("&lt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '@':
			b.WriteString("&#64;")
		case r == ':':
			b.WriteString("&#58;") // no address becomes a link
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}
