package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// dropFields takes from the trailers of a message what only its head may say: framing,
// routing and the like (RFC 9110 section 6.5.1), and what Layover itself says. A reader
// that merges trailers into the head would be told another story there.
func dropFields(trailers http.Header) {
	for name := range trailers {
		if !mayTrail(name) {
			delete(trailers, name)
		}
	}
}

// mayTrail says whether a field may be a trailer.
func mayTrail(name string) bool {
	return httpguts.ValidTrailerHeader(name) && !strings.HasPrefix(strings.ToLower(name), "layover-")
}

// trailedBody is the body of an answer that may have trailers, which are known at its end.
type trailedBody struct {
	io.ReadCloser
	answer *http.Response
	record *Record
}

// Read reads from the instance.
func (b trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		dropFields(b.answer.Trailer)
		if status := grpcStatusOf(b.answer.Trailer); status != "" {
			b.record.GRPCStatus = status
		}
	}
	return n, err
}

// grpcStatusOf returns the status of a call of gRPC from the fields that have it; "" where none has.
func grpcStatusOf(h http.Header) string {
	if status := h.Get("Grpc-Status"); len(status) == 1 || len(status) == 2 {
		return status
	}
	return ""
}
