package proxy

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/layover-dev/layover/internal/route"
)

// everyKind is a call of each kind, for any method.
var everyKind = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// grpcInstance is a gRPC server that answers every method by handle. stop ends it as a
// crash does.
func grpcInstance(t *testing.T, handle func(grpc.ServerStream) error) (addr string, stop func()) {
	t.Helper()
	l := listen(t)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return handle(s) }))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String(), server.Stop
}

func TestGRPC_Deadline(t *testing.T) {
	ended := make(chan error, 1)
	addr, _ := grpcInstance(t, func(s grpc.ServerStream) error {
		if _, ok := s.Context().Deadline(); !ok {
			return status.Error(codes.Internal, "there is no deadline")
		}
		<-s.Context().Done()
		ended <- s.Context().Err()
		return s.Context().Err()
	})
	w := grpcWorld(t, ready("main", addr))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := grpcClient(t, w, "greet.localhost").Invoke(ctx, "/a/B", wrapperspb.String("x"), new(word))
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), err)
	require.Error(t, <-ended)
}

func TestGRPC_CancelByTheClient(t *testing.T) {
	started, ended := make(chan bool, 1), make(chan error, 1)
	addr, _ := grpcInstance(t, func(s grpc.ServerStream) error {
		started <- true
		<-s.Context().Done()
		ended <- s.Context().Err()
		return s.Context().Err()
	})
	w := grpcWorld(t, ready("main", addr))
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := grpcClient(t, w, "greet.localhost").NewStream(ctx, everyKind, "/a/B")
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(wrapperspb.String("x")))
	<-started
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	r := w.records.wait(t, 1)[0]
	require.Equal(t, string(CodeClientGone), r.Error)
	require.NoError(t, w.WaitIdle(t.Context(), r.Instance))
}

// TestGRPC_CrashOfTheInstance holds that a call whose instance breaks off has failed, whether or not
// a message came before.
func TestGRPC_CrashOfTheInstance(t *testing.T) {
	for name, messages := range map[string]int{"before the answer": 0, "in the middle": 1} {
		t.Run(name, func(t *testing.T) {
			started := make(chan bool, 1)
			addr, stop := grpcInstance(t, func(s grpc.ServerStream) error {
				for range messages {
					if err := s.SendMsg(wrapperspb.String("x")); err != nil {
						return err
					}
				}
				started <- true
				<-s.Context().Done()
				return nil
			})
			w := grpcWorld(t, ready("main", addr))
			stream, err := grpcClient(t, w, "greet.localhost").NewStream(t.Context(), everyKind, "/a/B")
			require.NoError(t, err)
			for range messages {
				require.NoError(t, stream.RecvMsg(new(word)))
			}
			<-started
			stop()
			err = stream.RecvMsg(new(word))
			want, wantStatus := CodeUnreachable, codes.Unavailable
			if messages > 0 {
				want, wantStatus = CodeAborted, codes.Internal // the stream is reset
			}
			require.Equal(t, wantStatus, status.Code(err), err)
			require.Equal(t, string(want), w.records.wait(t, 1)[0].Error)
		})
	}
}

func TestGRPC_Metadata(t *testing.T) {
	addr, _ := grpcInstance(t, func(s grpc.ServerStream) error {
		in, _ := metadata.FromIncomingContext(s.Context())
		out := metadata.MD{"x-bin": in["x-bin"], "x-many": in["x-many"], "x-peer": in["x-forwarded-for"]}
		if err := s.SetHeader(out); err != nil {
			return err
		}
		s.SetTrailer(metadata.MD{"y-bin": in["x-bin"], "y-many": in["x-many"]})
		if len(in["fail"]) > 0 {
			return status.Error(codes.DataLoss, "as asked: ü\n%")
		}
		return s.SendMsg(wrapperspb.String("x"))
	})
	w := grpcWorld(t, ready("main", addr))
	conn := grpcClient(t, w, "greet.localhost")
	binary := "\x00\xff\r\n,;" + strings.Repeat("\x80", 100)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-bin", binary, "x-bin", "", "x-many", "a, b", "x-many", "c")
	for name, ctx := range map[string]context.Context{"ok": ctx, "trailers only": metadata.AppendToOutgoingContext(ctx, "fail", "1")} {
		t.Run(name, func(t *testing.T) {
			var header, trailer metadata.MD
			err := conn.Invoke(ctx, "/a/B", wrapperspb.String("x"), new(word), grpc.Header(&header), grpc.Trailer(&trailer))
			if name == "ok" {
				require.NoError(t, err)
				require.Equal(t, []string{binary, ""}, header["x-bin"])
				require.Equal(t, []string{"a, b", "c"}, header["x-many"])
				require.Equal(t, []string{"127.0.0.1"}, header["x-peer"])
			} else {
				require.Equal(t, codes.DataLoss, status.Code(err))
				require.Equal(t, "as asked: ü\n%", status.Convert(err).Message())
			}
			require.Equal(t, []string{binary, ""}, trailer["y-bin"])
			require.Equal(t, []string{"a, b", "c"}, trailer["y-many"])
		})
	}
}

