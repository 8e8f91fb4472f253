package control

import (
	"maps"
	"slices"
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

// generation returns the generation with that number, or nil.
func (r *VersionRecord) generation(number int64) *Generation {
	for i := range r.Generations {
		if r.Generations[i].Number == number {
			return &r.Generations[i]
		}
	}
	return nil
}

// wants says whether an instance of that generation has a reason to be there.
func (r *VersionRecord) wants(number int64) bool {
	g := r.generation(number)
	return r.Desired == DesiredRunning && g != nil &&
		(g.State == GenerationServing || g.State == GenerationPending)
}

// append adds g as the newest generation, and supersedes one that is still pending.
func (r *VersionRecord) append(g Generation) {
	if last := r.newest(); last != nil {
		g.Number = last.Number + 1
		if last.State == GenerationPending {
			last.State = GenerationSuperseded
		}
	} else {
		g.Number = 1
	}
	r.Generations = append(r.Generations, g)
	for len(r.Generations) > keptGenerations {
		i := slices.IndexFunc(r.Generations, func(g Generation) bool { return g.State != GenerationServing })
		r.Generations = slices.Delete(r.Generations, i, i+1)
	}
}

// supersede ends what is pending or serving: the version is to be stopped.
func (r *VersionRecord) supersede() {
	for i := range r.Generations {
		if s := r.Generations[i].State; s == GenerationPending || s == GenerationServing {
			r.Generations[i].State = GenerationSuperseded
		}
	}
}

func (r *VersionRecord) clone() *VersionRecord {
	next := *r
	next.Generations = slices.Clone(r.Generations)
	for i := range next.Generations {
		next.Generations[i].Env = maps.Clone(next.Generations[i].Env)
	}
	return &next
}
