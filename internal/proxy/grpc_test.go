package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/layover-dev/layover/internal/route"
)

type word = wrapperspb.StringValue

// greeter is a gRPC service with a method of each kind; each answers with the
// version's name.
func greeter(t *testing.T, version string) string {
	t.Helper()
	l := listen(t)
	stream := func(name string, client, server bool, handle func(grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{
			StreamName: name, ClientStreams: client, ServerStreams: server,
			Handler: func(_ any, s grpc.ServerStream) error { return handle(s) },
		}
	}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Greeter",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in word
			if err := decode(&in); err != nil {
				return nil, err
			}
			if in.Value == "fail" {
				return nil, status.Error(codes.FailedPrecondition, "100% bad: ü")
			}
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", version))
			return wrapperspb.String(version + " " + in.Value), nil
		}}},
		Streams: []grpc.StreamDesc{
			stream("Server", false, true, func(s grpc.ServerStream) error {
				var in word
				if err := s.RecvMsg(&in); err != nil {
					return err
				}
				for range 3 {
					if err := s.SendMsg(wrapperspb.String(version + " " + in.Value)); err != nil {
						return err
					}
				}
				return nil
			}),
			stream("Client", true, false, func(s grpc.ServerStream) error {
				all := version
				for {
					var in word
					if err := s.RecvMsg(&in); errors.Is(err, io.EOF) {
						return s.SendMsg(wrapperspb.String(all))
					} else if err != nil {
						return err
					}
					all += " " + in.Value
				}
			}),
			stream("Both", true, true, func(s grpc.ServerStream) error {
				for {
					var in word
					if err := s.RecvMsg(&in); err != nil {
						return nil
					}
					if in.Value == "enough" {
						return status.Error(codes.ResourceExhausted, "enough")
					}
					if err := s.SendMsg(wrapperspb.String(version + " " + in.Value)); err != nil {
						return err
					}
				}
			}),
		},
	}, nil)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

func grpcClient(t *testing.T, w *world, host string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+w.addr, grpc.WithAuthority(host), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func grpcWorld(t *testing.T, versions ...route.Version) *world {
	t.Helper()
	greet := service("greet", versions...)
	greet.Protocol = route.H2C
	return newWorld(t, Options{}, greet)
}

func TestGRPC_AllKinds(t *testing.T) {
	w := grpcWorld(t, ready("main", greeter(t, "main")), ready("pr-1", greeter(t, "pr-1")))
	conn := grpcClient(t, w, "greet.localhost")
	for version, ctx := range map[string]context.Context{
		"main": t.Context(),
		"pr-1": metadata.AppendToOutgoingContext(t.Context(), "baggage", toPR1),
	} {
		t.Run(version, func(t *testing.T) {
			var out word
			var header, trailer metadata.MD
			require.NoError(t, conn.Invoke(ctx, "/test.Greeter/Unary", wrapperspb.String("hi"), &out, grpc.Header(&header), grpc.Trailer(&trailer)))
			require.Equal(t, version+" hi", out.Value)
			require.Equal(t, []string{version}, trailer["x-trailer"])
			require.Len(t, header["layover-served-by"], 1)

			server, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Greeter/Server")
			require.NoError(t, err)
			require.NoError(t, server.SendMsg(wrapperspb.String("s")))
			require.NoError(t, server.CloseSend())
			for range 3 {
				require.NoError(t, server.RecvMsg(&out))
				require.Equal(t, version+" s", out.Value)
			}
			require.ErrorIs(t, server.RecvMsg(&out), io.EOF)

			client, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/test.Greeter/Client")
			require.NoError(t, err)
			for _, value := range []string{"a", "b"} {
				require.NoError(t, client.SendMsg(wrapperspb.String(value)))
			}
			require.NoError(t, client.CloseSend())
			require.NoError(t, client.RecvMsg(&out))
			require.Equal(t, version+" a b", out.Value)

			both, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Greeter/Both")
			require.NoError(t, err)
			for _, value := range []string{"a", "b"} { // each is answered before the next is sent
				require.NoError(t, both.SendMsg(wrapperspb.String(value)))
				require.NoError(t, both.RecvMsg(&out))
				require.Equal(t, version+" "+value, out.Value)
			}
			// The service ends the stream while the client's side is still open.
			require.NoError(t, both.SendMsg(wrapperspb.String("enough")))
			require.Equal(t, codes.ResourceExhausted, status.Code(both.RecvMsg(&out)))
		})
	}
}

func TestGRPC_StatusOfTheService(t *testing.T) {
	w := grpcWorld(t, ready("main", greeter(t, "main")))
	err := grpcClient(t, w, "greet.localhost").Invoke(t.Context(), "/test.Greeter/Unary", wrapperspb.String("fail"), new(word))
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.Equal(t, "100% bad: ü", status.Convert(err).Message())

	err = grpcClient(t, w, "greet.localhost").Invoke(t.Context(), "/test.Greeter/None", wrapperspb.String("x"), new(word))
	require.Equal(t, codes.Unimplemented, status.Code(err))
}

// TestGRPC_StatusWithoutABody holds that an answer that is trailers alone stays one, also where its header might have been flushed
// first, as on a machine that is slow at that moment.
func TestGRPC_StatusWithoutABody(t *testing.T) {
	w := grpcWorld(t, ready("main", greeter(t, "main")))
	w.relays.New = func() any {
		x := newRelay(w.Proxy)
		x.forward.FlushInterval = -1 // at once
		return x
	}
	conn := grpcClient(t, w, "greet.localhost")
	for range 200 {
		err := conn.Invoke(t.Context(), "/test.Greeter/Unary", wrapperspb.String("fail"), new(word))
		require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	}
}

func TestGRPC_Problems(t *testing.T) {
	w := grpcWorld(t, ready("main", deadAddress(t)), state("pr-1", route.Failed, "broken ü 100%"))
	cases := map[string]struct {
		host, baggage string
		code          codes.Code
		message       string
	}{
		"unknown host":   {"nowhere.test", "", codes.Unimplemented, "nowhere.test"},
		"unknown route":  {"greet.localhost", "dynamic_route=pr-2!", codes.InvalidArgument, "pr-2!"},
		"failed version": {"greet.localhost", toPR1, codes.Unavailable, "broken ü 100%"},
		"unreachable":    {"greet.localhost", "", codes.Unavailable, "layover logs greet@main"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.baggage != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "baggage", c.baggage)
			}
			err := grpcClient(t, w, c.host).Invoke(ctx, "/test.Greeter/Unary", wrapperspb.String("x"), new(word))
			require.Equal(t, c.code, status.Code(err), err)
			require.Contains(t, status.Convert(err).Message(), c.message)
		})
	}
}

func TestGRPC_HeldUntilReady(t *testing.T) {
	w := grpcWorld(t, state("main", route.Starting, ""))
	conn := grpcClient(t, w, "greet.localhost")
	done := make(chan error, 1)
	var out word
	go func() { done <- conn.Invoke(t.Context(), "/test.Greeter/Unary", wrapperspb.String("hi"), &out) }()
	w.waitHeld(t, 1)
	greet := service("greet", ready("main", greeter(t, "main")))
	greet.Protocol = route.H2C
	w.set(t, greet)
	require.NoError(t, <-done)
	require.Equal(t, "main hi", out.Value)
}
