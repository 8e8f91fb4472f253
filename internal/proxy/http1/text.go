package http1

import (
	"bytes"
	"encoding/binary"
)

// Error says why a message is refused. It carries no part of the message.
type Error struct {
	Status int    // to answer a request with: 400, 414, 431, 501 or 505
	What   string // what is wrong, as the middle of a sentence: "a line ends in LF without CR"
}

// Error says what is wrong.
func (e *Error) Error() string { return "malformed HTTP/1.1: " + e.What }

func malformed(what string) *Error           { return &Error{Status: 400, What: what} }
func tooLong(what string, status int) *Error { return &Error{Status: status, What: what} }

// tokenBytes are the bytes of a token (RFC 9110, section 5.6.2).
var tokenBytes = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(b) > 0
}

// isText says whether b has no control character but HTAB: what the value of a
// field may hold (RFC 9110, section 5.5). It looks at eight bytes at a time.
func isText(b []byte) bool {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		below := (x - ones*0x20) &^ x & highs                      // a byte below 0x20, maybe HTAB
		del := ((x ^ ones*0x7f) - ones) &^ (x ^ ones*0x7f) & highs // a byte 0x7f
		if below|del != 0 {
			for _, c := range b[:8] {
				if c < ' ' && c != '\t' || c == 0x7f {
					return false
				}
			}
		}
		b = b[8:]
	}
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isAuthority says whether b can be the host and port of a request (RFC 3986,
// section 3.2.2). Which hosts there are is for others to say.
func isAuthority(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] && bytes.IndexByte([]byte("()=;:[],"), c) < 0 || c == '^' || c == '`' || c == '|' || c == '#' {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// equalFold says whether b is s but for the case of letters. s is in lower case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(s) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// cutElement cuts the first element of a list (RFC 9110, section 5.6.1) from b.
func cutElement(b []byte) (element, rest []byte) {
	element, rest, _ = bytes.Cut(b, []byte(","))
	return trim(element), rest
}

// trim cuts optional white space (RFC 9110, section 5.6.3) from both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// HasElement says whether a list has the element, in any case of letters. element is in
// lower case.
func HasElement(list []byte, element string) bool {
	for len(list) > 0 {
		var one []byte
		if one, list = cutElement(list); equalFold(one, element) {
			return true
		}
	}
	return false
}

// IsName says whether a field has the name, in any case of letters.
func IsName(f *Field, name string) bool {
	return len(name) == int(f.size) && bytes.EqualFold(f.NameBytes(), []byte(name))
}
