package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/layover-dev/layover/api"
)

// onlooker is what knows one server of several alone: a proxy, and somebody who follows the events.
type onlooker struct {
	server *sharing
	admin  string
	proxy  *exec.Cmd
	said   lockedBuffer
	client *api.Client

	events atomic.Int64 // how many came, and the ID of the last

	// Of one goroutine; read when that has ended.
	broke  int      // how often the stream could not be taken up again at once
	faults []string // events that came twice, or did not come
}

// startOnlooker runs the proxy of one.
func (f *failing) startOnlooker(ctx context.Context, number int, server *sharing, ports []string) (*onlooker, error) {
	o := &onlooker{server: server, admin: "127.0.0.1:" + ports[1]}
	var err error
	if o.client, err = api.NewClient(server.url, api.WithLost(func(err error) {
		if err != nil {
			o.broke++
		}
	})); err != nil {
		return nil, err
	}
	o.proxy = exec.Command(f.binary, "proxy", "--server", server.url, "--listen", "127.0.0.1:"+ports[0], "--admin", o.admin, "--id", fmt.Sprintf("alone-%d", number))
	o.proxy.Stdout, o.proxy.Stderr = &o.said, &o.said
	if err := o.proxy.Start(); err != nil {
		return nil, err
	}
	return o, until(ctx, time.Minute, func() (bool, error) { return o.revision(ctx) > 0, nil },
		func() string { return "a proxy that knows one server alone has no table:\n" + o.said.String() })
}

func (o *onlooker) end() {
	_ = o.proxy.Process.Signal(syscall.SIGTERM)
	_ = o.proxy.Wait() // it was asked to end
	o.client.Close()
}

// revision is that of the proxy's table, 0 where it has none.
func (o *onlooker) revision(ctx context.Context) uint64 {
	var ready struct {
		Revision uint64 `json:"revision"`
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.admin+"/readyz", nil)
	if err != nil {
		return 0
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	_ = json.NewDecoder(res.Body).Decode(&ready) // zero where it is none
	return ready.Revision
}

// follow follows all events until ctx ends. Their IDs have no gap.
func (o *onlooker) follow(ctx context.Context) {
	for e, err := range o.client.FollowEvents(ctx, api.EventFilter{}) {
		if err != nil {
			if ctx.Err() == nil {
				o.faults = append(o.faults, "the events of "+o.server.url+" ended: "+err.Error())
			}
			return
		}
		if last := o.events.Swap(e.ID); e.ID != last+1 {
			o.faults = append(o.faults, fmt.Sprintf("event %d came behind event %d from %s", e.ID, last, o.server.url))
		}
	}
}

// reach returns how long it took from began until the proxies that know one server alone have a table of the next leader,
// but for the one of the server that was lost.
func (f *failing) reach(ctx context.Context, lost *sharing, began time.Time) (time.Duration, error) {
	var last uint64 // that the lost one can have made
	if err := f.db.QueryRowContext(ctx, `SELECT value FROM counters WHERE name = 'revision'`).Scan(&last); err != nil {
		return 0, err
	}
	var took time.Duration
	for _, o := range f.onlookers {
		if o.server == lost {
			continue
		}
		err := until(ctx, time.Minute, func() (bool, error) { return o.revision(ctx) > last, nil },
			func() string { return "a proxy that knows one server alone gets no new table:\n" + o.said.String() })
		if err != nil {
			return 0, err
		}
		took = max(took, time.Since(began))
	}
	return took, nil
}
