// Package http1 reads the framing of HTTP/1.1 (RFC 9112) strictly, and without
// allocating or copying: everything it returns is a view of the caller's buffer.
//
// A proxy stands between two parsers. What they could read differently lets one request
// hide in another, so everything that is not exactly as the RFC writes it is refused:
// a bare LF or CR, a folded line, white space before a colon, two lengths, a length beside
// a coding, control characters, several hosts. It is pure: no I/O, no clock.
package http1

import "bytes"

// Limits bound the head of a message.
type Limits struct {
	Head   int // bytes of the whole head
	Target int // bytes of a request's target
	Fields int // number of field lines
}

// Head is the head of one request or answer. Its slices are views of the buffer that
// it was read from, and valid as long as that is not changed. A Head is used again
// with [Head.Reset].
type Head struct {
	Method Bytes // of a request
	Target Bytes // of a request, as it was sent
	Minor  int   // of the version: HTTP/1.Minor
	Status int   // of an answer
	Reason Bytes // of an answer; may be empty
	Fields []Field

	Body   Body  // how the body is delimited, as far as the head says
	Length int64 // where Body is BodyLength

	Close     bool // Connection has "close"
	KeepAlive bool // Connection has "keep-alive"
	Upgrade   bool // Connection has "upgrade"; never so in a request of HTTP/1.0 (RFC 9110, section 7.8)
	Options   bool // Connection names other fields, which are then hop-by-hop; see [Head.IsHopByHop]

	at     int  // where the line begins that is being searched for its end
	looked int  // up to where
	begun  bool // a line that is not empty was seen
}

// Bytes is a view of the buffer that a head was read from.
type Bytes []byte

// Field is one field line. Line, Name and Value are views: Line is the whole
// line with its CRLF.
type Field struct {
	Line, Value Bytes
	Name        Name  // what the field is, where this package knows it
	size        uint8 // of the name in bytes; names are at most 255 bytes
}

// NameBytes is the field's name as it was written.
func (f *Field) NameBytes() Bytes { return f.Line[:f.size] }

// Body says how the body of a message is delimited (RFC 9112, section 6.3).
type Body uint8

// The ways a body is delimited.
const (
	BodyNone    Body = iota // there is none
	BodyLength              // by Content-Length
	BodyChunked             // by the chunked coding
	BodyClose               // an answer's: by the end of the connection
)

// Reset makes h ready for another head.
func (h *Head) Reset() {
	fields := h.Fields[:0]
	*h = Head{Fields: fields}
}

// ReadRequest reads the head of a request at the beginning of b, and returns how many
// bytes it has; 0 where b holds only a part of it: call again with more behind the
// same bytes. An error is an *[Error]; the connection cannot be used any further.
func (h *Head) ReadRequest(b []byte, limits Limits) (n int, err error) {
	n, err = h.findEnd(b, limits)
	if n == 0 || err != nil {
		return 0, err
	}
	rest := b[:n]
	if rest[0] == '\r' && rest[1] == '\n' { // the one empty line that may stand before a request
		rest = rest[2:]
	}
	line, rest := cutLine(rest)
	if err := h.requestLine(line, limits); err != nil {
		return 0, err
	}
	if err := h.fields(rest, limits); err != nil {
		return 0, err
	}
	if err := h.frameRequest(); err != nil {
		return 0, err
	}
	return n, nil
}

// ReadAnswer reads the head of an answer as [Head.ReadRequest] does that of a request. An
// interim answer (1xx) is one too. Whether there is a body at all depends on the
// request too: see [Head.FrameAnswer].
func (h *Head) ReadAnswer(b []byte, limits Limits) (n int, err error) {
	n, err = h.findEnd(b, limits)
	if n == 0 || err != nil {
		return 0, err
	}
	if b[0] == '\r' {
		return 0, malformed("its answer begins with an empty line")
	}
	line, rest := cutLine(b[:n])
	if err := h.statusLine(line); err != nil {
		return 0, err
	}
	if err := h.fields(rest, limits); err != nil {
		return 0, err
	}
	return n, nil
}

// findEnd returns the length of the head; 0 while its end is not there. It goes
// on where it was, so that a head that comes byte by byte costs no more than one
// that comes at once.
func (h *Head) findEnd(b []byte, limits Limits) (int, error) {
	for {
		i := bytes.IndexByte(b[h.looked:], '\n')
		if i < 0 {
			h.looked = len(b)
			if !h.begun && len(b)-h.at > limits.Target+maxRequestLine {
				return 0, tooLong("the request's target is longer than this proxy takes", 414)
			}
			if len(b) >= limits.Head {
				return 0, tooLong("the head is larger than this proxy takes", 431)
			}
			return 0, nil
		}
		end := h.looked + i
		if end == 0 || b[end-1] != '\r' || end-1 < h.at {
			return 0, malformed("a line ends in LF without CR")
		}
		empty := end-1 == h.at
		switch {
		case !empty:
			h.begun = true
		case h.begun:
			if end+1 > limits.Head {
				return 0, tooLong("the head is larger than this proxy takes", 431)
			}
			return end + 1, nil
		case h.at > 0:
			return 0, malformed("it begins with empty lines")
		}
		h.at, h.looked = end+1, end+1
	}
}

