package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server/servertest"
)

func changed(message string) api.Event {
	return api.Event{Type: api.EventServiceChanged, Service: "cart", Message: message}
}

// Every event arrives once and in its order, however often the connection breaks.
func TestFollowEventsAcrossBreaks(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e.Emit(changed("1"))
	next := int64(1)
	for event, err := range e.FollowEvents(ctx, api.EventFilter{}) {
		require.NoError(t, err)
		require.Equal(t, next, event.ID)
		require.Equal(t, fmt.Sprint(next), event.Message)
		if next == 12 {
			break
		}
		if next%3 == 0 {
			e.http.CloseClientConnections()
			e.Emit(changed(fmt.Sprint(next + 1))) // while nobody listens
			e.Emit(changed(fmt.Sprint(next + 2)))
			e.Emit(changed(fmt.Sprint(next + 3)))
		} else if next < 3 {
			e.Emit(changed(fmt.Sprint(next + 1)))
		}
		next++
	}
}

// A client that follows from now on misses nothing when the connection breaks
// before the first event.
func TestFollowEventsFromNowAcrossABreak(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e.Emit(changed("before"))

	var connections atomic.Int32
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if connections.Add(1) == 1 {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprint(w, "id: 1\n\n") // the position, as the server says it first
			e.Emit(changed("in between"))
			return
		}
		r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", e.http.Listener.Addr().String()
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer func() { _ = resp.Body.Close() }()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		buf := make([]byte, 4096)
		for {
			n, err := resp.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}))
	defer front.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	c, err := api.NewClient(front.URL)
	require.NoError(t, err)
	defer c.Close()
	for event, err := range c.FollowEvents(ctx, api.EventFilter{After: api.FromNow}) {
		require.NoError(t, err)
		require.Equal(t, "in between", event.Message)
		break
	}
}

