package config

import (
	"fmt"
	"slices"
	"strings"
)

// didYouMean returns a hint that names the candidate nearest to word, or lists
// all of them where none is near and they are few.
func didYouMean(word string, candidates []string) string {
	best, bestDistance := "", 1+max(1, min(3, len([]rune(word))/3))
	sorted := slices.Sorted(slices.Values(candidates))
	for _, c := range sorted {
		if d := distance(strings.ToLower(word), c, bestDistance); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(sorted) > 0 && len(sorted) <= 15:
		return "known here: " + strings.Join(sorted, ", ")
	}
	return ""
}

// distance counts the edits between a and b: inserted, removed, changed and
// swapped characters (optimal string alignment). At limit or above it returns limit.
func distance(a, b string, limit int) int {
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
