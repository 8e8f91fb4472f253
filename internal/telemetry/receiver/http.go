package receiver

import (
	"compress/gzip"
	"context"
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
	h := hold{of: r.memory}
	defer h.release()
	text, p := h.body(w, rq)
	var m proto.Message
	if p == nil {
		m, p = k.decode(rq.Context(), &h, text, kindOf)
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

// body reads the body of a request.
func (h *hold) body(w http.ResponseWriter, rq *http.Request) ([]byte, *problem) {
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
	text, err := h.read(body, maxPlain)
	return text, notRead(err)
}

// notRead is why a body was not read; nil where it was.
func notRead(err error) *problem {
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large), errors.Is(err, errLarge):
		return tooLarge(fmt.Sprintf("a request may have %d bytes, and %d decompressed: send smaller batches", maxBody, maxPlain))
	case errors.Is(err, errNoRoom):
		return busy(err.Error())
	}
	return badRequest("the body cannot be read: %s", err)
}

// decode reads what a body says, once there is room for it.
func (k *kind) decode(ctx context.Context, h *hold, text []byte, kindOf string) (m proto.Message, _ *problem) {
	if kindOf == asJSON {
		if p := h.decode(ctx, jsonSize(text)); p != nil {
			return nil, p
		}
		var err error
		if text, err = k.fromJSON(text); err != nil {
			return nil, badRequest("the body is not OTLP as JSON: %s", err)
		}
	}
	size, ok := k.shape.of(text, 0)
	if !ok {
		return nil, badRequest("the body is not OTLP as protobuf")
	}
	if p := h.decode(ctx, size); p != nil {
		return nil, p
	}
	m = k.empty()
	if err := proto.Unmarshal(text, m); err != nil {
		return nil, badRequest("the body is not OTLP as protobuf: %s", err)
	}
	return m, nil
}

// tooLarge is a problem that another try does not mend.
func tooLarge(text string) *problem {
	return &problem{http.StatusRequestEntityTooLarge, codes.ResourceExhausted, text}
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
