// Package suite is what a test run proves: whether it reached what it was to test, and whose fault a failed test is. It runs
// nothing and knows no server.
package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Verdict says whose fault a failed test is.
type Verdict string

// The verdicts.
const (
	Yours     Verdict = "yours"          // the version under test fails by itself
	MainFails Verdict = "main is broken" // the default versions fail it as well
	Theirs    Verdict = "theirs"         // another version of the route fails by itself
	Together  Verdict = "only together"  // versions of the route fail together, and none of them alone
	Flaky     Verdict = "flaky"          // it passed on the versions it failed on
	Undecided Verdict = "undecided"      // it could not be tried, or tests what the default versions may never have had
)

// Verdicts returns all verdicts.
func Verdicts() []Verdict { return []Verdict{Yours, Theirs, Together, MainFails, Flaky, Undecided} }

// Trial is a way to run failed tests again. The zero value is the route as it is.
type Trial struct {
	Defaults bool     // no route: the default versions alone
	Only     []string // the route without all versions but these
	Without  []string // the route without these versions
}

// String says what the trial is, as evidence.
func (t Trial) String() string {
	switch {
	case t.Defaults:
		return "on the default versions"
	case len(t.Only) > 0:
		return "with " + strings.Join(t.Only, " and ") + " alone"
	case len(t.Without) > 0:
		return "without " + strings.Join(t.Without, " and ")
	}
	return "again on the same versions"
}

// Past is what earlier runs say of a test.
type Past struct {
	Runs  int // that are known
	Flips int // in which it failed and passed on the same versions
	// Elsewhere says that it passed on the default versions, or on another route. Where it never did, the default versions may not
	// have yet what it tests: that it fails there says nothing of them.
	Elsewhere bool
}

// What makes a test one that is known to be stable, and what one must do that is known not to be.
const (
	stableRuns     = 20
	doubt          = 0.002 // that a flaky test fails so often one after the other
	mostRepeats    = 3
	unknownRepeats = 2
	maxTrials      = 40
	leastFlaking   = 0.02
)

func (p Past) stable() bool { return p.Runs >= stableRuns && p.Flips == 0 }

// repeats is how often the test has to fail again on the same versions before anything but flaky is believed.
func (p Past) repeats() int {
	if p.stable() {
		return 0
	}
	if p.Flips == 0 {
		return unknownRepeats
	}
	rate := max(float64(p.Flips)/float64(max(p.Runs, p.Flips)), leastFlaking)
	n, chance := 0, 1.0
	for chance > doubt && n < mostRepeats {
		chance *= rate
		n++
	}
	return n
}

// Runner runs tests in a trial, and says which of them passed. One that it says nothing of could not be run.
type Runner func(ctx context.Context, t Trial, tests []string) (passed map[string]bool, err error)

// Judgement is a verdict, and what it rests on.
type Judgement struct {
	Verdict    Verdict
	Blame      []string // versions, as service@version; none of flaky tests, and of main
	Evidence   []string // what was tried, and how it went
	OnDefaults string   // "passed" or "failed" where that was tried
	Runs       int      // how often it was run again
}

// Judge finds out whose fault failed tests are by running them again: at most twice each on average where few are flaky. Mine
// is the version under test, "" where all of the route are; versions are all that the route has, as service@version. Tests
// that wait for the same trial share it. An error of run makes those tests undecided; the error of ctx ends everything.
//
// A test that was never seen to flip, in 20 runs or more, is taken to be stable. Any other has to fail again on the same
// versions first: twice where too little is known or it flips seldom, and three times where it flips in more than 1 of 23 runs. Then the
// default versions and parts of the route are tried, in the order that needs the fewest runs; of such a test one failure in a
// trial is none yet.
func Judge(ctx context.Context, failed []string, mine string, versions []string, past map[string]Past, run Runner) (map[string]Judgement, error) {
	open := map[string]*trying{}
	for _, test := range failed {
		open[test] = &trying{mine: mine, versions: versions, past: past[test], repeats: past[test].repeats(), known: map[string]bool{}, failures: map[string]int{}}
	}
	out := map[string]Judgement{}
	for range maxTrials {
		waiting, trials := map[string][]string{}, map[string]Trial{}
		for _, test := range failed {
			t := open[test]
			if t == nil {
				continue
			}
			trial, done := t.next()
			if done {
				out[test] = t.judgement
				delete(open, test)
				continue
			}
			key := trial.String()
			waiting[key], trials[key] = append(waiting[key], test), trial
		}
		if len(open) == 0 {
			return out, nil
		}
		key := mostWanted(waiting)
		passed, err := run(ctx, trials[key], waiting[key])
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		for _, test := range waiting[key] {
			pass, known := passed[test]
			open[test].tell(trials[key], pass, known && err == nil, err)
		}
	}
	for test, t := range open {
		t.judgement.Verdict = Undecided
		out[test] = t.judgement
	}
	return out, nil
}

// mostWanted is the trial that most tests wait for, and of those the first by name.
func mostWanted(waiting map[string][]string) (best string) {
	for key, tests := range waiting {
		if n := len(waiting[best]); best == "" || len(tests) > n || len(tests) == n && key < best {
			best = key
		}
	}
	return best
}

// trying is a test whose verdict is being found.
type trying struct {
	mine      string
	versions  []string
	past      Past
	repeats   int             // failures on the same versions that are needed; 0 where it is known to be stable
	known     map[string]bool // what came of trials, by their text: whether the test passed
	failures  map[string]int  // how often it failed in each
	broken    bool            // a trial could not be run
	judgement Judgement
}

