package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

const (
	warmUp           = 500 * time.Millisecond
	routedTimes      = 5   // how often the time until a new version is routed is taken
	changesPerSecond = 100 // of the table, beside the load
)

// Comparison says what is compared, and how long.
type Comparison struct {
	Peers       []Peer
	Routes      []int
	Protocol    route.Protocol // of clients and backend
	Rounds      int
	Duration    time.Duration // of one measurement
	Connections int
	Rate        float64 // requests a second; 0 is as many as can be
	Progress    func(format string, args ...any)
}

// Row is what was measured of one peer with so many routes: medians of the rounds.
// Times are in milliseconds. What a peer cannot do is left out.
type Row struct {
	Peer          string   `json:"peer"`
	Routes        int      `json:"routes"`
	CPUPerRequest float64  `json:"cpu_us_per_request"` // processor time of the proxy
	PerSecond     float64  `json:"requests_per_second"`
	P50           float64  `json:"p50_ms"` // at its limit
	P99           float64  `json:"p99_ms"`
	Rate          float64  `json:"rate,omitempty"`         // requests a second of what follows: half of what the slowest peer can do
	AddedP50      *float64 `json:"added_p50_ms,omitempty"` // beyond the latency of the backend alone, at that rate
	AddedP99      *float64 `json:"added_p99_ms,omitempty"`
	RSS           float64  `json:"rss_mb"`                   // after the load
	Routed        *float64 `json:"routed_ms,omitempty"`      // from the change until the new version gets a request
	ChangesP99    *float64 `json:"changes_p99_ms,omitempty"` // added, with 100 changes a second, at that rate
	Changes       float64  `json:"changes_per_second,omitempty"`
	Failure       string   `json:"failure,omitempty"` // why there are no figures

	running                 *Running
	cpu, perSecond          []float64
	p50, p99, fixed50, fix9 []float64
}

// Install makes the peers ready, and returns those that can be had, and why the others cannot.
func Install(ctx context.Context, peers []Peer) (had []Peer, leftOut map[string]error) {
	leftOut = map[string]error{}
	for _, p := range peers {
		if err := p.Install(ctx); err != nil {
			leftOut[p.Name()] = err
			continue
		}
		had = append(had, p)
	}
	return had, leftOut
}

// Compare measures all peers, which must be installed. They run side by side, and are measured in
// turn, round after round, so that what else the machine does is shared by all. A peer that does not
// start or routes wrongly has a failure in its row, and the others go on.
func Compare(ctx context.Context, c Comparison) ([]Row, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	if err := RaiseFileLimit(16_384); err != nil {
		return nil, err
	}
	backend, err := StartBackend(ctx)
	if err != nil {
		return nil, err
	}
	defer backend.Stop()
	var all []Row
	for _, n := range c.Routes {
		var entries []Entry
		for _, p := range c.Peers {
			entries = append(entries, Entry{p, n})
		}
		rows, err := c.side(ctx, entries, backend, c.Protocol == route.HTTP1)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

// Entry is a peer with so many routes.
type Entry struct {
	Peer   Peer
	Routes int
}

// CPU measures only what requests cost the entries' proxies, which may have different
// numbers of routes.
func (c Comparison) CPU(ctx context.Context, entries ...Entry) ([]Row, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	backend, err := StartBackend(ctx)
	if err != nil {
		return nil, err
	}
	defer backend.Stop()
	rows, err := c.side(ctx, entries, backend, false)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.Failure != "" {
			return nil, fmt.Errorf("%s with %d routes: %s", row.Peer, row.Routes, row.Failure)
		}
	}
	return rows, nil
}

// side measures the entries side by side. The generator with a rate, which latencies need,
// speaks HTTP/1.1 only.
func (c Comparison) side(ctx context.Context, entries []Entry, backend *Backend, latencies bool) ([]Row, error) {
	rows := make([]Row, len(entries))
	for i, e := range entries {
		row, routes := &rows[i], NewRoutes(e.Routes, c.Protocol)
		row.Peer, row.Routes = e.Peer.Name(), routes.Len()
		began := time.Now()
		if row.running, row.Failure = started(ctx, e.Peer, routes, backend); row.running == nil {
			c.Progress("%s", row.Failure)
			continue
		}
		defer row.running.Stop()
		c.Progress("%-12s %7d routes, right after %.1f s", row.Peer, row.Routes, time.Since(began).Seconds())
	}
	if err := c.atTheLimit(ctx, rows); err != nil || !latencies {
		return rows, err
	}
	load, alone99, err := c.atHalf(ctx, rows, backend)
	if err != nil {
		return nil, err
	}
	if err := c.changed(ctx, rows); err != nil {
		return nil, err
	}
	return rows, c.underChanges(ctx, rows, load, alone99)
}

func started(ctx context.Context, p Peer, routes Routes, backend *Backend) (*Running, string) {
	running, err := StartPeer(ctx, p, routes, backend)
	if err != nil {
		return nil, err.Error()
	}
	return running, ""
}

// each calls f for every row whose peer runs. What fails there is that peer's failure.
func (c Comparison) each(ctx context.Context, rows []Row, f func(*Row) error) error {
	for i := range rows {
		row := &rows[i]
		if row.Failure != "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(row); err != nil {
			row.Failure = err.Error()
			c.Progress("%s with %d routes: %s", row.Peer, row.Routes, row.Failure)
		}
	}
	return nil
}

