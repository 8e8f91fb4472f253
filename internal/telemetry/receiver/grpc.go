package receiver

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // what clients may compress with
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// newGRPC returns the services of OTLP/gRPC. They take messages as they come, and decode them as OTLP/HTTP does: once there is room.
func (r *Receiver) newGRPC() *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxBody), grpc.ForceServerCodecV2(undecoded{}))
	for i := range r.kinds {
		k := &r.kinds[i]
		s.RegisterService(&grpc.ServiceDesc{ServiceName: k.service, Methods: []grpc.MethodDesc{{
			MethodName: "Export",
			Handler: func(_ any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if p, err := r.takeCall(ctx, k, receive); p != nil || err != nil {
					k.refused.Add(1)
					return nil, p.asStatus(err)
				}
				return k.answer(), nil
			},
		}}}, nil)
	}
	return s
}

// call is what is known of a call before gRPC has looked at it.
type call struct {
	hold    hold
	room    int64 // for gRPC's copy of the body, and what becomes of that
	problem *problem
}

type callKey struct{}

const framing = 5 // bytes before a message of gRPC

// serveGRPC answers a call of OTLP/gRPC. Each has one message, which is read before gRPC does: so it is counted as it comes.
func (r *Receiver) serveGRPC(w http.ResponseWriter, rq *http.Request) {
	c := &call{hold: hold{of: r.memory}}
	defer c.hold.release()
	body, err := c.hold.read(rq.Body, maxBody+framing)
	c.problem, c.room = notRead(err), 2*int64(len(body))
	if encoding := rq.Header.Get("Grpc-Encoding"); encoding != "" && encoding != "identity" {
		c.room += maxPlain
	}
	rq = rq.WithContext(context.WithValue(rq.Context(), callKey{}, c))
	rq.Body = io.NopCloser(bytes.NewReader(body))
	r.grpc.ServeHTTP(w, rq)
}

// takeCall takes in what a call brought. An error is gRPC's own.
func (r *Receiver) takeCall(ctx context.Context, k *kind, receive func(any) error) (*problem, error) {
	c := ctx.Value(callKey{}).(*call) //nolint:forcetypeassert // serveGRPC puts it in
	if c.problem != nil {
		return c.problem, nil
	}
	if p := c.hold.decode(ctx, c.room); p != nil {
		return p, nil
	}
	var text []byte
	if err := receive(&text); err != nil {
		return nil, err
	}
	m, p := k.decode(ctx, &c.hold, text, protobuf)
	if p != nil {
		return p, nil
	}
	said, _ := metadata.FromIncomingContext(ctx)
	address := ""
	if from, ok := peer.FromContext(ctx); ok {
		address = from.Addr.String()
	}
	return r.accept(k, m, address, strings.Join(said.Get(InstanceHeader), ",")), nil
}

// asStatus is a problem as gRPC has it; without one it is err.
func (p *problem) asStatus(err error) error {
	if p == nil {
		return err
	}
	s := status.New(p.code, strings.ToValidUTF8(p.text, "\uFFFD"))
	if p.code == codes.Unavailable {
		if detailed, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}); err == nil {
			s = detailed
		}
	}
	return s.Err()
}

// undecoded is the codec of messages that are taken as they come.
type undecoded struct{}

// Name is that of protobuf, as it is that.
func (undecoded) Name() string { return grpcproto.Name }

// Unmarshal takes a message.
func (undecoded) Unmarshal(text mem.BufferSlice, to any) error {
	*to.(*[]byte) = text.Materialize() //nolint:forcetypeassert // takeCall asks for nothing else
	return nil
}

// Marshal encodes an answer.
func (undecoded) Marshal(m any) (mem.BufferSlice, error) {
	text, err := proto.Marshal(m.(proto.Message)) //nolint:forcetypeassert // it is that of a kind
	return mem.BufferSlice{mem.SliceBuffer(text)}, err
}