func TestFollowEventsEnds(t *testing.T) {
	t.Run("with its context", func(t *testing.T) {
		e := newEnv(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		stop := errors.New("enough")
		e.Emit(changed("1"))
		var errs []error
		for _, err := range e.FollowEvents(ctx, api.EventFilter{}) {
			if err != nil {
				errs = append(errs, err)
			}
			cancel(stop)
		}
		require.Equal(t, []error{stop}, errs)
	})
	t.Run("when the server refuses", func(t *testing.T) {
		e := newEnv(t)
		for _, err := range e.FollowEvents(t.Context(), api.EventFilter{After: -2}) {
			requireProblem(t, err, 422, api.CodeInvalid)
		}
	})
	t.Run("when no server comes back", func(t *testing.T) {
		var told []error
		e := newEnv(t, api.WithPatience(200*time.Millisecond), api.WithLost(func(err error) { told = append(told, err) }))
		e.Emit(changed("1"))
		var last error
		for _, err := range e.FollowEvents(t.Context(), api.EventFilter{}) {
			last = err
			if err == nil {
				require.NoError(t, e.http.Listener.Close())
				e.http.CloseClientConnections()
			}
		}
		var unreachable *api.UnreachableError
		require.ErrorAs(t, last, &unreachable)
		require.Len(t, told, 1, "once, however often it is tried")
		require.ErrorAs(t, told[0], &unreachable)
	})
}

// change leads from one revision of the servertest's table to the next.
func change(base, revision uint64) route.Change {
	return route.Change{Base: base, Revision: revision, Services: []route.ServiceChange{
		{Name: "cart", Service: &route.Service{Name: "cart", Default: fmt.Sprintf("v%d", revision)}},
	}}
}

// What a client has after each break is what the server has, by changes or as a whole.
func TestFollowTableAcrossBreaks(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	steps := []func(){
		func() { e.ChangeTable(change(1, 2)) },
		func() {
			e.http.CloseClientConnections()
			e.ChangeTable(change(2, 4)) // while nobody listens
			e.ChangeTable(change(4, 5))
		},
		func() {}, // the second of the two
		func() {
			e.http.CloseClientConnections()
			e.SetTable(route.Spec{Epoch: "e2", Revision: 3}) // as a server that was started on an older store
			e.ChangeTable(change(3, 5))
			e.ChangeTable(change(5, 9))
		},
		func() { e.ChangeTable(change(9, 10)) },
	}
	var got []string
	var table *route.Table
	for u, err := range e.FollowTable(ctx, api.TablePosition{}) {
		require.NoError(t, err)
		if u.Table != nil {
			require.Nil(t, u.Change)
			got = append(got, fmt.Sprintf("table %d", u.Table.Revision))
			table, err = route.Compile(*u.Table)
		} else {
			got = append(got, fmt.Sprintf("change %d-%d", u.Change.Base, u.Change.Revision))
			table, err = table.Apply(*u.Change)
		}
		require.NoError(t, err)
		if len(steps) == 0 {
			break
		}
		steps[0]()
		steps = steps[1:]
	}
	require.Equal(t, []string{"table 1", "change 1-2", "change 2-4", "change 4-5", "table 9", "change 9-10"}, got)
	require.Equal(t, e.Control.Table().Spec(), table.Spec())
}

func TestFollowTableFrom(t *testing.T) {
	e := newEnv(t)
	e.ChangeTable(change(1, 2))
	e.ChangeTable(change(2, 3))
	for after, want := range map[api.TablePosition]string{
		{}:                                      "table 3", // the first connection
		{Epoch: servertest.Epoch, Revision: 1}:  "change 2",
		{Epoch: servertest.Epoch, Revision: 2}:  "change 3",
		{Epoch: servertest.Epoch, Revision: 17}: "table 3", // it never was
		{Epoch: "e0", Revision: 1}:              "table 3", // of a store that is gone
		{Revision: 1}:                           "table 3",
	} {
		for u, err := range e.FollowTable(t.Context(), after) {
			require.NoError(t, err)
			if u.Table != nil {
				require.Equal(t, want, fmt.Sprintf("table %d", u.Table.Revision))
			} else {
				require.Equal(t, want, fmt.Sprintf("change %d", u.Change.Revision))
			}
			break
		}
	}
}

func TestFollowTableOnce(t *testing.T) {
	e := newEnv(t)
	var unreachable *api.UnreachableError
	updates := 0
	var last error
	for u, err := range e.FollowTableOnce(t.Context(), api.TablePosition{}) {
		if last = err; err != nil {
			continue
		}
		updates++
		require.NotNil(t, u.Table)
		e.http.CloseClientConnections()
	}
	require.ErrorAs(t, last, &unreachable, "a lost connection is the caller's")
	require.Equal(t, 1, updates)

	require.NoError(t, e.http.Listener.Close())
	for _, err := range e.FollowTableOnce(t.Context(), api.TablePosition{}) {
		require.ErrorAs(t, err, &unreachable, "and so is one that cannot be made")
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	for _, err := range e.FollowTableOnce(ctx, api.TablePosition{}) {
		require.ErrorIs(t, err, stop)
	}
}

func TestProxies(t *testing.T) {
	e := newEnv(t)
	report := api.ProxyReport{
		ID: "edge-1", Addresses: []string{"127.0.0.1:8080"}, StartedAt: time.Date(2026, 1, 31, 12, 0, 0, 1, time.UTC),
		Epoch: servertest.Epoch, Revision: 1, Draining: []string{"cart--main--1"}, Requests: map[string]uint64{"cart@main": 7},
	}
	require.NoError(t, e.Client.ReportProxy(t.Context(), report))
	e.ChangeTable(change(1, 2))
	got, err := e.Client.Proxies(t.Context())
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, report, got[0].ProxyReport)
	require.Equal(t, uint64(1), got[0].Behind)
	require.Equal(t, api.Duration(time.Second), got[0].Lag)
	requireProblem(t, e.Client.ReportProxy(t.Context(), api.ProxyReport{ID: ".."}), 422, api.CodeInvalid)
}

func TestLogs(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	deploy(t, e)
	at := time.Date(2026, 1, 31, 12, 0, 0, 1, time.UTC)
	all := []api.LogLine{{Time: at, Instance: "i", Stream: "stdout", Text: "one"}, {Time: at, Instance: "i", Text: "two\n"}}
	e.SetLog(nil, all...)

	var got []api.LogLine
	for line, err := range e.Client.Logs(ctx, "cart", "x", api.LogFilter{Since: at, Tail: 5}) {
		require.NoError(t, err)
		got = append(got, line)
	}
	require.Equal(t, all, got)
	require.Equal(t, control.LogQuery{Targets: []control.LogTarget{{Service: "cart", Version: "x"}}, Since: at, Tail: 5}, e.LogQuery())

	for line, err := range e.Client.Logs(ctx, "cart", "x", api.LogFilter{Follow: true}) {
		require.NoError(t, err)
		require.Equal(t, all[0], line)
		break
	}
	require.Eventually(t, func() bool { return e.OpenLogs() == 0 }, 5*time.Second, time.Millisecond)

	e.SetLog(errors.New("the disk broke"), all...)
	var last error
	for _, err := range e.Client.Logs(ctx, "cart", "x", api.LogFilter{}) {
		last = err
	}
	var unreachable *api.UnreachableError
	require.ErrorAs(t, last, &unreachable, "a log that breaks does not look as if it ended")

	for _, err := range e.Client.Logs(ctx, "cart", "unknown", api.LogFilter{}) {
		requireProblem(t, err, 404, api.CodeNotFound)
	}
}

func deploy(t *testing.T, e *env) control.Key {
	t.Helper()
	require.NoError(t, e.Control.PutService(t.Context(), api.Service{Name: "cart"}))
	_, err := e.Client.Deploy(t.Context(), "cart", "x", api.Deployment{})
	require.NoError(t, err)
	return control.Key{Service: "cart", Version: "x"}
}

func TestWaitDeploy(t *testing.T) {
	step := func(generation int64) api.Event {
		return api.Event{Type: api.EventDeployStep, Service: "cart", Version: "x", Generation: generation, Step: api.StepStart, Message: "started"}
	}
	tests := map[string]struct {
		before func(t *testing.T, e *env, key control.Key) // after the deploy, before the call
		during func(t *testing.T, e *env, key control.Key) // once the first event has arrived
		want   []api.EventType
		end    api.EventType // of the error; empty where it succeeds
	}{
		"over before the call": {
			before: func(_ *testing.T, e *env, key control.Key) {
				e.Emit(step(1))
				e.Settle(key, 1, api.EventDeployDone, "done")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeployStep, api.EventDeployDone},
		},
		"during the call": {
			during: func(_ *testing.T, e *env, key control.Key) {
				e.Emit(step(1))
				e.Emit(api.Event{Type: api.EventDeployDone, Service: "cart", Version: "other", Generation: 1, Message: "not ours"})
				e.Settle(key, 1, api.EventDeployDone, "done")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeployStep, api.EventDeployDone},
		},
		"across a break": {
			during: func(_ *testing.T, e *env, key control.Key) {
				e.http.CloseClientConnections()
				e.Settle(key, 1, api.EventDeployDone, "done")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeployDone},
		},
		"failed": {
			during: func(_ *testing.T, e *env, key control.Key) {
				e.Settle(key, 1, api.EventDeployFailed, "it exited with code 1")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeployFailed},
			end:  api.EventDeployFailed,
		},
		"superseded": {
			during: func(t *testing.T, e *env, key control.Key) {
				_, err := e.Control.Deploy(t.Context(), key, api.Deployment{})
				require.NoError(t, err)
				e.Settle(key, 1, api.EventDeploySuperseded, "gives way")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeploySuperseded},
			end:  api.EventDeploySuperseded,
		},
		"a newer one ended first": {
			during: func(t *testing.T, e *env, key control.Key) {
				_, err := e.Control.Deploy(t.Context(), key, api.Deployment{})
				require.NoError(t, err)
				e.Settle(key, 2, api.EventDeployDone, "done")
			},
			want: []api.EventType{api.EventDeployStarted},
			end:  api.EventDeployDone,
		},
		"removed": {
			during: func(t *testing.T, e *env, key control.Key) {
				_, err := e.Control.Remove(t.Context(), key, control.By{Actor: "ada"})
				require.NoError(t, err)
			},
			want: []api.EventType{api.EventDeployStarted},
			end:  api.EventVersionRemoved,
		},
		"the end of an earlier stop": {
			during: func(_ *testing.T, e *env, key control.Key) {
				e.Emit(api.Event{Type: api.EventVersionStopped, Service: "cart", Version: "x", Message: "stopped"})
				e.Settle(key, 1, api.EventDeployDone, "done")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeployDone},
		},
		"a busy environment": {
			before: func(_ *testing.T, e *env, key control.Key) {
				for range 3000 {
					e.Emit(api.Event{Type: api.EventInstanceHealth, Service: "other", Version: "x", Generation: 1, Message: "healthy"})
				}
				e.Settle(key, 1, api.EventDeployDone, "done")
			},
			want: []api.EventType{api.EventDeployStarted, api.EventDeployDone},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			key := deploy(t, e)
			if tt.before != nil {
				tt.before(t, e, key)
			}
			var got []api.EventType
			v, err := e.WaitDeploy(ctx, "cart", "x", 1, func(event api.Event) {
				got = append(got, event.Type)
				if len(got) == 1 && tt.during != nil {
					tt.during(t, e, key)
				}
			})
			require.Equal(t, tt.want, got)
			require.Equal(t, "cart@x", v.ID())
			if tt.end == "" {
				require.NoError(t, err)
				require.Equal(t, api.StateRunning, v.State)
				return
			}
			var failed *api.DeployError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, tt.end, failed.Event.Type)
			require.Equal(t, tt.end != api.EventDeployFailed, failed.Superseded())
			require.Contains(t, err.Error(), "cart@x: ")
		})
	}
}

