package route

import (
	"strings"
)

// MaxBaggage is how many bytes of baggage are read (R3). The lines of the header
// count as the one list they are: joined by one comma between two lines. A
// member that does not end within the first MaxBaggage bytes is not read, nor is
// what follows it; part of a member never is.
const MaxBaggage = 8192

// Member finds the member with the given key in the baggage lines of a request
// (R3; W3C Baggage, section 3.3). The value comes back as it stands there, still
// percent-encoded ([DecodeValue]) and without its properties; it may be empty.
// Of several well-formed members with the key the last one counts. A malformed
// member is skipped: one with a value or property that W3C Baggage does not
// allow, or with a "%" that two hex digits do not follow. Keys are
// case-sensitive and never decoded. Member does not allocate.
func Member(lines []string, key string) (value string, ok bool) {
	before := 0 // bytes of the lines before this one, with the commas that join them
	for _, line := range lines {
		for rest := line; ; { // what is still to be searched of the line
			at := strings.Index(rest, key)
			if at < 0 {
				break
			}
			raw, more := rest[at:], false
			if comma := strings.IndexByte(raw, ','); comma >= 0 {
				raw, more = raw[:comma], true
			}
			end := at + len(raw)
			if before+len(line)-len(rest)+end > MaxBaggage {
				return value, ok
			}
			if behind := behindKey(raw, key); behind != "" && startsMember(rest[:at]) {
				if v, problem := parseValue(behind[len("="):]); problem == "" {
					value, ok = v, true
				}
			}
			if !more {
				break
			}
			rest = rest[end+len(","):]
		}
		before += len(line) + len(",")
	}
	return value, ok
}

// startsMember says whether what follows text in a line is the beginning of a member.
func startsMember(text string) bool {
	i := len(text)
	for i > 0 && isOWS(text[i-1]) {
		i--
	}
	return i == 0 || text[i-1] == ','
}

// PrependMember returns baggage lines in which the member key=value comes first,
// in one line with what the first of lines had. Members that had the key are gone,
// so that readers who take the last one do not read an older one; everything
// else is byte for byte what it was. The lines given are not changed.
//
// The value may come with parts of it percent-encoded, as [Decision].Route does,
// and is written with those octets percent-encoded that W3C Baggage does not
// allow as they are. The key must be a token (RFC 9110, section 5.6.2).
func PrependMember(lines []string, key, value string) []string {
	out := make([]string, 1, len(lines)+1)
	var first strings.Builder
	first.WriteString(key + "=" + EncodeValue(percentDecode(value)))
	for i, line := range lines {
		kept := withoutMember(line, key)
		switch {
		case strings.Trim(kept, " \t") == "":
		case i == 0:
			first.WriteString("," + kept)
		default:
			out = append(out, kept)
		}
	}
	out[0] = first.String()
	return out
}

// EncodeValue percent-encodes the octets of value that a baggage value cannot
// hold as they are: everything but baggage-octet (W3C Baggage, section 3.3.1), and "%".
func EncodeValue(value string) string {
	n := 0
	for i := range len(value) {
		if !isBaggageOctet(value[i]) || value[i] == '%' {
			n++
		}
	}
	if n == 0 {
		return value
	}
	return escape(value, len(value)+2*n, func(c byte) bool { return isBaggageOctet(c) && c != '%' })
}

// DecodeValue percent-decodes the value of a baggage member. Octets that are no
// UTF-8 become U+FFFD each, as W3C Baggage asks; a "%" that two hex digits do not
// follow stays.
func DecodeValue(value string) string {
	return string([]rune(percentDecode(value)))
}

// memberScan walks over the members of baggage lines as one list, within the
// first MaxBaggage bytes.
type memberScan struct {
	lines []string
	rest  string // of the line that is being read
	open  bool   // rest is to be read, be it empty
	used  int    // bytes read, separators included
	cut   bool   // something was not read for want of room
}

// next returns the next member that is not blank, without the white space around it.
func (s *memberScan) next() (raw string, ok bool) {
	for {
		if !s.open {
			if len(s.lines) == 0 {
				return "", false
			}
			s.rest, s.lines, s.open = s.lines[0], s.lines[1:], true
		}
		raw, s.open = s.rest, false
		if comma := strings.IndexByte(s.rest, ','); comma >= 0 {
			raw, s.rest, s.open = s.rest[:comma], s.rest[comma+1:], true
		}
		if s.used+len(raw) > MaxBaggage {
			s.lines, s.open, s.cut = nil, false, true
			return "", false
		}
		s.used += len(raw) + len(",")
		if raw = trimOWS(raw); raw != "" {
			return raw, true
		}
	}
}

// member is a well-formed baggage member, as it stands in the header.
type member struct {
	key   string
	value string
}

