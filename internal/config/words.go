package config

import (
	"fmt"
	"strings"
)

// hostProblem says why s is no host name in lower case (RFC 1123, and _ too),
// or "*.suffix" where wildcard is set, and what to write instead.
func hostProblem(s string, wildcard bool) (hint, message string) {
	name := s
	if rest, ok := strings.CutPrefix(s, "*."); ok && wildcard {
		name = rest
	}
	switch {
	case name == "" || len(name) > 253:
		return "", fmt.Sprintf("%q is not a host name", clip(s))
	case strings.Contains(name, "://"):
		return "leave out everything but the host", fmt.Sprintf("%q is a URL, not a host name", clip(s))
	case strings.Contains(name, ":"):
		return "leave the port out", fmt.Sprintf("%q is not a host name", clip(s))
	case strings.Contains(name, "*"):
		return "* stands alone in front, as in *.example.com", fmt.Sprintf("%q is not a host name", clip(s))
	case strings.ToLower(name) != name:
		return fmt.Sprintf("write %q", strings.ToLower(s)), fmt.Sprintf("the host %q is not in lower case", clip(s))
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") || strings.ContainsFunc(label, notHostRune) {
			return "", fmt.Sprintf("%q is not a host name", clip(s))
		}
	}
	return "", ""
}

func notHostRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// isToken says whether s is a token of RFC 9110, section 5.6.2: header names and
// baggage keys are.
func isToken(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r) {
			return false
		}
	}
	return s != ""
}
