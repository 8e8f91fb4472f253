package http1

import "bytes"

// Bounds of the chunked coding beside its data.
const (
	maxSizeDigits  = 16       // of a chunk's size
	maxExtension   = 256      // bytes of one chunk's extensions
	maxExtensions  = 16 << 10 // bytes of all extensions of a body
	maxTrailers    = 16 << 10 // bytes of the trailer section
	maxTrailerLine = 64       // trailer fields
)

// Chunked reads the chunked coding (RFC 9112, section 7.1) as its bytes come in. The
// zero value is the beginning of a body.
type Chunked struct {
	state      chunkState
	left       int64 // of the chunk's data; while its size is read, the size
	digits     int
	extension  int // bytes of this chunk's extensions
	extensions int // bytes of all
	fields     int
	size       int    // bytes of the trailer section so far
	line       []byte // of the trailer section, where it came in parts
	trailers   []byte // the lines that may be passed on
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkDone
)

// Done says whether the body is complete.
func (c *Chunked) Done() bool { return c.state == chunkDone }

// InTrailers says whether what comes next belongs to the trailer section. Everything
// before can be passed on as it came; instead of the section, [Chunked.Trailers] is passed on.
func (c *Chunked) InTrailers() bool { return c.state == chunkTrailer }

// Trailers is the trailer section of a body that is complete, with the line that ends it,
// and without what only a head may say: framing, routing, and for whom it is (RFC 9110, section 6.5.1).
func (c *Chunked) Trailers() []byte { return append(c.trailers, '\r', '\n') }

// Next reads from the beginning of b. It returns how many bytes it has read, and
// the data of the body among them, a view of b that may be empty. It stops behind each piece of
// data, before the trailer section, and at the end of the body. An error is an *[Error].
func (c *Chunked) Next(b []byte) (n int, data []byte, err error) {
	for n < len(b) && c.state != chunkDone {
		switch c.state {
		case chunkData:
			size := min(int64(len(b)-n), c.left)
			data = b[n : n+int(size)]
			if c.left -= size; c.left == 0 {
				c.state = chunkDataCR
			}
			return n + int(size), data, nil
		case chunkTrailer:
			used, err := c.trailer(b[n:])
			if err != nil {
				return n, nil, err
			}
			n += used
		default:
			if err := c.framing(b[n]); err != nil {
				return n, nil, err
			}
			if n++; c.state == chunkTrailer {
				return n, nil, nil
			}
		}
	}
	return n, nil, nil
}

// framing reads one byte around the data.
func (c *Chunked) framing(b byte) error {
	switch c.state {
	case chunkSize:
		digit := unhex(b)
		switch {
		case digit >= 0:
			if c.digits++; c.digits > maxSizeDigits || c.left >= 1<<59 {
				return malformed("the size of a chunk is malformed")
			}
			c.left = c.left<<4 | int64(digit)
		case c.digits == 0:
			return malformed("the size of a chunk is malformed")
		case b == '\r':
			c.state = chunkSizeLF
		case b == ';':
			c.state = chunkExtension
		default:
			return malformed("the size of a chunk is malformed")
		}
	case chunkExtension:
		c.extension++
		c.extensions++
		switch {
		case b == '\r':
			c.state = chunkSizeLF
		case b < ' ' && b != '\t' || b == 0x7f:
			return malformed("an extension of a chunk has a control character")
		case c.extension > maxExtension || c.extensions > maxExtensions:
			return malformed("the extensions of a chunk are longer than this proxy takes")
		}
	case chunkSizeLF:
		if b != '\n' {
			return malformed("the size of a chunk ends in CR without LF")
		}
		c.state = chunkData
		if c.left == 0 {
			c.state = chunkTrailer
		}
		c.digits, c.extension = 0, 0
	case chunkDataCR:
		if b != '\r' {
			return malformed("a chunk is longer than its size")
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if b != '\n' {
			return malformed("a chunk is longer than its size")
		}
		c.state = chunkSize
	}
	return nil
}

// trailer reads from the trailer section (RFC 9112, section 7.1.2), which ends in an
// empty line.
func (c *Chunked) trailer(b []byte) (n int, err error) {
	i := bytes.IndexByte(b, '\n')
	n = i + 1
	if i < 0 {
		n = len(b)
	}
	if c.size += n; c.size > maxTrailers {
		return 0, tooLong("the trailer section is larger than this proxy takes", 431)
	}
	line := b[:n]
	if i < 0 || len(c.line) > 0 {
		c.line = append(c.line, line...)
		line = c.line
	}
	if i < 0 {
		return n, nil
	}
	c.line = c.line[:0]
	if len(line) < 2 || line[len(line)-2] != '\r' {
		return 0, malformed("a line ends in LF without CR")
	}
	if len(line) == 2 {
		c.state = chunkDone
		return n, nil
	}
	if c.fields++; c.fields > maxTrailerLine {
		return 0, tooLong("the trailer section has more fields than this proxy takes", 431)
	}
	f := Field{Line: line}
	if err := f.read(); err != nil {
		return 0, err
	}
	if mayTrail(f.NameBytes(), f.Name) {
		c.trailers = append(c.trailers, line...)
	}
	return n, nil
}

// mayTrail says whether a field may be a trailer.
func mayTrail(name []byte, known Name) bool {
	switch {
	case known.hopByHop(), known.endToEnd(), len(name) >= 8 && equalFold(name[:8], "layover-"):
		return false
	}
	for _, head := range []string{"authorization", "content-encoding", "content-range", "content-type", "cache-control", "expect", "max-forwards", "pragma", "range", "set-cookie", "www-authenticate"} {
		if equalFold(name, head) {
			return false
		}
	}
	return true
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