// parseMember takes a member apart. Problem says why it is malformed; "" where
// it is not.
func parseMember(raw string) (m member, problem string) {
	pair, _, _ := strings.Cut(raw, ";")
	at := strings.IndexByte(pair, '=')
	if at < 0 {
		return member{}, "it has no \"=\""
	}
	m.key = trimOWS(pair[:at])
	if m.key == "" {
		return member{}, "it has no key"
	}
	if !isToken(m.key) {
		return member{}, "its key has a character that is not allowed"
	}
	if m.value, problem = parseValue(raw[at+len("="):]); problem != "" {
		return member{}, problem
	}
	return m, ""
}

// parseValue takes apart what stands behind the first "=" of a member.
func parseValue(text string) (value, problem string) {
	for text != "" && isOWS(text[0]) {
		text = text[1:]
	}
	n := encodedValue(text)
	value, text = text[:n], trimOWS(text[n:])
	switch {
	case text == "":
		return value, ""
	case text[0] != ';':
		return "", "its value has a character that is not allowed, or a \"%\" without two hex digits"
	case !areProperties(text[len(";"):]):
		return "", "it has a malformed property"
	}
	return value, ""
}

// hasKey says whether the key of a trimmed member is key, in a member that may be
// malformed otherwise.
func hasKey(raw, key string) bool {
	return strings.HasPrefix(raw, key) && behindKey(raw, key) != ""
}

// behindKey is what stands behind the key in a member that begins with it, from the
// "=" on; "" where another key begins so.
func behindKey(raw, key string) string {
	for i := len(key); i < len(raw); i++ {
		if raw[i] == '=' {
			return raw[i:]
		}
		if !isOWS(raw[i]) {
			break
		}
	}
	return ""
}

// withoutMember returns line without the members that have the key. Blank members
// stay as they are.
func withoutMember(line, key string) string {
	if !strings.Contains(line, key) {
		return line
	}
	var kept []string
	removed := false
	for raw := range strings.SplitSeq(line, ",") {
		if hasKey(trimOWS(raw), key) {
			removed = true
			continue
		}
		kept = append(kept, raw)
	}
	if !removed {
		return line
	}
	return strings.Join(kept, ",")
}

// areProperties says whether the text behind the first ";" of a member is a list
// of properties: a token, or a token "=" value. Blank ones are let pass.
func areProperties(text string) bool {
	for text != "" {
		one := text
		if at := strings.IndexByte(text, ';'); at >= 0 {
			one, text = text[:at], text[at+1:]
		} else {
			text = ""
		}
		if one = trimOWS(one); one == "" {
			continue
		}
		key := one
		if at := strings.IndexByte(one, '='); at >= 0 {
			key = trimOWS(one[:at])
			if !isEncodedValue(trimOWS(one[at+1:])) {
				return false
			}
		}
		if !isToken(key) {
			return false
		}
	}
	return true
}

// isEncodedValue says whether text is *baggage-octet with nothing but whole
// percent escapes.
func isEncodedValue(text string) bool { return encodedValue(text) == len(text) }

// encodedValue is how many bytes of text are such a value.
func encodedValue(text string) int {
	for i := 0; i < len(text); i++ {
		c := text[i]
		if !isBaggageOctet(c) {
			return i
		}
		if c == '%' {
			if i+2 >= len(text) || unhex(text[i+1]) < 0 || unhex(text[i+2]) < 0 {
				return i
			}
			i += 2
		}
	}
	return len(text)
}

// isBaggageOctet is baggage-octet of W3C Baggage: visible ASCII except DQUOTE,
// comma, semicolon and backslash.
func isBaggageOctet(c byte) bool { return octets[c]&inBaggage != 0 }

// isToken says whether text is a token of RFC 9110, section 5.6.2.
func isToken(text string) bool {
	for i := range len(text) {
		if octets[text[i]]&inToken == 0 {
			return false
		}
	}
	return text != ""
}

// percentDecode replaces whole percent escapes by the bytes they write.
func percentDecode(text string) string {
	if strings.IndexByte(text, '%') < 0 {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		c, n := decodeByte(text[i:])
		out = append(out, c)
		i += n
	}
	return string(out)
}

// decodeByte decodes the first byte of text, which is written in n bytes.
func decodeByte(text string) (c byte, n int) {
	if c = text[0]; c != '%' || len(text) < 3 {
		return c, 1
	}
	high, low := unhex(text[1]), unhex(text[2])
	if high < 0 || low < 0 {
		return c, 1
	}
	return byte(high<<4 | low), 3 //nolint:gosec // both are at most 15
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// escape percent-encodes the bytes of text that are not plain.
func escape(text string, size int, plain func(byte) bool) string {
	return string(appendEscaped(make([]byte, 0, size), text, plain))
}

// appendEscaped appends text with the bytes percent-encoded that are not plain.
func appendEscaped(b []byte, text string, plain func(byte) bool) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(text) {
		if c := text[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return b
}

// trimOWS cuts optional white space (RFC 9110, section 5.6.3) from both ends.
func trimOWS(text string) string {
	for text != "" && isOWS(text[0]) {
		text = text[1:]
	}
	for text != "" && isOWS(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}

func isOWS(c byte) bool { return c == ' ' || c == '\t' }