// maxRequestLine is how much longer than its target a request line may be.
const maxRequestLine = maxMethod + len(" HTTP/1.1\r\n") + 2

// cutLine cuts the first line from b, which has one; without its CRLF.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	return b[:i-1], b[i+1:]
}

const maxMethod = 32

// requestLine reads method SP target SP version.
func (h *Head) requestLine(line []byte, limits Limits) error {
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if first <= 0 || first == last {
		return malformed("the request line is not \"method target version\"")
	}
	h.Method, h.Target = line[:first], line[first+1:last]
	version := line[last+1:]
	switch {
	case string(version) == "HTTP/1.1":
		h.Minor = 1
	case string(version) == "HTTP/1.0":
		h.Minor = 0
	case len(version) == len("HTTP/1.1") && string(version[:5]) == "HTTP/" && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]):
		return &Error{Status: 505, What: "the version is neither HTTP/1.1 nor HTTP/1.0"}
	default:
		return malformed("the version of HTTP is malformed")
	}
	if len(h.Method) > maxMethod || !isToken(h.Method) {
		return malformed("the method is malformed")
	}
	if len(h.Target) > limits.Target {
		return tooLong("the request's target is longer than this proxy takes", 414)
	}
	if len(h.Target) == 0 {
		return malformed("the request has no target")
	}
	return h.target()
}

// target looks at the characters of the target, and at the escapes of its path: some readers
// take half an escape for what it is, and some refuse it. In the query everybody lets it stand.
func (h *Head) target() error {
	query := false
	for i, c := range h.Target {
		switch {
		case c <= ' ' || c == 0x7f:
			return malformed("the request's target has a character that is not allowed")
		case c == '?':
			query = true
		case c == '%' && !query && (i+2 >= len(h.Target) || unhex(h.Target[i+1]) < 0 || unhex(h.Target[i+2]) < 0):
			return malformed("the path it asks for has a \"%\" without two hex digits")
		}
	}
	return nil
}

// statusLine reads version SP status [SP reason].
func (h *Head) statusLine(line []byte) error {
	const size = len("HTTP/1.1 200")
	if len(line) < size || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' {
		return malformed("its answer is not one of HTTP/1.1")
	}
	h.Minor = int(line[7] - '0')
	a, b, c := line[9], line[10], line[11]
	if a < '1' || a > '9' || !isDigit(b) || !isDigit(c) || len(line) > size && line[size] != ' ' {
		return malformed("the status of its answer is malformed")
	}
	h.Status = int(a-'0')*100 + int(b-'0')*10 + int(c-'0')
	if len(line) > size {
		h.Reason = line[size+1:]
	}
	if !isText(h.Reason) {
		return malformed("the status line of its answer has a control character")
	}
	return nil
}

// fields reads the field lines, up to and with the empty line.
func (h *Head) fields(b []byte, limits Limits) error {
	for b[0] != '\r' || b[1] != '\n' {
		if len(h.Fields) == limits.Fields {
			return tooLong("the head has more fields than this proxy takes", 431)
		}
		var f Field
		i := bytes.IndexByte(b, '\n')
		f.Line, b = b[:i+1], b[i+1:]
		if err := f.read(); err != nil {
			return err
		}
		if f.Name == Connection {
			h.connection(f.Value)
		}
		h.Fields = append(h.Fields, f)
	}
	return nil
}

// read takes the line of a field apart (RFC 9112, section 5).
func (f *Field) read() error {
	text := f.Line[:len(f.Line)-2]
	n := 0
	for n < len(text) && tokenBytes[text[n]] {
		n++
	}
	switch {
	case n == 0 && (text[0] == ' ' || text[0] == '\t'):
		return malformed("a field goes on in a second line")
	case n == len(text) || text[n] != ':' && text[n] != ' ' && text[n] != '\t':
		return malformed("the name of a field is malformed, or is not followed by a colon")
	case text[n] != ':':
		return malformed("white space stands between a field's name and its colon")
	case n == 0:
		return malformed("a field has no name")
	case n > 255:
		return tooLong("the name of a field is longer than this proxy takes", 431)
	}
	f.size = uint8(n)
	f.Name = nameOf(text[:n])
	f.Value = trim(text[n+1:])
	if !isText(f.Value) {
		return malformed("the value of a field has a control character")
	}
	return nil
}

