package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/tap"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

const (
	interopHost     = "grpc.localhost"
	interopFeature  = "feature-1"
	interopPatience = time.Minute // for one case
	interopSoak     = 50          // calls of each soak case
)

// interopCase is a case of gRPC's interoperability suite, by the name it has there. The cases that
// need an account at Google are not among them.
type interopCase struct {
	name string
	// mayNotArrive is for those that may be over before the server hears of them.
	mayNotArrive bool
	// noBaggage is for those that make calls which nobody can give baggage to.
	noBaggage bool
	run       func(context.Context, *interopClient)
}

func interopCases() []interopCase {
	// simple is a case that needs the client of the test service only.
	simple := func(name string, do func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)) interopCase {
		return interopCase{name: name, run: func(ctx context.Context, c *interopClient) { do(ctx, c.service()) }}
	}
	late := func(c interopCase) interopCase {
		c.mayNotArrive = true
		return c
	}
	return []interopCase{
		simple("empty_unary", interop.DoEmptyUnaryCall),
		simple("large_unary", interop.DoLargeUnaryCall),
		simple("client_streaming", interop.DoClientStreaming),
		simple("server_streaming", interop.DoServerStreaming),
		simple("ping_pong", interop.DoPingPong),
		simple("empty_stream", interop.DoEmptyStream),
		late(simple("timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer)),
		late(simple("cancel_after_begin", interop.DoCancelAfterBegin)),
		simple("cancel_after_first_response", interop.DoCancelAfterFirstResponse),
		simple("status_code_and_message", interop.DoStatusCodeAndMessage),
		simple("special_status_message", interop.DoSpecialStatusMessage),
		simple("custom_metadata", interop.DoCustomMetadata),
		{name: "unimplemented_method", run: func(ctx context.Context, c *interopClient) { interop.DoUnimplementedMethod(ctx, c.conn) }},
		{name: "unimplemented_service", run: func(ctx context.Context, c *interopClient) {
			interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(c.conn))
		}},
		{name: "pick_first_unary", run: func(ctx context.Context, c *interopClient) { interop.DoPickFirstUnary(ctx, c.service()) }},
		{name: "orca_per_rpc", run: func(ctx context.Context, c *interopClient) { interop.DoORCAPerRPCTest(ctx, c.service()) }},
		{name: "orca_oob", noBaggage: true, run: func(ctx context.Context, c *interopClient) { interop.DoORCAOOBTest(ctx, c.service()) }},
		{name: "rpc_soak", run: func(ctx context.Context, c *interopClient) {
			c.soak(ctx, func() (*grpc.ClientConn, func()) { return c.conn, func() {} })
		}},
		{name: "channel_soak", run: func(ctx context.Context, c *interopClient) {
			c.soak(ctx, func() (*grpc.ClientConn, func()) {
				conn, err := c.dial()
				if err != nil {
					panic(interopFailure(err.Error()))
				}
				return conn, func() { _ = conn.Close() }
			})
		}},
	}
}

// interopRound is a way to name the version that has to answer.
type interopRound struct {
	name    string
	version string
	host    string
	baggage string
	tls     bool
}

func interopRounds() []interopRound {
	return []interopRound{
		{name: "no route", version: route.DefaultVersion, host: interopHost},
		{name: "baggage", version: interopFeature, host: interopHost, baggage: "dynamic_route=" + interopFeature},
		{name: "preview host", version: interopFeature, host: interopFeature + "--" + interopHost},
		{name: "baggage over TLS", version: interopFeature, host: interopHost, baggage: "dynamic_route=" + interopFeature, tls: true},
	}
}

// proveInterop has gRPC's own client call gRPC's own server through the proxy.
func proveInterop(ctx context.Context) (result, error) {
	passed, failures, err := interopAll(ctx, interopRounds())
	if err != nil {
		return result{}, err
	}
	return result{
		figure: fmt.Sprintf("%d cases passed, %d failed, each answered by the version that was named", passed, len(failures)),
		bar:    "0 failed",
		ok:     passed > 0 && len(failures) == 0,
	}, nil
}

