package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/layover-dev/layover/internal/near"
)

// didYouMean returns a hint that names the candidate nearest to word, or lists
// all of them where none is near and they are few.
func didYouMean(word string, candidates []string) string {
	best, bestDistance := "", 1+max(1, min(3, len([]rune(word))/3))
	sorted := slices.Sorted(slices.Values(candidates))
	for _, c := range sorted {
		if d := near.Distance(strings.ToLower(word), c, bestDistance); d < bestDistance {
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