// connection reads one Connection field (RFC 9110, section 7.6.1).
func (h *Head) connection(value []byte) {
	for len(value) > 0 {
		var option []byte
		option, value = cutElement(value)
		switch {
		case len(option) == 0:
		case equalFold(option, "close"):
			h.Close = true
		case equalFold(option, "keep-alive"):
			h.KeepAlive = true
		case equalFold(option, "upgrade"):
			h.Upgrade = true
		default:
			h.Options = true
		}
	}
}

// IsHopByHop says whether a field is for this connection only, and not passed on:
// one that always is, or one that Connection names. Fields that a proxy cannot
// do without (Host, Content-Length, and so on) are never hop-by-hop by being named.
func (h *Head) IsHopByHop(f *Field) bool {
	if f.Name != Other {
		if f.Name.hopByHop() {
			return true
		}
		if f.Name.endToEnd() {
			return false
		}
	}
	if !h.Options {
		return false
	}
	name := f.NameBytes()
	for i := range h.Fields {
		if h.Fields[i].Name != Connection {
			continue
		}
		for value := []byte(h.Fields[i].Value); len(value) > 0; {
			var option []byte
			option, value = cutElement(value)
			if bytes.EqualFold(option, name) {
				return true
			}
		}
	}
	return false
}

// frameRequest finds how the body of the request is delimited, and checks what
// must be there once (RFC 9112, sections 3.2 and 6.3).
func (h *Head) frameRequest() error {
	h.Upgrade = h.Upgrade && h.Minor > 0
	hosts := 0
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.Name {
		case Host:
			if hosts++; hosts > 1 {
				return malformed("it has several Host fields")
			}
			if !isAuthority(f.Value) {
				return malformed("its Host is malformed")
			}
		case ContentLength:
			if h.Body == BodyLength {
				return malformed("it has several Content-Length fields")
			}
			if h.Body == BodyChunked {
				return malformed("it has both Content-Length and Transfer-Encoding")
			}
			if err := h.length(f.Value); err != nil {
				return err
			}
		case TransferEncoding:
			switch {
			case h.Body == BodyLength:
				return malformed("it has both Content-Length and Transfer-Encoding")
			case h.Body == BodyChunked:
				return malformed("it has several Transfer-Encoding fields")
			case h.Minor == 0:
				return malformed("it has Transfer-Encoding in HTTP/1.0")
			case !equalFold(f.Value, "chunked"):
				return unknownCoding(f.Value)
			}
			h.Body = BodyChunked
		}
	}
	if hosts == 0 && h.Minor > 0 {
		return malformed("it has no Host")
	}
	return nil
}

// unknownCoding refuses a transfer coding other than chunked alone.
func unknownCoding(value []byte) error {
	for range 8 {
		if len(value) == 0 {
			break
		}
		var coding []byte
		if coding, value = cutElement(value); !isToken(coding) || equalFold(coding, "chunked") && len(value) > 0 {
			return malformed("its Transfer-Encoding is malformed")
		}
	}
	return &Error{Status: 501, What: "its transfer coding is not \"chunked\" alone"}
}

// FrameAnswer finds how the body of an answer to a request with the given method
// is delimited (RFC 9112, section 6.3). Where the answer has both a coding and a
// length, the coding counts, the length must not be passed on, and the connection not be used again.
func (h *Head) FrameAnswer(method []byte) error {
	h.Body = BodyClose
	lengths, codings := 0, 0
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.Name {
		case ContentLength:
			if lengths++; lengths > 1 {
				return malformed("its answer has several Content-Length fields")
			}
			if codings > 0 {
				continue
			}
			if err := h.length(f.Value); err != nil {
				return err
			}
		case TransferEncoding:
			if codings++; codings > 1 || h.Minor == 0 || !equalFold(f.Value, "chunked") {
				return malformed("the transfer coding of its answer is not \"chunked\" alone, in HTTP/1.1")
			}
			h.Body = BodyChunked
		}
	}
	if lengths > 0 && codings > 0 {
		h.Close = true // one of the two is wrong, and nobody can say where the next answer begins
	}
	if h.Status < 200 || h.Status == 204 || h.Status == 304 || string(method) == "HEAD" {
		h.Body = BodyNone
	}
	return nil
}

// length reads a Content-Length (RFC 9110, section 8.6).
func (h *Head) length(value []byte) error {
	const most = 18 // digits, so that it fits
	if len(value) == 0 || len(value) > most {
		return malformed("its Content-Length is malformed")
	}
	n := int64(0)
	for _, c := range value {
		if !isDigit(c) {
			return malformed("its Content-Length is malformed")
		}
		n = n*10 + int64(c-'0')
	}
	h.Body, h.Length = BodyLength, n
	return nil
}
