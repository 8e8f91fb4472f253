package traefik

import (
	"regexp"
	"slices"
)

// Without is the evaluator without one router.
func (e *Evaluator) Without(router string) *Evaluator {
	return &Evaluator{slices.DeleteFunc(slices.Clone(e.routers), func(c compiled) bool { return c.answer.Router == router })}
}

// BaggageIs says whether the rule of a value is true of lines, and whether each member with the key says its value
// without an escape and alone, so that it has to be, where it is the route.
func BaggageIs(lines []string, key, value string) (matches, plain bool) {
	is, isNot := matchesAny(lines, baggageIs(key, value)), matchesAny(lines, baggageIsNot(key, value))
	return is && !isNot, !isNot
}

// BaggageHas says whether the rule of the key is true of lines.
func BaggageHas(lines []string, key string) bool { return matchesAny(lines, baggageHas(key)) }

func matchesAny(lines []string, expression string) bool {
	return slices.ContainsFunc(lines, regexp.MustCompile(expression).MatchString)
}
