package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
)

// change is a pull request, or a branch that has none.
type change struct{ forge, repository, pull, branch string }

// telling is what was told of a change.
type telling struct {
	id      string // of the comment
	text    string // without the figures that change all the time
	at      time.Time
	status  string // what was set last: commit and state
	failed  bool
	pending time.Time // nothing is tried before
}

// absence is what was not there, by the deployment that it is about.
type absence struct {
	deployed time.Time
	times    int
	seen     bool // it was there before
}

// branchKey is a branch of a repository.
type branchKey struct{ forge, repository, branch string }

// found is the pull request of a branch, "" for none, until it is looked for again.
type found struct {
	pull  string
	until time.Time
}

// Run asks and tells forges until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	var both errgroup.Group
	both.Go(func() error { return again(ctx, h.opts.Every, nil, h.Reconcile) })
	both.Go(func() error { return again(ctx, h.opts.TellEvery, h.wake, h.Tell) })
	return both.Wait()
}

// again does something every so often, and when it is woken, until ctx ends.
func again(ctx context.Context, every time.Duration, wake <-chan struct{}, do func(context.Context)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-wake:
		}
		do(ctx)
	}
}

// askedTwice is how often in a row something has to be gone before that is believed.
const askedTwice = 2

// Reconcile asks whether the branches and pull requests of all versions are still there, and removes the versions of those that were
// not twice in a row. What cannot be asked removes nothing, and is asked less often. A branch that was not in the forge before is
// somebody's who has not pushed it yet, unless a build is of it.
func (h *Hub) Reconcile(ctx context.Context) {
	all, err := h.opts.Of.Versions(ctx)
	if err != nil {
		h.log.WarnContext(ctx, "forges are not asked: the versions are not known", "err", err)
		return
	}
	silent := map[*client]bool{} // could not be asked in this round
	asked := map[*client]bool{}
	there := map[string]bool{}
	for _, v := range all {
		if ctx.Err() != nil {
			return
		}
		c, repository := h.of(v)
		branch, pull := branchOf(v), v.Origin.PullRequest
		if c == nil || c.Token == nil || v.Default || v.State == api.StateRemoving || branch == "" && pull == "" {
			continue
		}
		there[v.ID()] = true
		if silent[c] || c.rests() {
			continue
		}
		gone, err := c.isGone(ctx, repository, branch, pull)
		switch {
		case isForRepository(err):
			h.log.WarnContext(ctx, "a forge does not show a branch or pull request: nothing is removed", "version", v.ID(), "err", err)
			continue
		case err != nil:
			silent[c] = true
			if !errors.Is(err, errPaused) {
				h.log.WarnContext(ctx, "a forge cannot be asked: nothing is removed", "version", v.ID(), "err", err)
			}
			continue
		}
		asked[c] = true
		if h.isAbsent(v, gone) && !h.isProtected(v) {
			is, err := h.remove(ctx, c, repository, v, c.Kind+"/reconciler")
			if err != nil {
				h.log.WarnContext(ctx, "a version whose branch is gone could not be removed", "version", v.ID(), "err", err)
			}
			if is {
				delete(there, v.ID())
				h.stir()
			}
		}
	}
	for c := range silent {
		c.fails(h.opts.Every)
	}
	for c := range asked {
		if !silent[c] {
			c.works()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.absent {
		if !there[id] {
			delete(h.absent, id)
		}
	}
}

// isForRepository says whether an error is about what was asked for, so that asking for something else may go well.
func isForRepository(err error) bool {
	if err == nil || errors.Is(err, errPaused) {
		return false
	}
	return isRefused(err) || errors.Is(err, errUnsure)
}

// isRefused says whether a forge refused this one call: trying that again changes nothing.
func isRefused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusUnauthorized && e.Status != http.StatusTooManyRequests
}

// isAbsent notes whether the branch of a version is gone, and says whether that is believed.
func (h *Hub) isAbsent(v api.Version, gone bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.absent[v.ID()]
	if !a.deployed.Equal(v.DeployedAt) {
		a.deployed, a.times = v.DeployedAt, 0
	}
	if gone {
		a.times++
	} else {
		a.times, a.seen = 0, true
	}
	h.absent[v.ID()] = a
	return a.times >= askedTwice && (a.seen || v.Source == sourceCI || v.Origin.Provider != "" || v.Origin.PullRequest != "")
}

// sourceCI is the source of deployments of CI jobs.
const sourceCI = "ci"

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
	lookFor      = 5 * time.Minute // how long it is believed which pull request a branch has
	maxRows      = 100
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
		if c == nil || c.Token == nil || !c.Comment && !c.Status || v.Default || v.Origin.PullRequest == "" && branchOf(v) == "" {
			continue
		}
		key := change{c.Name, repository, v.Origin.PullRequest, ""}
		if key.pull == "" {
			if key.pull, err = h.pullOf(ctx, c, repository, branchOf(v)); err != nil {
				continue // it is looked for again
			}
		}
		if key.pull == "" {
			key.branch = branchOf(v)
		}
		changes[key] = append(changes[key], v)
	}
	h.mu.Lock()
	for key, t := range h.told {
		if _, is := changes[key]; is {
			continue
		}
		if t.text == "" {
			delete(h.told, key) // there is nothing to say any more
			continue
		}
		changes[key] = nil // all of its versions are gone
	}
	now := h.opts.Clock()
	maps.DeleteFunc(h.pulls, func(_ branchKey, f found) bool { return now.After(f.until) })
	h.mu.Unlock()
	for key, versions := range changes {
		if ctx.Err() != nil {
			return
		}
		h.tellOne(ctx, key, versions)
	}
}

