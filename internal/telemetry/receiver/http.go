package receiver

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// The content types of OTLP/HTTP.
const (
	protobuf = "application/x-protobuf"
	asJSON   = "application/json"
)

// problem is why a request is not taken.
type problem struct {
	status int
	code   codes.Code
	text   string
}

// busy is a problem that may be gone after a second: who sends is to try again.
func busy(text string) *problem {
	return &problem{http.StatusServiceUnavailable, codes.Unavailable, text}
}

// retryAfter is when.
const retryAfter = time.Second

// serve answers a request of OTLP/HTTP.
func (r *Receiver) serve(w http.ResponseWriter, rq *http.Request, k *kind) {
	kindOf, _, _ := mime.ParseMediaType(rq.Header.Get("Content-Type"))
	if kindOf != asJSON && kindOf != protobuf {
		k.refused.Add(1)
		fail(w, protobuf, problem{http.StatusUnsupportedMediaType, codes.InvalidArgument, "send application/x-protobuf or application/json"})
		return
	}
	if rq.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, kindOf, problem{http.StatusMethodNotAllowed, codes.Unimplemented, "telemetry is sent with POST"})
		return
	}
	text, p := body(w, rq)
	var m proto.Message
	if p == nil {
		select { // a sender that is slow is read by now, and holds up nobody
		case r.room <- struct{}{}:
			defer func() { <-r.room }()
			m, p = k.decode(text, kindOf)
		case <-time.After(roomWait):
			p = busy("too much telemetry comes at a time")
		case <-rq.Context().Done():
			return
		}
	}
	if p == nil {
		p = r.accept(k, m, rq.RemoteAddr, rq.Header.Get(InstanceHeader))
	}
	if p != nil {
		k.refused.Add(1)
		fail(w, kindOf, *p)
		return
	}
	write(w, kindOf, http.StatusOK, k.answer())
}

// accept finds out who sent telemetry, passes it on, and counts it. Before there is a table nobody is known, and it would go on
// without its version.
func (r *Receiver) accept(k *kind, m proto.Message, address, header string) *problem {
	if !r.options.Proxy.HasTable() {
		return busy("the proxy does not know any instance yet, as it has no table")
	}
	from := r.senderOf(address, header)
	if !k.take(r, m, from) {
		return busy("what is to be passed on does not fit, as its receiver is slow or away")
	}
	if from.version != "" {
		k.stamped.Add(1)
	} else {
		k.unknown.Add(1)
	}
	return nil
}

// roomWait is how long a request waits for others to be decoded.
const roomWait = 2 * time.Second

// body reads the body of a request.
func body(w http.ResponseWriter, rq *http.Request) ([]byte, *problem) {
	body := io.Reader(http.MaxBytesReader(w, rq.Body, maxBody))
	switch encoding := strings.ToLower(rq.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, badRequest("the body is not gzip: %s", err)
		}
		body = z
	default:
		return nil, &problem{http.StatusUnsupportedMediaType, codes.InvalidArgument, "the body may be compressed with gzip alone"}
	}
	text, err := io.ReadAll(io.LimitReader(body, maxPlain+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), len(text) > maxPlain:
		return nil, &problem{http.StatusRequestEntityTooLarge, codes.ResourceExhausted, fmt.Sprintf("a request may have %d bytes, and %d decompressed: send smaller batches", maxBody, maxPlain)}
	case err != nil:
		return nil, badRequest("the body cannot be read: %s", err)
	}
	return text, nil
}

// decode reads what a body says.
func (k *kind) decode(text []byte, kindOf string) (m proto.Message, _ *problem) {
	var err error
	if kindOf == asJSON {
		if text, err = k.fromJSON(text); err != nil {
			return nil, badRequest("the body is not OTLP as JSON: %s", err)
		}
	}
	m = k.empty()
	if err := proto.Unmarshal(text, m); err != nil {
		return nil, badRequest("the body is not OTLP as protobuf: %s", err)
	}
	return m, nil
}

func badRequest(format string, args ...any) *problem {
	return &problem{http.StatusBadRequest, codes.InvalidArgument, fmt.Sprintf(format, args...)}
}

// fail answers with a google.rpc.Status (OTLP/HTTP, "Failures").
func fail(w http.ResponseWriter, kindOf string, p problem) {
	if p.code == codes.Unavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	write(w, kindOf, p.status, &rpcstatus.Status{Code: int32(p.code), Message: strings.ToValidUTF8(p.text, "\uFFFD")}) //nolint:gosec // codes are small
}

func write(w http.ResponseWriter, kindOf string, status int, m proto.Message) {
	text, err := proto.Marshal(m)
	if kindOf == asJSON {
		text, err = protojson.Marshal(m)
	}
	if err != nil {
		status, text = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", kindOf)
	w.WriteHeader(status)
	_, _ = w.Write(text) // the sender may be gone
}

// throughPdata turns OTLP's JSON, in which ids are hex digits, into protobuf.
func throughPdata(text []byte, unmarshal func([]byte) error, marshal func() ([]byte, error)) ([]byte, error) {
	if err := unmarshal(text); err != nil {
		return nil, err
	}
	return marshal()
}
