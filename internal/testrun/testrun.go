// Package testrun keeps what test runs proved: runs with their results, how each test went over all runs, which tests main
// itself fails, and the suites that any repository can run.
package testrun

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

// Store keeps runs, the history of tests, and suites, durably. Each method is one transaction. Implementations pass
// storetest.Run.
type Store interface {
	// AddTestRun stores a new run under the next number, which it returns; of all runs the newest keep stay. It returns
	// control.ErrStored where the ID is taken. PutTestRun replaces a run, TestRun returns one; both return
	// control.ErrNotStored where there is none. TestRuns returns at most limit with a number below before, the newest first,
	// without cases, findings and what was reached.
	AddTestRun(ctx context.Context, r api.TestRun, keep int) (number int64, err error)
	PutTestRun(ctx context.Context, r api.TestRun) error
	TestRun(ctx context.Context, id string) (api.TestRun, error)
	TestRuns(ctx context.Context, before int64, limit int) ([]api.TestRun, error)

	// UpdateTestHistory lets edit change what is known of each test, all or none. TestHistory returns that of a suite,
	// ordered by test. RenameSuite moves it, with what the suite touches, to another name, and returns control.ErrStored
	// where something is known under that. A test that is the only one and called as the suite is it, and renamed as well.
	UpdateTestHistory(ctx context.Context, suite string, tests []string, edit func(*api.TestHistory)) error
	TestHistory(ctx context.Context, suite string) ([]api.TestHistory, error)
	RenameSuite(ctx context.Context, from, to string) error

	// TouchServices lets edit change what is known of each service that a suite reached. Touches returns that of all suites.
	TouchServices(ctx context.Context, suite string, services []string, edit func(*api.TouchedByTest)) error
	Touches(ctx context.Context) (map[string][]api.TouchedByTest, error)

	// Suites, ordered by name and ref. PutSuite inserts or replaces. DeleteSuite returns control.ErrNotStored for an unknown one.
	PutSuite(ctx context.Context, s api.Suite) error
	DeleteSuite(ctx context.Context, name, ref string) error
	Suites(ctx context.Context) ([]api.Suite, error)
}

// Bounds of what is kept.
const (
	keepRuns    = 5_000
	keepHistory = 100 // outcomes of a test
	maxWait     = 24 * time.Hour
	usualWait   = 2 * time.Hour
	maxList     = 1_000
)

// Options are what a Keeper is made from. Store and Tell are required.
type Options struct {
	Store   Store
	Tell    func(ctx context.Context, e api.Event) bool  // stores an event
	Reached func(run string) (r api.Reached, known bool) // what the requests of a run reached; nil where nobody knows
	Begins  func(run string)                             // is told of each run before it has requests; may be nil
	Clock   func() time.Time                             // nil for the real one
}

// Keeper keeps the test runs of one environment. It is safe for concurrent use.
type Keeper struct {
	opts Options
	mu   sync.Mutex // while a run ends
}

// New returns a keeper.
func New(opts Options) *Keeper {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Begins == nil {
		opts.Begins = func(string) {}
	}
	return &Keeper{opts: opts}
}

// Resume tells Options.Begins of the runs that go on: another server, or this one before it was started anew, has begun them.
func (k *Keeper) Resume(ctx context.Context) error {
	going, err := k.Runs(ctx, api.TestRunFilter{Status: api.RunRunning, Limit: maxList})
	for _, r := range going {
		k.opts.Begins(r.ID)
	}
	return err
}

// Begin stores a run that begins, and returns it with its ID and number. Where no ID is given it makes one.
//
// It counts as lost after most; 0 stands for two hours.
func (k *Keeper) Begin(ctx context.Context, r api.TestRun, most api.Duration) (api.TestRun, error) {
	if r.ID == "" {
		r.ID = NewID()
	}
	if err := route.CheckName("run", r.ID); err != nil {
		return r, invalidf("leave the ID out, and one is made", "%s", err)
	}
	if err := checkSuite(r.Suite); err != nil {
		return r, err
	}
	if r.Route != "" {
		if _, err := route.ParseRoute(r.Route); err != nil {
			return r, invalidf("", "route %q: %s", r.Route, err)
		}
	}
	now := k.opts.Clock().UTC()
	if most <= 0 || time.Duration(most) > maxWait {
		most = api.Duration(usualWait)
	}
	r.Until = now.Add(time.Duration(most))
	r.Status, r.Began, r.Ended = api.RunRunning, now, time.Time{}
	r.Cases, r.Findings, r.Reached, r.Unreached, r.Reason, r.Touches = nil, nil, nil, nil, "", nil
	r.Omitted, r.Exercised = api.TestCounts{}, false
	k.tally(&r)
	number, err := k.opts.Store.AddTestRun(ctx, r, keepRuns)
	if errors.Is(err, control.ErrStored) {
		return r, &control.Error{Code: api.CodeConflict, Message: "there is a test run " + r.ID, Hint: "choose another ID, or leave it out: a run's requests are told apart by it"}
	}
	if err != nil {
		return r, err
	}
	r.Number = number
	k.opts.Begins(r.ID)
	return r, nil
}

