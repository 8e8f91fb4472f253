package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/layover-dev/layover/internal/route"
)

// keptGenerations bounds the history of a version.
const keptGenerations = 20

// newest returns the newest generation, or nil where there is none.
func (r *VersionRecord) newest() *Generation {
	if len(r.Generations) == 0 {
		return nil
	}
	return &r.Generations[len(r.Generations)-1]
}

// serving returns the generation that should answer, or nil.
func (r *VersionRecord) serving() *Generation {
	for i := len(r.Generations) - 1; i >= 0; i-- {
		if r.Generations[i].State == GenerationServing {
			return &r.Generations[i]
		}
	}
	return nil
}

// startable returns the generation that a start without a deployment runs: what
// serves; else what was wanted last, unless it failed and an earlier one had come up.
func (r *VersionRecord) startable() *Generation {
	if g := r.serving(); g != nil {
		return g
	}
	newest := r.newest()
	if newest == nil || newest.State != GenerationFailed {
		return newest
	}
	return cmp.Or(r.generation(r.lastServed()), newest)
}

// takeBranch notes the branch that a deployment is made from; "" is a deployment under the
// version's very name. Where r is another branch's that comes out as the same name, it
// returns an error: none is ever deployed over the other.
//
// A name that no branch of either side comes out as was chosen freely. Its version may get a
// branch later, and may be deployed without naming it.
func (r *VersionRecord) takeBranch(branch string) error {
	if r.newest() == nil || r.Desired == DesiredRemoved { // a new life
		r.Branch = branch
		return nil
	}
	if problem := r.otherBranch(branch); problem != "" {
		hint := "choose another name for one of the two, or remove this version first"
		if cmp.Or(branch, r.Version) == r.Version {
			hint = fmt.Sprintf("for that branch: layover deploy %s@%s (in layover.yaml: branch); for another, choose another name, or remove this version first", r.Service, r.Branch)
		}
		return conflictf(hint, "%s", problem)
	}
	if was, is := cmp.Or(r.Branch, r.Version), cmp.Or(branch, r.Version); was != is && was == r.Version {
		r.Branch = branch
	}
	return nil
}

// meant returns an error where the version of a branch is meant, and r is another's. "" means
// the version of that name, whoever's it is.
func (r *VersionRecord) meant(branch string) error {
	if branch == "" {
		return nil
	}
	if problem := r.otherBranch(branch); problem != "" {
		return conflictf("where that version is meant all the same, write its name: "+r.String(), "%s", problem)
	}
	return nil
}

// otherBranch says why r is not the version of a branch, "" where it is or may become that; see
// [VersionRecord.takeBranch].
func (r *VersionRecord) otherBranch(branch string) string {
	name := r.Version
	was, is := cmp.Or(r.Branch, name), cmp.Or(branch, name)
	switch {
	case was == is, is == name && route.NameOf(was) != name, was == name && route.NameOf(is) != name:
		return ""
	case is == name:
		return fmt.Sprintf("%s belongs to branch %q, which comes out as the same name", r.Key, was)
	case was == name:
		return fmt.Sprintf("%s was deployed under that very name, and branch %q comes out as the same name", r.Key, is)
	default:
		return fmt.Sprintf("%s belongs to branch %q, and branch %q comes out as the same name", r.Key, was, is)
	}
}

// sameWish says whether r, which may be nil, and o want the same to run.
func (r *VersionRecord) sameWish(o *VersionRecord) bool {
	if r == nil {
		return false
	}
	a, b := r.newest(), o.newest()
	return r.Desired == o.Desired && r.skipsTeardown() == o.skipsTeardown() && (a == nil) == (b == nil) && (a == nil || a.Number == b.Number) &&
		a.sameSlots(b) && r.serving().sameSlots(o.serving())
}

// generation returns the generation with that number, or nil.
func (r *VersionRecord) generation(number int64) *Generation {
	for i := range r.Generations {
		if r.Generations[i].Number == number {
			return &r.Generations[i]
		}
	}
	return nil
}

// wants says whether the instance id of that generation has a reason to be there.
func (r *VersionRecord) wants(number int64, id string) bool {
	g := r.generation(number)
	return r.Desired == DesiredRunning && g != nil &&
		(g.State == GenerationServing || g.State == GenerationPending) &&
		slices.Contains(g.instanceIDs(r.Key), id)
}

// lastServed returns the number of the newest generation that came up, 0 where none did.
func (r *VersionRecord) lastServed() int64 {
	for _, v := range slices.Backward(r.Generations) {
		if v.Served {
			return v.Number
		}
	}
	return 0
}

// append adds g as the newest generation, and supersedes one that is still pending.
func (r *VersionRecord) append(g Generation) {
	if last := r.newest(); last != nil {
		g.Number = last.Number + 1
		if last.State == GenerationPending {
			last.State = GenerationSuperseded
		}
		last.LogTail = nil // only that of the newest is shown
	} else {
		g.Number = 1
	}
	r.Generations = append(r.Generations, g)
	for len(r.Generations) > keptGenerations {
		// What a start or a rollback goes back to stays, however many failed since.
		last := r.lastServed()
		before := r.servedBefore(last)
		i := slices.IndexFunc(r.Generations, func(g Generation) bool { return g.Number != last && g.Number != before })
		r.Generations = slices.Delete(r.Generations, i, i+1)
	}
}

// servedBefore returns the number of the newest generation that came up besides that one, 0 where none did.
func (r *VersionRecord) servedBefore(number int64) int64 {
	for _, g := range slices.Backward(r.Generations) {
		if g.Served && g.Number != number {
			return g.Number
		}
	}
	return 0
}

// promote makes a generation the one that serves. It returns [errSuperseded] where
// r, which may be nil, no longer wants that.
func (r *VersionRecord) promote(number int64) (*VersionRecord, error) {
	if r == nil || r.Desired != DesiredRunning || r.newest().Number != number {
		return nil, errSuperseded
	}
	for i := range r.Generations {
		if r.Generations[i].State == GenerationServing {
			r.Generations[i].State = GenerationSuperseded
		}
	}
	r.newest().State, r.newest().Served = GenerationServing, true
	return r, nil
}

// fail notes why a generation did not come up. It returns [errSuperseded] where
// r, which may be nil, no longer waits for it.
func (r *VersionRecord) fail(number int64, reason string, tail []string) (*VersionRecord, error) {
	if r == nil {
		return nil, errSuperseded
	}
	g := r.generation(number)
	if g == nil || g.State != GenerationPending {
		return nil, errSuperseded
	}
	g.State, g.Reason, g.LogTail = GenerationFailed, reason, tail
	return r, nil
}

// supersede ends what is pending or serving: the version is to be stopped.
func (r *VersionRecord) supersede() {
	for i := range r.Generations {
		if s := r.Generations[i].State; s == GenerationPending || s == GenerationServing {
			r.Generations[i].State = GenerationSuperseded
		}
	}
}

// pending says whether the newest generation is on its way.
func (r *VersionRecord) pending() bool {
	g := r.newest()
	return g != nil && g.State == GenerationPending
}

func (r *VersionRecord) clone() *VersionRecord {
	next := *r
	next.Labels = maps.Clone(r.Labels)
	next.Generations = slices.Clone(r.Generations)
	for i := range next.Generations {
		next.Generations[i].Env = maps.Clone(next.Generations[i].Env)
	}
	return &next
}
