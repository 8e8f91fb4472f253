package route

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Sizes of names and labels.
const (
	maxName        = 63 // bytes of a name, and of a DNS label (RFC 1035, section 2.3.4)
	maxServiceName = 32 // bytes a service takes of a preview label, so that 29 are left for the route
	hashDigits     = 6  // hex digits of the SHA-256 that keeps shortened names apart
)

// CheckName says whether name may name a thing of the given kind ("service",
// "version" or "route", used in the message only): 1 to 63 characters of a-z,
// 0-9, ".", "_" and "-", a letter or digit first and last, and no "--". The
// error says what is wrong with name, and what is allowed.
func CheckName(kind, name string) error {
	reason := nameProblem(name)
	if reason == "" {
		return nil
	}
	return fmt.Errorf("%s name %s %s: allowed are 1 to %d characters of a-z, 0-9, \".\", \"_\" and \"-\", a letter or digit first and last, and no \"--\"",
		kind, quoteShort(name), reason, maxName)
}

// NameOf turns any text, such as the name of a Git branch, into a valid name.
//
// It makes ASCII letters lower case and every run of bytes that a name cannot
// hold a single "-" ("feature/2981" is "feature-2981"), and drops what a name
// cannot begin or end with. Where that made the text shorter, "-" and the first
// six hex digits of the SHA-256 of text are added, so that two long branches
// with the same beginning stay apart. A text with nothing a name can hold
// becomes those six digits. A valid name is returned as it is.
func NameOf(text string) string {
	name := make([]byte, 0, min(len(text), maxName+1))
	for i := range len(text) {
		c := lower(text[i])
		if !isAlnum(c) && c != '.' && c != '_' {
			c = '-'
		}
		if !isAlnum(c) && len(name) == 0 || c == '-' && name[len(name)-1] == '-' {
			continue
		}
		name = append(name, c)
	}
	name = trimNameEnd(name)
	if len(name) == len(text) && 0 < len(name) && len(name) <= maxName {
		return string(name)
	}
	return string(withHash(name, text, maxName))
}

// PreviewLabel is the form of name that fits in room bytes of a DNS label: name
// itself where it fits and has no "." and no "_"; else name with these made
// "-", cut where it is too long, followed by "-" and the first six hex digits of
// the SHA-256 of name. Room for less than 8 bytes is taken as 8, for more than
// 63 as 63. Name must be valid ([CheckName]).
func PreviewLabel(name string, room int) string {
	room = labelRoom(room)
	if isLabel(name, room) {
		return name
	}
	return string(withHash(appendLabelBase(nil, name), name, room))
}

// nameProblem says what is wrong with name, as the end of a sentence that
// begins with it; "" where nothing is.
func nameProblem(name string) string {
	if name == "" {
		return "is empty"
	}
	if len(name) > maxName {
		return fmt.Sprintf("has %d bytes", len(name))
	}
	for i, r := range name {
		switch {
		case r < 0x80 && isNameByte(byte(r)): //nolint:gosec // below 0x80
		case 'A' <= r && r <= 'Z':
			return "has upper-case letters"
		default:
			return fmt.Sprintf("has %s at position %d", quoteRune(name[i:], r), i+1)
		}
	}
	switch {
	case strings.Contains(name, "--"):
		return "contains \"--\""
	case !isAlnum(name[0]):
		return fmt.Sprintf("begins with %q", name[:1])
	case !isAlnum(name[len(name)-1]):
		return fmt.Sprintf("ends with %q", name[len(name)-1:])
	}
	return ""
}

// labelRoom is room within the bounds that a label can have.
func labelRoom(room int) int {
	return min(max(room, hashDigits+2), maxName)
}

// isLabel says whether name is its own preview label in room bytes.
func isLabel(name string, room int) bool {
	return len(name) <= room && !strings.ContainsAny(name, "._")
}

// isLabelOf says whether label is PreviewLabel(name, room) for a name that is not
// its own label, where the hash digits are known to agree. It does not allocate.
func isLabelOf(label []byte, name string, room int) bool {
	if isLabel(name, room) {
		return false
	}
	var buf [maxName]byte
	base := cutLabel(appendLabelBase(buf[:0], name), room)
	return len(label) == len(base)+1+hashDigits && string(label[:len(base)]) == string(base)
}

// appendLabelBase appends name with "." and "_" made "-", and no two "-" in a row.
func appendLabelBase(b []byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		if c == '.' || c == '_' {
			c = '-'
		}
		if c == '-' && len(b) > 0 && b[len(b)-1] == '-' {
			continue
		}
		b = append(b, c)
	}
	return b
}

// withHash cuts name to what room leaves beside the hash of original, and adds
// the hash.
func withHash(name []byte, original string, room int) []byte {
	name = cutLabel(name, room)
	if len(name) > 0 {
		name = append(name, '-')
	}
	sum := sha256.Sum256([]byte(original))
	return hex.AppendEncode(name, sum[:hashDigits/2])
}

// cutLabel cuts name so that "-" and the hash fit behind it in room bytes.
func cutLabel(name []byte, room int) []byte {
	return trimNameEnd(name[:min(len(name), room-hashDigits-1)])
}

// hashText is the hex digits that a preview label of name ends in, where it is not
// name itself.
func hashText(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:hashDigits/2])
}

// labelHash is the digits behind the "-" of a label that may end in a hash, nil where
// it cannot.
func labelHash(label []byte) []byte {
	at := len(label) - hashDigits
	if at < 2 || label[at-1] != '-' {
		return nil
	}
	return label[at:]
}

func trimNameEnd(name []byte) []byte {
	for len(name) > 0 && !isAlnum(name[len(name)-1]) {
		name = name[:len(name)-1]
	}
	return name
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

func isNameByte(c byte) bool { return octets[c]&inName != 0 }

// octets says what each octet may be part of.
var octets = func() (of [256]uint8) {
	for i := range of {
		c := byte(i)
		if isAlnum(c) || strings.IndexByte("._-", c) >= 0 {
			of[c] |= inName
		}
		if isAlnum(lower(c)) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			of[c] |= inToken
		}
		if 0x21 <= c && c <= 0x7e && strings.IndexByte("\",;\\", c) < 0 {
			of[c] |= inBaggage
		}
	}
	return of
}()

const (
	inName    = 1 << iota // a name of a version, or a host
	inToken               // RFC 9110, section 5.6.2
	inBaggage             // baggage-octet of W3C Baggage
)

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// quoteShort quotes text for a message, cut where it is long.
func quoteShort(text string) string {
	const most = 80
	if len(text) <= most {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprintf("%q...", text[:most])
}

// quoteRune quotes the first character of text, which is r or a byte that is no
// UTF-8.
func quoteRune(text string, r rune) string {
	if r == '\uFFFD' && !strings.HasPrefix(text, "\uFFFD") {
		return fmt.Sprintf("the byte 0x%02x", text[0])
	}
	return fmt.Sprintf("%q", string(r))
}
