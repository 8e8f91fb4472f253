package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Load is an order to a generator, which is a process of its own. Each answer is
// checked: its status, and that it comes from the backend of the version that the request asked for.
//
// With a rate, requests are due at even intervals whatever the proxy does, and a
// latency counts from when its request was due: one that has to wait because all before it were
// slow is charged for the wait (no coordinated omission). Without one, each
// connection sends the next request when it has the answer to the last.
type Load struct {
	Address     string        `json:"address"`
	Routes      Routes        `json:"routes"`
	InUse       int           `json:"in_use"` // routes that are asked for; 0 is all
	Connections int           `json:"connections"`
	Rate        float64       `json:"rate"`       // requests a second; 0 is as many as can be
	Reuse       int           `json:"reuse"`      // requests on one connection, then a new one is made; 0 is no limit
	Timeout     time.Duration `json:"timeout_ns"` // an answer that comes later has failed; 0 is none
	WarmUp      time.Duration `json:"warm_up_ns"`
	Duration    time.Duration `json:"duration_ns"`
	PID         int           `json:"pid"` // of the proxy, whose processor time is read when measuring begins and ends; 0 is none
	Seed        uint64        `json:"seed"`
}

// Result is what a generator saw.
type Result struct {
	Requests int           `json:"requests"` // answered as they should be
	Failed   int           `json:"failed"`
	Failure  string        `json:"failure,omitempty"` // the first
	Elapsed  time.Duration `json:"elapsed_ns"`
	CPU      time.Duration `json:"cpu_ns"` // of the proxy
	P50      time.Duration `json:"p50_ns"`
	P99      time.Duration `json:"p99_ns"`
	Max      time.Duration `json:"max_ns"`
}

// CPUPerRequest is the proxy's processor time for one request, in microseconds.
func (r Result) CPUPerRequest() float64 {
	return float64(r.CPU.Nanoseconds()) / 1e3 / float64(max(r.Requests, 1))
}

// PerSecond is the throughput.
func (r Result) PerSecond() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// Run makes the load and waits for it. Where a request failed, that is the error, beside the result.
func (l Load) Run(ctx context.Context) (Result, error) {
	var r Result
	p, err := startRole("load", LoadCPU, l)
	if err != nil {
		return r, err
	}
	defer p.Stop()
	if err := p.answer(ctx, &r); err != nil {
		return r, fmt.Errorf("load: %w", err)
	}
	if r.Failed > 0 {
		return r, fmt.Errorf("%d of %d requests failed, the first: %s", r.Failed, r.Failed+r.Requests, r.Failure)
	}
	if r.Requests == 0 {
		return r, errors.New("no request was answered")
	}
	return r, nil
}

// generate is the role.
func generate(in io.Reader, out io.Writer) error {
	var l Load
	if err := readOrder(in, &l); err != nil {
		return err
	}
	run := closedOrOpenLoop
	if l.Routes.Protocol == route.H2C || l.Routes.Protocol == GRPC {
		run = http2Loop
	}
	r, err := run(l)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// latencies are what one measurement saw.
type latencies []time.Duration

func (all latencies) into(r *Result) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	r.P50, r.P99, r.Max = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
}

// Median is the middle of some figures.
func Median(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(figures))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