// pullOf is the open pull request of a branch; "" where there is none. Which it is is asked every few minutes, or when a webhook
// comes.
func (h *Hub) pullOf(ctx context.Context, c *client, repository, branch string) (string, error) {
	key := branchKey{c.Name, repository, branch}
	now := h.opts.Clock()
	h.mu.Lock()
	f, known := h.pulls[key]
	h.mu.Unlock()
	if known && now.Before(f.until) {
		return f.pull, nil
	}
	pull, err := c.pullOf(ctx, repository, branch)
	f = found{cmp.Or(pull, f.pull), now.Add(lookFor)} // what was found stays: that it is closed ends the version, not the comment
	if err != nil {
		if !known {
			return "", err
		}
		f.until = now.Add(pauseFailed)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pulls[key] = f
	return f.pull, nil
}

// forgetPulls has the pull requests of a repository looked for again.
func (h *Hub) forgetPulls(forge, repository string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, f := range h.pulls {
		if key.forge == forge && key.repository == repository && f.pull == "" {
			delete(h.pulls, key)
		}
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
	if len(versions) == 0 && (err == nil && strings.Contains(t.text, ended) || isRefused(err)) {
		delete(h.told, key) // it was said, or may not be said
		return
	}
	h.told[key] = t
}

func (h *Hub) comment(ctx context.Context, c *client, key change, versions []api.Version, tests map[string][]api.TestRun, t *telling) error {
	if !c.Comment || key.pull == "" {
		return nil
	}
	plain := h.text(c.Kind, versions, tests, false)
	since := h.opts.Clock().Sub(t.at)
	if plain == t.text && (len(versions) == 0 || since < figuresEvery) || !t.at.IsZero() && since < h.opts.TellEvery {
		return nil
	}
	text := h.text(c.Kind, versions, tests, true)
	if t.id != "" {
		switch err := c.putComment(ctx, key.repository, key.pull, t.id, text); {
		case err == nil:
			t.text, t.at = plain, h.opts.Clock()
			return nil
		case !isNotFound(err):
			return err
		}
		t.id = "" // somebody deleted it
	}
	id, err := h.begin(ctx, c, key, text)
	if err != nil {
		return err
	}
	t.id, t.text, t.at = id, plain, h.opts.Clock()
	return nil
}

// begin writes the comment where there is none, and changes it where there is one. Another server may have led a moment ago and
// written one, too: the oldest stays.
func (h *Hub) begin(ctx context.Context, c *client, key change, text string) (id string, err error) {
	marker := h.marker(c.Kind)
	ids, err := c.comments(ctx, key.repository, key.pull, marker)
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		if err = c.putComment(ctx, key.repository, key.pull, "", text); err != nil {
			return "", err
		}
		if ids, err = c.comments(ctx, key.repository, key.pull, marker); err != nil {
			return "", err
		}
		if len(ids) == 0 {
			return "", fmt.Errorf("forge %s: the comment on pull request %s of %s is not listed", c.Name, key.pull, key.repository)
		}
	} else if err = c.putComment(ctx, key.repository, key.pull, ids[0], text); err != nil {
		return "", err
	}
	if me, err := c.whose(ctx); err == nil && me != "" { // it is certain that the others are ours
		for _, id := range ids[1:] {
			if err := c.deleteComment(ctx, key.repository, key.pull, id); err != nil {
				return "", err
			}
		}
	}
	return ids[0], nil
}

// marker is how the comment is found again. It is not shown: Bitbucket shows comments of HTML, and no link that nothing uses.
func (h *Hub) marker(kind string) string {
	if kind == Bitbucket {
		return "[//]: # (layover:" + h.opts.Environment + ")"
	}
	return "<!-- layover:" + h.opts.Environment + " -->"
}

// maxComment is how many bytes a comment may have, below what forges take: 65,536 characters in GitHub, 1,000,000 in GitLab, 32,768
// in Bitbucket.
var maxComment = map[string]int{GitHub: 60_000, GitLab: 60_000, Bitbucket: 30_000}

// ended is what the comment says in the end.
const ended = "The versions of this change have ended."

// text is the comment. Figures that change all the time are in it where they are asked for.
func (h *Hub) text(kind string, versions []api.Version, tests map[string][]api.TestRun, figures bool) (text string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n### Layover: %s\n\n", h.marker(kind), code(h.opts.Environment))
	if len(versions) == 0 {
		b.WriteString(ended + "\n")
		return b.String()
	}
	if more := len(versions) - maxRows; more > 0 {
		versions = versions[:maxRows]
		defer func() { text += fmt.Sprintf("\n%d more versions are not shown.\n", more) }()
	}
	b.WriteString("| version | state | preview | requests and errors, beside those of the default version |\n|---|---|---|---|\n")
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
			state += ": " + code(cut(v.Reason, 300))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", code(v.ID()), state, preview, beside)
	}
	tested := false
	for _, v := range versions {
		for _, r := range tests[v.ID()] {
			if !tested {
				b.WriteString("\n| tests | of | result | proved |\n|---|---|---|---|\n")
				tested = true
			}
			proved := "reached by its requests"
			switch {
			case r.Status == api.RunUnproved:
				proved = "**not proved**"
			case !r.Exercised:
				proved = "**not exercised**"
			}
			result := fmt.Sprintf("%s: %d passed, %d failed, %d skipped", cmp.Or(r.Summary, string(r.Status)), r.Passed, r.Failed, r.Skipped)
			if r.Reason != "" {
				result += ": " + code(cut(r.Reason, 300))
			}
			fmt.Fprintf(&b, "| %s (%s) | %s | %s | %s |\n", code(cut(r.Suite, 200)), code(cut(r.ID, 200)), code(v.ID()), result, proved)
		}
	}
	if !tested {
		b.WriteString("\nNo test run was aimed at these versions yet.\n")
	}
	return cut(b.String(), maxComment[kind])
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
	state, failing, starting, tested, excused := "success", []string{}, 0, 0, 0
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
			excused += r.Excused
			if r.Status != api.RunPassed {
				failing = append(failing, r.Suite+" "+string(r.Status))
			}
		}
	}
	text := fmt.Sprintf("%d versions run, %d suites passed", len(versions), tested)
	if excused > 0 {
		text += fmt.Sprintf(", %d failures excused", excused)
	}
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

// code is text in a cell of a table that means nothing in Markdown and HTML, is no link, no reference to an issue, and mentions
// nobody: GitHub and GitLab look for these in all that is no code, escaped or not.
func code(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '`':
			return '\''
		case r == '|':
			return '¦' // it would end the cell
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r): // controls, and what turns the direction of text
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if text = strings.TrimSpace(text); text == "" {
		return "–"
	}
	return "`" + text + "`"
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}