func TestGRPC_LargeMessages(t *testing.T) {
	addr, _ := grpcInstance(t, func(s grpc.ServerStream) error {
		for range 4 {
			var in wrapperspb.BytesValue
			if err := s.RecvMsg(&in); err != nil {
				return err
			}
			if err := s.SendMsg(&in); err != nil {
				return err
			}
		}
		return nil
	})
	w := grpcWorld(t, ready("main", addr))
	stream, err := grpcClient(t, w, "greet.localhost").NewStream(t.Context(), everyKind, "/a/B")
	require.NoError(t, err)
	large := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.1 MiB; gRPC's bound is 4
	for range 4 {
		require.NoError(t, stream.SendMsg(wrapperspb.Bytes(large)))
		var out wrapperspb.BytesValue
		require.NoError(t, stream.RecvMsg(&out))
		require.True(t, bytes.Equal(large, out.Value))
	}
}

// TestGRPC_StatusOfEveryProblem holds the statuses that clients decide by whether to try again.
func TestGRPC_StatusOfEveryProblem(t *testing.T) {
	for code, want := range map[Code]codes.Code{
		CodeUnknownHost:     codes.Unimplemented,
		CodeUnknownRoute:    codes.InvalidArgument,
		CodeNoVersion:       codes.Unavailable,
		CodeVersionFailed:   codes.Unavailable,
		CodeVersionNotReady: codes.Unavailable,
		CodeVersionGone:     codes.Unavailable,
		CodeTooManyHeld:     codes.Unavailable,
		CodeStopping:        codes.Unavailable,
		CodeUnreachable:     codes.Unavailable,
		CodeTimeout:         codes.Unavailable,
		CodeBadAnswer:       codes.Internal,
		CodeLoop:            codes.Internal,
		CodeBadTarget:       codes.InvalidArgument,
		CodeBadBody:         codes.InvalidArgument,
		CodeMalformed:       codes.InvalidArgument,
		CodeHTTPSTarget:     codes.InvalidArgument,
		CodeConnect:         codes.Unimplemented,
	} {
		answer := (&problem{code: code, status: 500, title: "t", detail: "d"}).reply(&request{contentType: "application/grpc"}, nil, "")
		require.Equal(t, 200, answer.status, code)
		require.Contains(t, answer.fields, headerField{"Grpc-Status", strconv.Itoa(int(want))}, code)
	}
}

// TestGRPC_DrainOfTheProxy holds that no call fails when one of two proxies is stopped under
// load: it says GOAWAY, new calls go to the other one, and a stream that is open comes to its end.
func TestGRPC_DrainOfTheProxy(t *testing.T) {
	proceed := make(chan bool)
	addr, _ := grpcInstance(t, func(s grpc.ServerStream) error {
		var in word
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		if in.Value == "long" {
			if err := s.SendMsg(wrapperspb.String("begun")); err != nil {
				return err
			}
			<-proceed
		}
		return s.SendMsg(wrapperspb.String("done"))
	})
	one, two := grpcWorld(t, ready("main", addr)), grpcWorld(t, ready("main", addr))
	both := manual.NewBuilderWithScheme("both")
	both.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: one.addr}, {Addr: two.addr}}})
	conn, err := grpc.NewClient("both:///proxies", grpc.WithResolvers(both), grpc.WithAuthority("greet.localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin":{}}]}`),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()

	long, err := grpcClient(t, one, "greet.localhost").NewStream(t.Context(), everyKind, "/a/B")
	require.NoError(t, err)
	require.NoError(t, long.SendMsg(wrapperspb.String("long")))
	require.NoError(t, long.RecvMsg(new(word)))

	var calls, failed atomic.Int64
	stop := make(chan bool)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				calls.Add(1)
				if err := conn.Invoke(t.Context(), "/a/B", wrapperspb.String("short"), new(word)); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			}
		})
	}
	eventually(t, func() bool { return len(one.records.list()) > 50 && len(two.records.list()) > 50 })
	drained := make(chan bool)
	go func() { one.stop(); close(drained) }()
	before := len(two.records.list())
	eventually(t, func() bool { return one.stopped() && len(two.records.list()) > before+200 })
	close(proceed)
	var out word
	require.NoError(t, long.RecvMsg(&out))
	require.Equal(t, "done", out.Value)
	<-drained
	close(stop)
	group.Wait()
	require.Zero(t, failed.Load(), "of %d calls", calls.Load())
}

// stopped says whether the proxy has begun to drain.
func (w *world) stopped() bool {
	select {
	case <-w.stopping:
		return true
	default:
		return false
	}
}

// TestGRPC_DrainOfTheInstance holds that no call fails when an instance is exchanged for another.
func TestGRPC_DrainOfTheInstance(t *testing.T) {
	answer := func(s grpc.ServerStream) error { return s.SendMsg(wrapperspb.String("x")) }
	first, stop := grpcInstance(t, answer)
	second, _ := grpcInstance(t, answer)
	w := grpcWorld(t, ready("main", first))
	conn := grpcClient(t, w, "greet.localhost")
	quit := make(chan bool)
	var group sync.WaitGroup
	var failed atomic.Int64
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				if err := conn.Invoke(t.Context(), "/a/B", wrapperspb.String("x"), new(word)); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			}
		})
	}
	w.records.wait(t, 100)
	greet := service("greet", ready("main", second))
	greet.Protocol = route.H2C
	w.set(t, greet)
	require.NoError(t, w.WaitIdle(t.Context(), "main-"+first))
	stop()
	w.records.wait(t, len(w.records.list())+200)
	close(quit)
	group.Wait()
	require.Zero(t, failed.Load())
}
