package proxy

import (
	"net/http"
	"sync/atomic"
)

// DefaultHeaderMemory is that of [HeaderLimits], in bytes.
const DefaultHeaderMemory = 64 << 20

// headroom bounds the memory that large heads of requests take together, from when they are read until
// their requests are answered. One that fits a buffer of the usual size (inputSize) takes none of it: those
// are bounded by the number of connections.
//
// Of HTTP/2 a head counts once it is read. Before that there is at most one for a connection, of at most
// HeaderLimits.Bytes.
type headroom struct {
	most  int // bytes; below 0 there is no limit
	taken atomic.Int64
}

// take takes room for n bytes, where there is that much.
func (h *headroom) take(n int) bool {
	if h.taken.Add(int64(n)) > int64(h.most) && h.most >= 0 {
		h.give(n)
		return false
	}
	return true
}

// give gives back what was taken.
func (h *headroom) give(n int) { h.taken.Add(-int64(n)) }

// headSize is about how many bytes the head of a request takes.
func headSize(r *http.Request) int {
	n := len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		n += len(name)
		for _, value := range values {
			n += len(value)
		}
	}
	return n
}