// NewID makes the ID of a run.
func NewID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return "run-" + hex.EncodeToString(b[:])
}

func checkSuite(name string) error {
	if err := route.CheckName("suite", name); err != nil {
		return invalidf("", "%s", err)
	}
	return nil
}

// End stores the result of a run, and what its tests teach: which of them flip, and which main itself fails. It returns a
// conflict where the run has ended.
func (k *Keeper) End(ctx context.Context, result api.TestRun) (api.TestRun, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := k.find(ctx, result.ID)
	if err != nil {
		return r, err
	}
	if r.Status != api.RunRunning {
		return r, &control.Error{Code: api.CodeConflict, Message: fmt.Sprintf("test run %s has ended: %s", r.ID, r.Status), Hint: "begin another run for another result"}
	}
	if !slices.Contains([]api.RunStatus{api.RunPassed, api.RunFailed, api.RunUnproved, api.RunError, api.RunCanceled}, result.Status) {
		return r, invalidf("a run ends passed, failed, unproved, error or canceled", "%q is not how a test run ends", result.Status)
	}
	names := map[string]bool{}
	for _, c := range result.Cases {
		if names[c.Name] {
			return r, invalidf("give each test a name of its own", "there are two results of test %q", c.Name)
		}
		names[c.Name] = true
	}
	r.Status, r.Reason, r.Exercised, r.ExtraRuns = result.Status, result.Reason, result.Exercised, result.ExtraRuns
	r.Cases, r.Omitted, r.Findings, r.Unreached = result.Cases, result.Omitted, result.Findings, result.Unreached
	if len(result.Versions) > 0 {
		r.Versions = result.Versions
	}
	r.Ended = k.opts.Clock().UTC()
	k.count(&r)
	if err := k.opts.Store.PutTestRun(ctx, r); err != nil {
		return r, err
	}
	return k.present(r), k.learn(ctx, r)
}

// count fills in what follows from a run's tests and requests.
func (k *Keeper) count(r *api.TestRun) {
	k.tally(r)
	if k.opts.Reached == nil {
		return
	}
	reached, known := k.opts.Reached(r.ID)
	if !known {
		return
	}
	r.Reached = &reached
	touched := map[string]bool{}
	for _, e := range reached.Edges {
		touched[e.Service] = true
	}
	r.Touches = slices.Sorted(maps.Keys(touched))
}

// tally counts a run's tests, and what its failures are excused for.
func (k *Keeper) tally(r *api.TestRun) {
	r.Count()
	r.ExcusedFor = nil
	for _, c := range r.Cases {
		if c.Outcome == outcomeFailed && c.Excused {
			if r.ExcusedFor == nil {
				r.ExcusedFor = map[string]int{}
			}
			r.ExcusedFor[k.excuse(c)]++
		}
	}
}

// inQuarantine is why a test is excused that its suite excuses for a time.
const inQuarantine = "in quarantine"

// excuse is why a failed test does not fail the run.
func (k *Keeper) excuse(c api.TestCase) string {
	if c.Quarantine.After(k.opts.Clock()) || c.Verdict == "" {
		return inQuarantine
	}
	return c.Verdict
}

// summary is how a run ended, in words: who reads no further sees what is excused.
func summary(r api.TestRun) string {
	text := string(r.Status)
	if r.Status == api.RunUnproved {
		text = "not proved"
	}
	if r.Excused == 0 {
		return text
	}
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(r.ExcusedFor)) {
		reasons = append(reasons, fmt.Sprintf("%d %s", r.ExcusedFor[reason], reason))
	}
	failures := "failures"
	if r.Excused == 1 {
		failures = "failure"
	}
	text += fmt.Sprintf(", %d %s excused", r.Excused, failures)
	if len(reasons) > 0 { // those of an older layover have none
		text += " (" + strings.Join(reasons, ", ") + ")"
	}
	return text
}

// Outcomes of a test.
const (
	outcomePassed = "passed"
	outcomeFailed = "failed"
)

// VerdictBroken is the verdict on a test that fails on the default versions as well.
const VerdictBroken = "main is broken"

// learn takes in what the tests of a run teach.
func (k *Keeper) learn(ctx context.Context, r api.TestRun) error {
	if r.Status != api.RunPassed && r.Status != api.RunFailed {
		return nil
	}
	if err := k.opts.Store.TouchServices(ctx, r.Suite, r.Touches, func(t *api.TouchedByTest) {
		t.Last = r.Ended
		t.Runs++
	}); err != nil {
		return err
	}
	cases := map[string]api.TestCase{}
	for _, c := range r.Cases {
		if c.Outcome == outcomePassed || c.Outcome == outcomeFailed {
			cases[c.Name] = c
		}
	}
	var events []api.Event
	for names := range slices.Chunk(slices.Sorted(maps.Keys(cases)), batch) {
		if err := k.opts.Store.UpdateTestHistory(ctx, r.Suite, names, func(h *api.TestHistory) {
			if e, tells := learnOne(h, r, cases[h.Test]); tells {
				events = append(events, e)
			}
		}); err != nil {
			return err
		}
	}
	for _, e := range events {
		k.opts.Tell(ctx, e)
	}
	return nil
}

