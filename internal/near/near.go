// Package near finds the names that somebody may have meant.
package near

import (
	"cmp"
	"slices"
	"strings"
)

// Names returns at most limit of the candidates that are near to word, the nearest first: those
// within a third of its letters, and those that begin as it does or as it goes on.
func Names(word string, candidates []string, limit int) []string {
	type found struct {
		name     string
		distance int
	}
	reach := 1 + max(1, min(3, len([]rune(word))/3))
	var all []found
	for _, c := range candidates {
		d := Distance(strings.ToLower(word), strings.ToLower(c), reach)
		shared := c != "" && word != "" && (strings.HasPrefix(c, word) || strings.HasPrefix(word, c))
		if c != word && (d < reach || shared) {
			all = append(all, found{c, d})
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, f := range all[:min(len(all), limit)] {
		names = append(names, f.name)
	}
	return names
}

// Distance counts the edits between a and b: inserted, removed, changed and
// swapped characters (optimal string alignment). At limit or above it returns limit.
func Distance(a, b string, limit int) int {
	x, y := []rune(a), []rune(b)
	if len(x)-len(y) >= limit || len(y)-len(x) >= limit {
		return limit
	}
	before := make([]int, len(y)+1)
	previous := make([]int, len(y)+1)
	current := make([]int, len(y)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(x); i++ {
		current[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return min(previous[len(y)], limit)
}
