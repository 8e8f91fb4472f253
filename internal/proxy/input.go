package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// How much is read at a time: from a client little at first, as most requests are no more than
// a head, and very many of them may be under way.
const (
	inputSize = 16 << 10
	firstSize = 4 << 10
)

// inputs and firsts lend the buffers that connections are read into.
var (
	inputs = sync.Pool{New: func() any { return new([inputSize]byte) }}
	firsts = sync.Pool{New: func() any { return new([firstSize]byte) }}
)

// input is what was read from a connection and is not used yet. While a
// connection has nothing to say, its input has no buffer; while it has said only the
// beginning of something, a small one.
type input struct {
	buf  []byte // unread is buf[r:w]
	r, w int
	lent any // what buf is, where it is borrowed
}

func (in *input) unread() []byte { return in.buf[in.r:in.w] }

func (in *input) skip(n int) { in.r += n }

// isFull says whether the last read filled the buffer, so that more may be waiting.
func (in *input) isFull() bool { return in.buf != nil && in.w == len(in.buf) }

// expand makes room for more behind what is unread: with little, a little at first.
func (in *input) expand(little bool) {
	size := in.w - in.r
	switch {
	case in.w < len(in.buf) && len(in.buf) >= firstSize:
		return
	case in.r > 0 && len(in.buf) >= inputSize:
		copy(in.buf, in.unread())
	default:
		old := *in
		in.borrow(size, little && len(in.buf) < firstSize)
		copy(in.buf, old.unread())
		old.release()
	}
	in.r, in.w = 0, size
}

// borrow sets a buffer that holds more than size.
func (in *input) borrow(size int, little bool) {
	switch {
	case size >= inputSize:
		in.lent, in.buf = nil, make([]byte, 2*size)
	case little && size < firstSize:
		lent := firsts.Get().(*[firstSize]byte)
		in.lent, in.buf = lent, lent[:]
	default:
		lent := inputs.Get().(*[inputSize]byte)
		in.lent, in.buf = lent, lent[:]
	}
}

// excess is the size of a buffer that is larger than usual, else 0.
func (in *input) excess() int {
	if in.lent != nil || len(in.buf) <= inputSize {
		return 0
	}
	return len(in.buf)
}

// growth is how many bytes more the buffer takes when expand makes one that is larger than usual, else 0.
func (in *input) growth() int {
	if size := in.w - in.r; in.r == 0 && in.w == len(in.buf) && size >= inputSize {
		return 2*size - in.excess()
	}
	return 0
}

// trim gives up a buffer that is larger than usual, where what is unread needs none.
func (in *input) trim() {
	if in.excess() > 0 && len(in.unread()) <= inputSize {
		used := in.split()
		used.release()
	}
}

// shrink gives the buffer back before a wait, but for what is unread.
func (in *input) shrink() {
	const small = 2 << 10
	rest := in.unread()
	if in.lent == nil && len(rest) > 0 || len(rest) > small {
		return
	}
	old := *in
	*in = input{}
	if len(rest) > 0 {
		in.buf = append(in.buf, rest...)
		in.w = len(rest)
	}
	old.release()
}

// release gives the buffer back. Nothing may refer to it any more.
func (in *input) release() {
	switch lent := in.lent.(type) {
	case *[inputSize]byte:
		inputs.Put(lent)
	case *[firstSize]byte:
		firsts.Put(lent)
	}
	*in = input{}
}

// prepend puts b before what is unread.
func (in *input) prepend(b []byte) {
	old := *in
	*in = input{buf: append(append([]byte(nil), b...), old.unread()...)}
	in.w = len(in.buf)
	old.release()
}

// split takes away what was used of the input, together with its buffer: what is
// unread can be read further, and views of the rest stay good until it is released.
func (in *input) split() (used input) {
	used = *in
	*in = input{}
	if rest := used.unread(); len(rest) > 0 {
		in.buf = append(in.buf, rest...)
		in.w = len(rest)
	}
	return used
}

// source reads a connection. Where that is a plain socket, it waits for the
// next byte without a buffer: ten thousand connections that say nothing cost ten thousand
// goroutines, and no more.
type source struct {
	input

	conn    net.Conn
	tcp     *net.TCPConn          // nil where conn is no plain socket
	raw     syscall.RawConn       // of tcp
	attempt func(fd uintptr) bool // s.readNow, made once
	onWait  func()                // called before it waits; may set deadlines; may be nil
	little  bool                  // it reads a little at first
	hurried bool                  // fill returns errWouldWait instead of waiting
	n       int                   // of the last attempt
	err     error                 // of the last attempt
}

func (s *source) open(conn net.Conn) {
	s.conn = conn
	if limited, ok := conn.(*limitedConn); ok {
		conn = limited.Conn
	}
	if proxied, ok := conn.(*proxiedConn); ok {
		s.buf = proxied.takeRest()
		s.w = len(s.buf)
		conn = proxied.Conn
	}
	if tcp, ok := conn.(*net.TCPConn); ok && canReadNow {
		if raw, err := tcp.SyscallConn(); err == nil {
			s.tcp, s.raw = tcp, raw
			if s.attempt == nil {
				s.attempt = s.readNow
			}
		}
	}
}

// errWouldWait is that of a fill that nothing is there for.
var errWouldWait = errors.New("there is nothing to read yet")

// fill reads more behind what is unread. It returns io.EOF at the end.
func (s *source) fill() error {
	if s.raw == nil {
		s.expand(s.little)
		if s.onWait != nil {
			s.onWait()
		}
		n, err := s.conn.Read(s.buf[s.w:])
		s.w += n
		if n > 0 {
			return nil
		}
		return err
	}
	s.n, s.err = 0, nil
	if err := s.raw.Read(s.attempt); err != nil {
		return err
	}
	if s.err != nil {
		return s.err
	}
	if s.n == 0 {
		return io.EOF
	}
	s.w += s.n
	return nil
}

// readNow reads what is there. Where nothing is, it gives the buffer back and
// says that it wants to be called again when something is.
func (s *source) readNow(fd uintptr) bool {
	s.expand(s.little)
	for {
		s.n, s.err = readSocket(fd, s.buf[s.w:])
		if !errors.Is(s.err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(s.err, syscall.EAGAIN) {
		s.shrink()
		if s.onWait != nil {
			s.onWait()
		}
		if s.hurried {
			s.n, s.err = 0, errWouldWait
			return true
		}
		return false
	}
	s.n = max(s.n, 0)
	return true
}