func (t *trying) tell(trial Trial, passed, ran bool, err error) {
	j := &t.judgement
	if !ran {
		why := "it was not run"
		if err != nil {
			why = err.Error()
		}
		j.Evidence = append(j.Evidence, fmt.Sprintf("%s: could not be tried: %s", trial, why))
		t.broken = true
		return
	}
	word := "failed"
	if passed {
		word = "passed"
	}
	j.Runs++
	j.Evidence = append(j.Evidence, fmt.Sprintf("%s: %s", trial, word))
	if trial.Defaults {
		j.OnDefaults = word
	}
	key, need := trial.String(), 1
	switch {
	case key == (Trial{}).String():
		need = max(t.repeats, 1)
	case t.repeats > 0:
		need = 2
	}
	if t.failures[key]++; passed || t.failures[key] >= need {
		t.known[key] = passed
	}
}

// passes returns what is known of a trial.
func (t *trying) passes(trial Trial) (passed, known bool) {
	passed, known = t.known[trial.String()]
	return passed, known
}

func (t *trying) is(v Verdict, blame ...string) (Trial, bool) {
	t.judgement.Verdict, t.judgement.Blame = v, blame
	return Trial{}, true
}

// mainFails is the verdict where the default versions fail as well as the route.
func (t *trying) mainFails() (Trial, bool) {
	if !t.past.Elsewhere {
		t.judgement.Evidence = append(t.judgement.Evidence, "it is not known to have passed without this route: main may not have yet what it tests")
		return t.is(Undecided)
	}
	return t.is(MainFails)
}

// next returns the next trial, or says that the verdict is found.
func (t *trying) next() (trial Trial, done bool) {
	if t.broken {
		return t.is(Undecided)
	}
	again, repeated := t.passes(Trial{})
	switch {
	case repeated && again:
		return t.is(Flaky)
	case !repeated && t.repeats > 0:
		return Trial{}, false
	}
	others := slices.DeleteFunc(slices.Clone(t.versions), func(v string) bool { return v == t.mine })
	switch {
	case len(t.versions) == 0: // the run was against the default versions
		return t.confirmed(MainFails)
	case len(t.versions) == 1:
		return t.nextOfOne(t.versions[0])
	case t.mine == "" || len(others) == len(t.versions):
		return t.nextOfMany(nil)
	}
	mineAlone := Trial{Only: []string{t.mine}}
	passed, known := t.passes(mineAlone)
	if !known {
		return mineAlone, false
	}
	if !passed {
		return t.orMain(Yours, t.mine)
	}
	without := Trial{Without: []string{t.mine}}
	if passed, known = t.passes(without); !known {
		return without, false
	}
	if passed { // neither mine nor the others alone
		if !repeated {
			return Trial{}, false
		}
		return t.nextOfTogether(others)
	}
	if len(others) == 1 { // with mine alone it passed, so main is well
		return t.is(Theirs, others[0])
	}
	return t.nextOfMany([]string{t.mine})
}

// confirmed is a verdict that holds where the test fails again on the same versions, and flaky where it passes.
func (t *trying) confirmed(v Verdict, blame ...string) (Trial, bool) {
	passed, known := t.passes(Trial{})
	switch {
	case !known:
		return Trial{}, false
	case passed:
		return t.is(Flaky)
	}
	return t.is(v, blame...)
}

// nextOfOne is for a route with one version.
func (t *trying) nextOfOne(version string) (Trial, bool) {
	passed, known := t.passes(Trial{Defaults: true})
	switch {
	case !known:
		return Trial{Defaults: true}, false
	case !passed:
		return t.mainFails()
	}
	verdict := Yours
	if t.mine != "" && t.mine != version {
		verdict = Theirs
	}
	return t.confirmed(verdict, version)
}

// orMain is a verdict on a version that fails by itself, unless the default versions fail as well.
func (t *trying) orMain(v Verdict, blame string) (Trial, bool) {
	passed, known := t.passes(Trial{Defaults: true})
	switch {
	case !known:
		return Trial{Defaults: true}, false
	case !passed:
		return t.mainFails()
	}
	return t.is(v, blame)
}

// nextOfMany finds which versions of a route it takes, besides those that are known to be well.
func (t *trying) nextOfMany(well []string) (Trial, bool) {
	verdict := Theirs
	if t.mine == "" {
		verdict = Yours
	}
	if len(well) == 0 {
		if passed, known := t.passes(Trial{Defaults: true}); !known {
			return Trial{Defaults: true}, false
		} else if !passed {
			return t.mainFails()
		}
	}
	var needed []string // without each of them it passes
	for _, v := range t.versions {
		if slices.Contains(well, v) {
			continue
		}
		trial := Trial{Without: append(slices.Clone(well), v)}
		passed, known := t.passes(trial)
		if !known {
			return trial, false
		}
		if passed {
			needed = append(needed, v)
		}
	}
	switch len(needed) {
	case 0: // several fail, each by itself
		var alone []string
		for _, v := range t.versions {
			if slices.Contains(well, v) {
				continue
			}
			trial := Trial{Only: []string{v}}
			passed, known := t.passes(trial)
			if !known {
				return trial, false
			}
			if !passed {
				alone = append(alone, v)
			}
		}
		return t.is(verdict, alone...)
	case 1:
		return t.confirmed(verdict, needed[0])
	}
	return t.confirmed(Together, needed...)
}

// nextOfTogether finds which of the other versions it takes besides mine.
func (t *trying) nextOfTogether(others []string) (Trial, bool) {
	if len(others) == 1 {
		return t.is(Together, t.mine, others[0])
	}
	blame := []string{t.mine}
	for _, v := range others {
		trial := Trial{Without: []string{v}}
		passed, known := t.passes(trial)
		if !known {
			return trial, false
		}
		if passed {
			blame = append(blame, v)
		}
	}
	return t.is(Together, blame...)
}
