package api

import (
	"slices"
	"strings"
)

// Placeholders returns the words that may stand in braces in the command, image
// and environment variables of a service, for example {port}.
func Placeholders() []string {
	return []string{"service", "version", "route", "port", "proxy"}
}

// FillPlaceholders replaces each {word} of s that has a value. All else stays as
// it is: braces around anything but a lower-case word, ${word}, {{word}}, and
// words without a value. Braces inside a value are not filled again.
func FillPlaceholders(s string, values map[string]string) string {
	var out strings.Builder
	rest := s
	for {
		start, end := nextPlaceholder(rest)
		if start < 0 {
			out.WriteString(rest)
			return out.String()
		}
		out.WriteString(rest[:start])
		if value, ok := values[rest[start+1:end-1]]; ok {
			out.WriteString(value)
		} else {
			out.WriteString(rest[start:end])
		}
		rest = rest[end:]
	}
}

// UnknownPlaceholders returns the words of s that look like a placeholder and are
// not one of [Placeholders], each once, in order.
func UnknownPlaceholders(s string) []string {
	var unknown []string
	known := Placeholders()
	for {
		start, end := nextPlaceholder(s)
		if start < 0 {
			return unknown
		}
		word := s[start+1 : end-1]
		if !slices.Contains(known, word) && !slices.Contains(unknown, word) {
			unknown = append(unknown, word)
		}
		s = s[end:]
	}
}

// nextPlaceholder returns where the first {word} of s starts and ends, and -1
// where there is none. A word is a lower-case letter followed by lower-case
// letters, digits and underscores. ${word} is the shell's, {{word}} a template's.
func nextPlaceholder(s string) (start, end int) {
	for i := 0; i < len(s); i++ {
		if s[i] != '{' {
			continue
		}
		j := i + 1
		for j < len(s) && isWordByte(s[j], j > i+1) {
			j++
		}
		foreign := i > 0 && (s[i-1] == '$' || s[i-1] == '{')
		if j > i+1 && j < len(s) && s[j] == '}' && !foreign {
			return i, j + 1
		}
	}
	return -1, -1
}

func isWordByte(c byte, inside bool) bool {
	return 'a' <= c && c <= 'z' || inside && ('0' <= c && c <= '9' || c == '_')
}