// interopAll runs every case in every round, and returns what failed.
func interopAll(ctx context.Context, rounds []interopRound) (passed int, failures []string, err error) {
	grpclog.SetLoggerV2(interopLogger{}) // whose Fatal ends the case, and not the program
	world, err := startInterop(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, world.close()) }()
	for _, round := range rounds {
		for _, c := range interopCases() {
			if c.noBaggage && round.baggage != "" {
				continue
			}
			took, failure := world.try(ctx, round, c)
			if failure != nil {
				failures = append(failures, fmt.Sprintf("%s, %s: %v", round.name, c.name, failure))
				fmt.Printf("  %-18s %-28s FAILED: %v\n", round.name, c.name, failure)
				continue
			}
			passed++
			fmt.Printf("  %-18s %-28s ok  %s by %s\n", round.name, c.name, took.Round(time.Millisecond), round.version)
		}
	}
	return passed, failures, ctx.Err()
}

// interopWorld is a proxy with two versions of the test service behind it.
type interopWorld struct {
	plain, encrypted string // addresses of the proxy
	roots            *x509.CertPool
	calls            map[string]*atomic.Int64 // by version
	stop             context.CancelFunc
	group            *errgroup.Group
	servers          []*grpc.Server
}

func startInterop(ctx context.Context) (*interopWorld, error) {
	ctx, stop := context.WithCancel(ctx)
	w := &interopWorld{calls: map[string]*atomic.Int64{}, stop: stop, group: new(errgroup.Group)}
	service := route.Service{Name: "grpc", Hosts: []string{interopHost}, Protocol: route.H2C}
	for _, version := range []string{route.DefaultVersion, interopFeature} {
		address, err := w.startVersion(ctx, version)
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		service.Versions = append(service.Versions, route.Version{
			Name: version, State: route.Ready, Instances: []route.Instance{{ID: version, Address: address}},
		})
	}
	table, err := route.Compile(route.Spec{Environment: "interop", Services: []route.Service{service}})
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	certificate, roots, err := interopCertificate()
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	plain, err := listenLoopback(ctx)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	encrypted, err := listenLoopback(ctx)
	if err != nil {
		return nil, errors.Join(err, plain.Close(), w.close())
	}
	w.plain, w.encrypted, w.roots = plain.Addr().String(), encrypted.Addr().String(), roots
	p := proxy.New(proxy.Options{Logger: slog.New(slog.DiscardHandler)})
	p.SetTable(table)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	w.group.Go(func() error {
		return p.Run(ctx, proxy.Listener{Listener: plain}, proxy.Listener{Listener: encrypted, TLS: config})
	})
	return w, nil
}

func (w *interopWorld) startVersion(ctx context.Context, version string) (string, error) {
	l, err := listenLoopback(ctx)
	if err != nil {
		return "", err
	}
	calls := new(atomic.Int64)
	w.calls[version] = calls
	server := grpc.NewServer(orca.CallMetricsServerOption(nil), grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
		if call.FullMethodName != orcaservice.OpenRcaService_StreamCoreMetrics_FullMethodName { // nobody can give it baggage
			calls.Add(1) // before the server knows whether there is such a method
		}
		return ctx, nil
	}))
	metrics := orca.NewServerMetricsRecorder()
	testpb.RegisterTestServiceServer(server, interopServer{
		TestServiceServer: interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: metrics}), version: version,
	})
	orcaservice.RegisterOpenRcaServiceServer(server, loadReports{metrics: metrics})
	w.servers = append(w.servers, server)
	w.group.Go(func() error { return server.Serve(l) })
	return l.Addr().String(), nil
}

func (w *interopWorld) close() error {
	w.stop()
	for _, server := range w.servers {
		server.Stop()
	}
	return w.group.Wait()
}

// try runs one case in one round.
func (w *interopWorld) try(ctx context.Context, round interopRound, c interopCase) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, interopPatience)
	defer cancel()
	client := &interopClient{world: w, round: round}
	if client.conn, err = client.dial(); err != nil {
		return 0, err
	}
	defer func() { _ = client.conn.Close() }()
	for _, calls := range w.calls {
		calls.Store(0)
	}
	begin := time.Now()
	if err := caught(func() { c.run(ctx, client) }); err != nil {
		return 0, err
	}
	for version, calls := range w.calls {
		switch n := calls.Load(); {
		case version != round.version && n > 0:
			return 0, fmt.Errorf("%d calls reached %s", n, version)
		case version == round.version && n == 0 && !c.mayNotArrive:
			return 0, fmt.Errorf("no call reached %s", version)
		}
	}
	return time.Since(begin), nil
}

// caught runs a case, which reports a failure by its logger's Fatal.
func caught(run func()) (err error) {
	defer func() {
		switch failure := recover().(type) {
		case nil:
		case interopFailure:
			err = errors.New(strings.TrimSpace(string(failure)))
		default:
			panic(failure)
		}
	}()
	run()
	return nil
}