// batch is how many tests are stored at a time.
const batch = 500

// learnOne takes one outcome of a test into its history, and says what to tell its owners.
func learnOne(h *api.TestHistory, r api.TestRun, c api.TestCase) (e api.Event, tells bool) {
	h.Last = append(h.Last, api.TestOutcome{Run: r.ID, Route: r.Route, At: r.Ended, Outcome: c.Outcome, Verdict: c.Verdict, Flipped: c.Flipped, OnDefaults: c.OnDefaults})
	h.Last = h.Last[max(0, len(h.Last)-keepHistory):]
	h.Runs, h.Failed, h.Flips = len(h.Last), 0, 0
	for _, o := range h.Last {
		if o.Outcome == outcomeFailed {
			h.Failed++
		}
		if o.Flipped {
			h.Flips++
		}
	}
	fails := c.Verdict == VerdictBroken
	mended := c.OnDefaults == outcomePassed || r.Route == "" && c.Outcome == outcomePassed
	e = api.Event{Owner: strings.Join(r.Owners, ", "), Actor: r.Actor}
	switch {
	case fails && h.Broken == nil:
		h.Broken = &api.Broken{Since: r.Ended, Run: r.ID, Blame: c.Blame}
		e.Type = api.EventMainBroken
		e.Message = fmt.Sprintf("test %q of suite %s fails on the default versions as well (run %s)", c.Name, r.Suite, r.ID)
	case mended && !fails && h.Broken != nil:
		c.Blame = h.Broken.Blame
		e.Type = api.EventMainMended
		e.Message = fmt.Sprintf("test %q of suite %s passes on the default versions again; it failed since %s", c.Name, r.Suite, h.Broken.Since.Format(time.RFC3339))
		h.Broken = nil
	default:
		return e, false
	}
	if len(c.Blame) > 0 {
		e.Service, e.Version, _ = strings.Cut(c.Blame[0], "@")
	}
	return e, true
}

// Run returns a run with all that is known of it. Of one that goes on it tells what it has reached so far.
func (k *Keeper) Run(ctx context.Context, id string) (api.TestRun, error) {
	r, err := k.find(ctx, id)
	if err == nil && r.Status == api.RunRunning {
		k.count(&r)
	}
	return k.present(r), err
}

// present says how a run ended, in words, and of one whose time is over that it is lost.
func (k *Keeper) present(r api.TestRun) api.TestRun {
	if r.Status == api.RunRunning && k.opts.Clock().After(r.Until) {
		r.Status, r.Reason = api.RunLost, "nothing was heard of it until its time was over"
	}
	r.Summary = summary(r)
	return r
}

// Runs returns the runs that a filter selects, the newest first, without cases, findings and what was reached.
func (k *Keeper) Runs(ctx context.Context, f api.TestRunFilter) ([]api.TestRun, error) {
	limit := min(cmp.Or(f.Limit, 50), maxList)
	before := cmp.Or(f.Before, math.MaxInt64)
	out := []api.TestRun{}
	for len(out) < limit {
		page, err := k.opts.Store.TestRuns(ctx, before, maxList)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			if r = k.present(r); selects(f, r) && len(out) < limit {
				out = append(out, r)
			}
			before = r.Number
		}
		if len(page) < maxList {
			break
		}
	}
	return out, nil
}

func selects(f api.TestRunFilter, r api.TestRun) bool {
	if f.Suite != "" && f.Suite != r.Suite || f.Route != "" && f.Route != r.Route || f.Status != "" && f.Status != r.Status {
		return false
	}
	return f.Version == "" || slices.ContainsFunc(r.Versions, func(v string) bool {
		service, _, _ := strings.Cut(v, "@")
		return v == f.Version || service == f.Version
	})
}

// History returns what is known of the tests of a suite.
func (k *Keeper) History(ctx context.Context, suite string) ([]api.TestHistory, error) {
	return k.opts.Store.TestHistory(ctx, suite)
}

func (k *Keeper) find(ctx context.Context, id string) (api.TestRun, error) {
	r, err := k.opts.Store.TestRun(ctx, id)
	if errors.Is(err, control.ErrNotStored) {
		return r, &control.Error{Code: api.CodeNotFound, Message: "there is no test run " + id, Hint: fmt.Sprintf("the newest %d are kept; layover runs lists them", keepRuns)}
	}
	return r, err
}

func invalidf(hint, format string, args ...any) *control.Error {
	return &control.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}
