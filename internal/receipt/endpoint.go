package receipt

import "strings"

// Bounds of a template.
const (
	maxSegments = 16
	maxTemplate = 128
)

// PathTemplate makes one path of many: what stands for one thing among many in a segment, as a number, a UUID or a long
// hexadecimal text, becomes {id}. What is too long is cut, and ends with "…".
func PathTemplate(path string) string {
	if !needsTemplate(path) {
		return path
	}
	var b strings.Builder
	n := 0
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if n++; n > maxSegments || b.Len()+len(segment) > maxTemplate {
			b.WriteString("/…")
			break
		}
		b.WriteByte('/')
		if isID(segment) {
			segment = "{id}"
		}
		b.WriteString(segment)
	}
	return b.String()
}

// needsTemplate says whether the template differs from the path. Most paths have no digit.
func needsTemplate(path string) bool {
	if !strings.HasPrefix(path, "/") {
		return len(path) > maxTemplate
	}
	return len(path) > maxTemplate || strings.ContainsAny(path, "0123456789") || strings.Count(path, "/") > maxSegments
}

// isID says whether a segment is the name of one thing among many.
func isID(segment string) bool {
	digits, hex, other := 0, 0, 0
	for i := range len(segment) {
		switch c := segment[i]; {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F':
			hex++
		case c == '-' || c == '_' || c == '.':
		default:
			other++
		}
	}
	const long = 12 // as many digits and letters as words that end with a number rarely have
	switch {
	case digits == 0:
		return false
	case hex+other == 0:
		return true
	case other == 0:
		return digits+hex >= 8
	default:
		return digits >= 4 && digits+hex+other >= long
	}
}