// interopClient is gRPC's client in one round.
type interopClient struct {
	world *interopWorld
	round interopRound
	conn  *grpc.ClientConn
}

func (c *interopClient) service() testpb.TestServiceClient {
	return testpb.NewTestServiceClient(c.conn)
}

func (c *interopClient) dial() (*grpc.ClientConn, error) {
	address, encryption := c.world.plain, insecure.NewCredentials()
	if c.round.tls {
		address, encryption = c.world.encrypted, credentials.NewTLS(&tls.Config{RootCAs: c.world.roots, ServerName: interopHost, MinVersion: tls.VersionTLS12})
	}
	// Each kind of call adds to what metadata the case has put into its context.
	unary := func(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		return invoke(c.withRoute(ctx), method, in, out, conn, options...)
	}
	stream := func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		return open(c.withRoute(ctx), desc, conn, method, options...)
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(encryption),
		grpc.WithAuthority(c.round.host),
		grpc.WithNoProxy(),
		grpc.WithUnaryInterceptor(unary),
		grpc.WithStreamInterceptor(stream),
		// It is what the two cases with load reports look at, and picks the first for all.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`),
	)
}

func (c *interopClient) withRoute(ctx context.Context) context.Context {
	if c.round.baggage == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "baggage", c.round.baggage)
}

func (c *interopClient) soak(ctx context.Context, channel func() (*grpc.ClientConn, func())) {
	// It prints every call.
	if quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
		loud := os.Stderr
		os.Stderr = quiet
		defer func() { os.Stderr = loud; _ = quiet.Close() }()
	}
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize:                      271828,
		ResponseSize:                     314159,
		PerIterationMaxAcceptableLatency: 10 * time.Second,
		OverallTimeout:                   interopPatience,
		ServerAddr:                       c.world.plain,
		NumWorkers:                       2,
		Iterations:                       interopSoak,
		ChannelForTest:                   channel,
	})
}

// interopServer is gRPC's test service, which also says who it is where it is asked.
type interopServer struct {
	testpb.TestServiceServer
	version string
}

// UnaryCall answers as the test service does.
func (s interopServer) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	out, err := s.TestServiceServer.UnaryCall(ctx, in)
	if err == nil && in.GetFillServerId() {
		out.ServerId = s.version
	}
	return out, err
}

// loadReports streams the server's load. The one of package orca does so every 30 seconds, which the
// case does not wait for.
type loadReports struct {
	orcaservice.UnimplementedOpenRcaServiceServer
	metrics orca.ServerMetricsRecorder
}

// StreamCoreMetrics sends the load until the client has had enough.
func (l loadReports) StreamCoreMetrics(_ *orcaservice.OrcaLoadReportRequest, stream grpc.ServerStreamingServer[orcapb.OrcaLoadReport]) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		now := l.metrics.(orca.ServerMetricsProvider).ServerMetrics()
		report := &orcapb.OrcaLoadReport{CpuUtilization: now.CPUUtilization, MemUtilization: now.MemUtilization, Utilization: now.Utilization}
		if err := stream.Send(report); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// interopFailure is why a case failed.
type interopFailure string

// interopLogger turns the end of the program, by which the cases tell that they failed, into
// the end of the case.
type interopLogger struct{ grpclog.LoggerV2 }

// The kinds of logging that nobody reads.
func (interopLogger) Info(...any)             {}
func (interopLogger) Infoln(...any)           {}
func (interopLogger) Infof(string, ...any)    {}
func (interopLogger) Warning(...any)          {}
func (interopLogger) Warningln(...any)        {}
func (interopLogger) Warningf(string, ...any) {}
func (interopLogger) Error(...any)            {}
func (interopLogger) Errorln(...any)          {}
func (interopLogger) Errorf(string, ...any)   {}
func (interopLogger) V(int) bool              { return false }

// Fatal ends the case.
func (interopLogger) Fatal(args ...any) { panic(interopFailure(fmt.Sprint(args...))) }

// Fatalln ends the case.
func (interopLogger) Fatalln(args ...any) { panic(interopFailure(fmt.Sprintln(args...))) }

// Fatalf ends the case.
func (interopLogger) Fatalf(format string, args ...any) {
	panic(interopFailure(fmt.Sprintf(format, args...)))
}

// interopCertificate makes a certificate for the service's host, and the roots that it is valid with.
func interopCertificate() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{interopHost}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots, nil
}

func listenLoopback(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
}