// atTheLimit measures closed loops.
func (c Comparison) atTheLimit(ctx context.Context, rows []Row) error {
	for round := range c.Rounds {
		err := c.each(ctx, rows, func(row *Row) error {
			r, err := Load{
				Address: row.running.Address, PID: row.running.PID(), Routes: row.running.Setup.Routes, InUse: MaxInUse,
				Connections: c.Connections, Rate: c.Rate, WarmUp: warmUp, Duration: c.Duration, Seed: uint64(round), //nolint:gosec // not negative
			}.Run(ctx)
			if err != nil {
				return err
			}
			row.cpu = append(row.cpu, r.CPUPerRequest())
			row.perSecond = append(row.perSecond, r.PerSecond())
			row.p50 = append(row.p50, milliseconds(r.P50))
			row.p99 = append(row.p99, milliseconds(r.P99))
			c.Progress("%-12s %7d routes, round %d: %6.1f µs of CPU per request, %.0f requests/s", row.Peer, row.Routes, round+1, r.CPUPerRequest(), r.PerSecond())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.each(ctx, rows, func(row *Row) error {
		row.CPUPerRequest, row.PerSecond = Median(row.cpu), Median(row.perSecond)
		row.P50, row.P99 = Median(row.p50), Median(row.p99)
		memory, err := MemoryOf(row.running.PID())
		row.RSS = MB(memory.Resident)
		return err
	})
}

// MaxInUse is how many routes are asked for at most, picked from anywhere in the set: more than
// one environment has traffic for at a time.
const MaxInUse = 10_000

// atHalf measures latencies at half of the throughput of the slowest, beside those of the backend alone. It
// returns the load, and the p99 of the backend alone in milliseconds.
func (c Comparison) atHalf(ctx context.Context, rows []Row, backend *Backend) (Load, float64, error) {
	slowest := 0.0
	for _, row := range rows {
		if row.Failure == "" && (slowest == 0 || row.PerSecond < slowest) {
			slowest = row.PerSecond
		}
	}
	load := Load{Connections: 4 * c.Connections, Rate: slowest / 2, WarmUp: warmUp, Duration: c.Duration, InUse: MaxInUse}
	var alone50, alone99 []float64
	for round := range c.Rounds {
		load.Seed = uint64(round)
		load.Address, load.Routes = backend.Address(c.Protocol, 0), Routes{Services: 1, Versions: 1}
		r, err := load.Run(ctx)
		if err != nil {
			return load, 0, fmt.Errorf("the backend alone: %w", err)
		}
		alone50, alone99 = append(alone50, milliseconds(r.P50)), append(alone99, milliseconds(r.P99))
		err = c.each(ctx, rows, func(row *Row) error {
			load.Address, load.Routes = row.running.Address, row.running.Setup.Routes
			r, err := load.Run(ctx)
			row.fixed50, row.fix9 = append(row.fixed50, milliseconds(r.P50)), append(row.fix9, milliseconds(r.P99))
			return err
		})
		if err != nil {
			return load, 0, err
		}
	}
	if err := c.each(ctx, rows, func(row *Row) error {
		row.Rate = load.Rate
		p50, p99 := Median(row.fixed50)-Median(alone50), Median(row.fix9)-Median(alone99)
		row.AddedP50, row.AddedP99 = &p50, &p99
		return nil
	}); err != nil {
		return load, 0, err
	}
	return load, Median(alone99), nil
}

// underChanges measures the proxies that take up changes quickly while they do.
func (c Comparison) underChanges(ctx context.Context, rows []Row, load Load, alone99 float64) error {
	return c.each(ctx, rows, func(row *Row) error {
		if !row.running.Quick {
			return nil
		}
		load.Address, load.Routes = row.running.Address, row.running.Setup.Routes
		var busy, made []float64
		for range c.Rounds {
			r, changes, err := UnderChanges(ctx, row.running, load)
			if err != nil {
				return err
			}
			busy, made = append(busy, milliseconds(r.P99)), append(made, changes)
		}
		p99 := Median(busy) - alone99
		row.ChangesP99, row.Changes = &p99, Median(made)
		return nil
	})
}

// UnderChanges makes a load while the table is changed a hundred times a second, and returns how many
// changes a second the proxy took up: a proxy that falls behind is waited for.
func UnderChanges(ctx context.Context, running *Running, load Load) (Result, float64, error) {
	changing, stop := context.WithCancel(ctx)
	defer stop()
	type outcome struct {
		n   int
		err error
	}
	done := make(chan outcome, 1)
	began := time.Now()
	go func() {
		n, err := running.Change(changing, changesPerSecond)
		done <- outcome{n, err}
	}()
	r, err := load.Run(ctx)
	stop()
	made := <-done
	if err := errors.Join(err, made.err); err != nil {
		return r, 0, err
	}
	_, err = running.Routed(ctx, Added{
		Name: fmt.Sprintf("last-%d", began.UnixNano()), Backend: (running.Setup.Routes.Backend(0, 0) + 1) % Backends,
	})
	return r, float64(made.n) / time.Since(began).Seconds(), err
}

// changed measures how long a new version takes until it is routed.
func (c Comparison) changed(ctx context.Context, rows []Row) error {
	return c.each(ctx, rows, func(row *Row) error {
		if row.running.Route == nil {
			return nil
		}
		routes := row.running.Setup.Routes
		var took []float64
		for i := range routedTimes {
			service := i % routes.Services
			d, err := row.running.Routed(ctx, Added{
				Service: service, Name: fmt.Sprintf("new-%d", i),
				Backend: (routes.Backend(service, 0) + 1) % Backends, // not that of the default version
			})
			if err != nil {
				return err
			}
			took = append(took, milliseconds(d))
		}
		routed := Median(took)
		row.Routed = &routed
		return nil
	})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
