package control

import (
	"strconv"
	"strings"
)

// traceIn finds the ids of trace and span that a line of a log names, as lower-case hex of 32 and 16 digits; "" where it names none.
// It knows what loggers and tracers write: trace_id, traceId, trace.id, TraceId, otelTraceID, dd.trace_id (decimal), traceparent, as JSON,
// as logfmt, or in words ("trace_id: …"). Of several the first counts.
func traceIn(text string) (trace, span string) {
	text = text[:min(len(text), maxTraced)]
	for at := 0; ; {
		i := indexFold(text[at:], "trace")
		if i < 0 {
			return "", ""
		}
		start := at + i
		at = start + len("trace")
		key, value := keyAndValue(text[start:])
		switch key {
		case "traceparent":
			if len(value) == len("00-")+32+1+16+len("-01") && value[2] == '-' && value[35] == '-' && isHex(value[3:35]) && isHex(value[36:52]) {
				return strings.ToLower(value[3:35]), strings.ToLower(value[36:52])
			}
		case "trace", "traceid":
			if trace = hexID(value, 32, isDatadog(text[:start])); trace != "" {
				return trace, spanIn(text)
			}
		}
	}
}

// maxTraced is how much of a line is looked at, in bytes.
const maxTraced = 8 << 10

// spanIn finds the id of a span.
func spanIn(text string) string {
	for at := 0; ; {
		i := indexFold(text[at:], "span")
		if i < 0 {
			return ""
		}
		start := at + i
		at = start + len("span")
		if key, value := keyAndValue(text[start:]); key == "span" || key == "spanid" {
			if span := hexID(value, 16, isDatadog(text[:start])); span != "" {
				return span
			}
		}
	}
}

// keyAndValue takes the key at the beginning of text apart from its value: key=value, "key":"value", key: value. The key is in lower case,
// without "_", "-" and ".".
func keyAndValue(text string) (key, value string) {
	const most = 16 // of a key; the longest is traceparent. See squashed
	end := 0
	for end < len(text) && end < most && (isAlphanumeric(text[end]) || strings.IndexByte("_-.", text[end]) >= 0) {
		end++
	}
	if end == most {
		return "", ""
	}
	rest := strings.TrimLeft(text[end:], `"' \`)
	if rest == "" || rest[0] != '=' && rest[0] != ':' {
		return "", ""
	}
	rest = strings.TrimLeft(rest[1:], `"' \`)
	n := 0
	for n < len(rest) && n < 64 && (isAlphanumeric(rest[n]) || rest[n] == '-') {
		n++
	}
	return squashed(text[:end]), rest[:n]
}

// isDatadog says whether a key after such a text is one of Datadog's.
func isDatadog(before string) bool {
	return len(before) >= 3 && strings.EqualFold(before[len(before)-3:], "dd.")
}

// squashed returns a key in lower case and without what parts its words.
func squashed(key string) string {
	var letters [16]byte
	n := 0
	for i := range len(key) {
		if isAlphanumeric(key[i]) {
			letters[n] = key[i] | 0x20 // which leaves digits as they are
			n++
		}
	}
	return string(letters[:n])
}

// hexID returns an id of so many digits; a decimal one of Datadog's, of 64 bits, is turned into hex.
func hexID(value string, digits int, decimal bool) string {
	switch {
	case len(value) == digits && isHex(value) && (!decimal || digits == 32):
		value = strings.ToLower(value)
	case decimal:
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return ""
		}
		value = strings.Repeat("0", digits-16) + zeroPadded(n)
	default:
		return ""
	}
	if strings.Trim(value, "0") == "" {
		return ""
	}
	return value
}

func zeroPadded(n uint64) string {
	text := strconv.FormatUint(n, 16)
	return "0000000000000000"[len(text):] + text
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// indexFold finds a word in lower case in text of any case; -1 where it is not there.
func indexFold(text, word string) int {
	for at := 0; at+len(word) <= len(text); at++ {
		i := strings.IndexByte(text[at:], word[0])
		j := strings.IndexByte(text[at:], word[0]-'a'+'A')
		if i < 0 || 0 <= j && j < i {
			i = j
		}
		if at += i; i < 0 || at+len(word) > len(text) {
			return -1
		}
		if strings.EqualFold(text[at:at+len(word)], word) {
			return at
		}
	}
	return -1
}