// A version that was removed and deployed anew counts from one again: the end of
// its first life is not the end of the second.
func TestWaitDeploySecondLife(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key := deploy(t, e)
	e.Settle(key, 1, api.EventDeployFailed, "the first life")
	_, err := e.Client.Remove(ctx, "cart", "x", "")
	require.NoError(t, err)
	v, err := e.Client.Deploy(ctx, "cart", "x", api.Deployment{})
	require.NoError(t, err)
	require.Equal(t, int64(1), v.Generation)
	n := 0
	_, err = e.WaitDeploy(ctx, "cart", "x", v.Generation, func(event api.Event) {
		n++
		if n == 1 {
			require.Equal(t, api.EventDeployStarted, event.Type)
			e.Settle(key, 1, api.EventDeployDone, "the second life")
		}
	})
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

// TestFollowLogsAcrossBreaks cuts the connection again and again, before and behind positions.
func TestFollowLogsAcrossBreaks(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	deploy(t, e)
	var all []api.LogLine
	for i := range 60 {
		all = append(all, api.LogLine{Time: time.Unix(int64(i+1), 0).UTC(), Instance: "i", Stream: "stdout", Text: fmt.Sprintf("%d %4000d", i, i)})
	}
	e.SetLog(nil, all[:20]...)
	next := 0
	for line, err := range e.LogsOf(ctx, []string{"cart@x", "@y"}, api.LogFilter{Follow: true}) {
		require.NoError(t, err)
		require.Equal(t, all[next].Text, line.Text, "lost or doubled")
		if next == len(all)-1 {
			break
		}
		if next%20 == 7 {
			e.http.CloseClientConnections()
		}
		if next%20 == 19 {
			e.SetLog(nil, all[:next+21]...)
			e.http.CloseClientConnections()
		}
		next++
	}
	require.Equal(t, []control.LogTarget{{Service: "cart", Version: "x"}, {Version: "y"}}, e.LogQuery().Targets)
	require.NotEmpty(t, e.LogQuery().After)
	require.Eventually(t, func() bool { return e.OpenLogs() == 0 }, 5*time.Second, time.Millisecond)
}

// TestFollowLogsBreaksBeforeAPosition has a connection end behind lines without a position: the next one
// repeats them.
func TestFollowLogsBreaksBeforeAPosition(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	said := func(w http.ResponseWriter, second int, instance, stream, text string) {
		data, err := json.Marshal(api.LogLine{Time: at.Add(time.Duration(second) * time.Second), Instance: instance, Stream: stream, Text: text})
		require.NoError(t, err)
		_, err = fmt.Fprintf(w, "event: log\ndata: %s\n\n", data)
		require.NoError(t, err)
	}
	var asked []string // Last-Event-ID of each connection
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		switch len(asked) {
		case 1:
			said(w, 1, "a", "stdout", "one")
			_, _ = fmt.Fprint(w, "id: behind one\n\n")
			said(w, 2, "a", "stdout", "two")
			said(w, 3, "a", "stdout", "three")
		case 2:
			said(w, 2, "a", "stdout", "two")
			said(w, 3, "a", "stdout", "three")
			said(w, 3, "a", "stderr", "of another stream")
			said(w, 3, "b", "stdout", "of another instance")
			said(w, 3, "a", api.StreamLayover, "lines are missing here")
			said(w, 3, "a", api.StreamLayover, "another begins")
			said(w, 4, "a", "stdout", "four")
			_, _ = fmt.Fprint(w, "event: end\ndata: {}\n\n")
		}
	}))
	defer front.Close()
	client, err := api.NewClient(front.URL)
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var texts []string
	for line, err := range client.Logs(ctx, "cart", "x", api.LogFilter{Follow: true}) {
		require.NoError(t, err)
		texts = append(texts, line.Text)
	}
	require.Equal(t, []string{"one", "two", "three", "of another stream", "of another instance", "lines are missing here", "another begins", "four"}, texts)
	require.Equal(t, []string{"", "behind one"}, asked)
}
