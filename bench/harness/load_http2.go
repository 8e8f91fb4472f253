package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// http2Connections is how many the workers share.
const http2Connections = 4

// http2Loop asks over HTTP/2, plain or gRPC, without a rate.
func http2Loop(l Load) (Result, error) {
	if l.Rate > 0 {
		return Result{}, errors.New("a rate is for HTTP/1.1 only")
	}
	wants := l.Routes.inUse(l.InUse, l.Seed)
	call, err := http2Call(l)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	began, end := start.Add(l.WarmUp), start.Add(l.WarmUp+l.Duration)
	ctx, cancel := context.WithDeadline(context.Background(), end.Add(10*time.Second))
	defer cancel()

	var mu sync.Mutex
	var r Result
	var all latencies
	var workers sync.WaitGroup
	for i := range l.Connections {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(l.Seed, uint64(i))) //nolint:gosec // for load, not for secrets
			var own latencies
			failed, failure := 0, ""
			for {
				sent := time.Now()
				if !sent.Before(end) {
					break
				}
				if err := call(ctx, i, wants[random.IntN(len(wants))]); err != nil {
					failed++
					failure = err.Error()
					time.Sleep(time.Millisecond) // not to spin on a proxy that is gone
					continue
				}
				if !sent.Before(began) {
					own = append(own, time.Since(sent))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			r.Failed += failed
			if r.Failure == "" {
				r.Failure = failure
			}
		})
	}
	time.Sleep(time.Until(began)) // the workers are warming up
	pids := tree(l.PID)
	var before time.Duration
	if l.PID > 0 {
		if before, err = cpuTime(pids); err != nil {
			return r, err
		}
	}
	workers.Wait()
	r.Elapsed = time.Since(began)
	if l.PID > 0 {
		after, err := cpuTime(pids)
		if err != nil {
			return r, err
		}
		r.CPU = after - before
	}
	r.Requests = len(all)
	all.into(&r)
	return r, nil
}

// http2Call returns what asks for one route, and checks the answer.
func http2Call(l Load) (func(ctx context.Context, worker int, w want) error, error) {
	if l.Routes.Protocol == GRPC {
		return grpcCall(l.Address)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	var clients [http2Connections]http.Client
	for i := range clients {
		clients[i].Transport = &http.Transport{Protocols: &protocols}
	}
	return func(ctx context.Context, worker int, w want) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Address+"/some/path?query=1", nil)
		if err != nil {
			return err
		}
		req.Host = w.host
		req.Header.Set("Baggage", Baggage(w.version))
		return checked(&clients[worker%http2Connections], req, w.backend)
	}, nil
}

// checked sends a request, and holds the answer to the backend that it must come from.
func checked(client *http.Client, req *http.Request, backend int) error {
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxText))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || string(text) != body(backend) {
		return fmt.Errorf("%s with %q: %q should have answered; it was %s %q",
			req.Host, req.Header.Get("Baggage"), body(backend), res.Status, text)
	}
	return nil
}

const maxText = 4096 // of an answer that is an error

func grpcCall(address string) (func(ctx context.Context, worker int, w want) error, error) {
	var clients [http2Connections]grpc_health_v1.HealthClient
	for i := range clients {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		clients[i] = grpc_health_v1.NewHealthClient(conn)
	}
	return func(ctx context.Context, worker int, w want) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "baggage", Baggage(w.version))
		var header metadata.MD
		res, err := clients[worker%http2Connections].Check(ctx, &grpc_health_v1.HealthCheckRequest{},
			grpc.Header(&header), grpc.CallAuthority(w.host))
		if err != nil {
			return err
		}
		if got := header.Get(backendHeader); len(got) != 1 || got[0] != strconv.Itoa(w.backend) || res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			return fmt.Errorf("%s with %q: backend %d should have answered; it was %v", w.host, w.version, w.backend, got)
		}
		return nil
	}, nil
}
