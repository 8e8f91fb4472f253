package route

import (
	"errors"
	"fmt"
	"strings"
)

// Route is a parsed route value (R4): selector *( "~" selector ), and a trailing
// "!" where it is strict.
type Route struct {
	Selectors []Selector
	Strict    bool // a selector that matches nothing anywhere is an error
}

// Selector is one part of a route: [ service "@" ] version.
type Selector struct {
	Service string // empty: any service
	Version string // a version, or a named route where Service is empty
}

// ParseRoute checks a route value that a person wrote, and takes it apart. It is
// stricter than [Table.Resolve], which has to live with whatever a request
// brings: every selector must be well-formed. The value may be percent-encoded.
// The error reports every problem at once.
func ParseRoute(value string) (Route, error) {
	text := percentDecode(value)
	var r Route
	text, r.Strict = strings.CutSuffix(text, "!")
	if text == "" {
		return Route{}, errors.New("the route is empty: write a version or named route, such as feature-1, or a version of one service, such as cart@feature-1")
	}
	var problems []error
	told := map[string]bool{}
	for part := range strings.SplitSeq(text, "~") {
		s, err := parseSelector(part)
		if err != nil {
			if !told[err.Error()] {
				told[err.Error()] = true
				problems = append(problems, fmt.Errorf("route %s: %w", quoteShort(value), err))
			}
			continue
		}
		r.Selectors = append(r.Selectors, s)
	}
	if len(problems) > 0 {
		return Route{}, errors.Join(problems...)
	}
	return r, nil
}

// String writes the route as ParseRoute reads it.
func (r Route) String() string {
	var b strings.Builder
	for i, s := range r.Selectors {
		if i > 0 {
			b.WriteByte('~')
		}
		b.WriteString(s.String())
	}
	if r.Strict {
		b.WriteByte('!')
	}
	return b.String()
}

// String writes the selector as ParseRoute reads it.
func (s Selector) String() string {
	if s.Service == "" {
		return s.Version
	}
	return s.Service + "@" + s.Version
}

func parseSelector(text string) (Selector, error) {
	if text == "" {
		return Selector{}, errors.New("there is an empty selector: nothing stands before or after a \"~\"")
	}
	service, version, scoped := strings.Cut(text, "@")
	if !scoped {
		return Selector{Version: text}, CheckName("version", text)
	}
	err := errors.Join(CheckName("service", service), CheckName("version", version))
	return Selector{Service: service, Version: version}, err
}

// isStrict says whether a route value, percent-encoded or not, ends in "!".
func isStrict(value string) bool {
	return strings.HasSuffix(value, "!") || strings.HasSuffix(value, "%21")
}

// selectorScan walks over the selectors of a route value that may be
// percent-encoded. Each one is decoded into the scan's own buffer, so that
// nothing is allocated; it is good until the next one is read.
type selectorScan struct {
	rest string // what is still to be read
	more bool   // rest is to be read, be it empty
	n    int    // bytes in buf
	at   int    // where "@" stands in buf, -1 where it does not
	long bool   // the selector does not fit in buf, so that it cannot match
	buf  [2*maxName + len("@")]byte
}

// start sets the scan to the first selector of value, and leaves out the
// trailing "!".
func (s *selectorScan) start(value string) {
	if rest, ok := strings.CutSuffix(value, "!"); ok {
		value = rest
	} else if rest, ok := strings.CutSuffix(value, "%21"); ok {
		value = rest
	}
	s.rest, s.more = value, true
}

// next reads the next selector.
func (s *selectorScan) next() bool {
	if !s.more {
		return false
	}
	rest := s.rest
	i, n, at := 0, 0, -1
	s.long, s.more = false, false
	for i < len(rest) {
		c := rest[i]
		if octets[c]&inName != 0 && n < len(s.buf) { // most are
			s.buf[n] = c
			n++
			i++
			continue
		}
		size := 1
		if c == '%' {
			c, size = decodeByte(rest[i:])
		}
		i += size
		if c == '~' {
			s.more = true
			break
		}
		if n == len(s.buf) {
			s.long = true
			continue
		}
		if c == '@' && at < 0 {
			at = n
		}
		s.buf[n] = c
		n++
	}
	s.rest, s.n, s.at = rest[i:], n, at
	return true
}

// service is the service that the selector is scoped to; ok is false where it is
// not scoped.
func (s *selectorScan) service() (name []byte, ok bool) {
	if s.at < 0 {
		return nil, false
	}
	return s.buf[:s.at], true
}

// version is what the selector asks for; empty where that cannot be a name.
func (s *selectorScan) version() []byte {
	if s.long {
		return nil
	}
	return s.buf[s.at+1 : s.n]
}

// text is the selector for people to read.
func (s *selectorScan) text() string {
	if s.long {
		return string(s.buf[:s.n]) + "..."
	}
	return string(s.buf[:s.n])
}
