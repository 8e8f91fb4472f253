package server

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server/servertest"
)

// records are a store, as a server that stands by reads it.
type records struct{ *servertest.Control }

func (r records) Version(ctx context.Context, key control.Key) (*control.VersionRecord, error) {
	v, err := r.Control.Version(ctx, key)
	if err != nil {
		return nil, control.ErrNotStored
	}
	return &control.VersionRecord{Key: key, Generations: []control.Generation{{Number: v.Generation}}}, nil
}

func (r records) Revision(context.Context) (uint64, error) { return r.Table().Revision(), nil }

func (r records) DeadLetters(context.Context) ([]api.DeadLetter, error) {
	return []api.DeadLetter{{ID: 12, Webhook: "chat"}}, nil
}

// A standby passes requests on as they are, with the fields of the answer once; where no server leads, or the one
// it knows is a standby itself, it says so.
func TestStandby(t *testing.T) {
	streaming := make(chan struct{})
	leader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		if r.URL.Path == "/stream" {
			_, _ = io.WriteString(w, "begin\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // for ever
			close(streaming)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.URL.String()+" "+r.Header.Get("Origin")+string(body))
	}))
	defer leader.Close()
	s, err := NewStandby(StandbyOptions{Known: control.NewStandby(records{servertest.New()})})
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	ctx, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln.(*net.TCPListener)) }()
	own := "http://" + ln.Addr().String()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func(method, target, body, origin string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, own+target, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		answer, err := client.Do(r)
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer, string(text)
	}

	answer, text := ask(http.MethodGet, "/x", "", "")
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
	require.Equal(t, "1", answer.Header.Get("Retry-After"))
	require.Contains(t, text, "no server has the store")

	s.Lead(own, true) // it was the leader before it started again
	answer, _ = ask(http.MethodGet, "/x", "", "")
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)

	s.Lead(leader.URL, true)
	answer, text = ask(http.MethodPut, "/x%2Fy?a=1", "{}", own)
	require.Equal(t, "PUT "+strings.TrimPrefix(leader.URL, "http://")+" /x%2Fy?a=1 {}", text)
	require.Equal(t, []string{"default-src 'self'"}, answer.Header.Values("Content-Security-Policy"))
	answer, _ = ask(http.MethodGet, "/x", "", "https://elsewhere.example")
	require.Equal(t, http.StatusForbidden, answer.StatusCode)

	stream, err := client.Get(own + "/stream")
	require.NoError(t, err)
	begun := make([]byte, 6)
	_, err = io.ReadFull(stream.Body, begun)
	require.NoError(t, err)
	end()
	_, err = io.ReadAll(stream.Body)
	require.Error(t, err, "the stream is broken off, so that its client asks again")
	require.NoError(t, stream.Body.Close())
	require.NoError(t, <-served)
	<-streaming

	accepted := make(chan error, 1)
	go func() { // the listener goes on for the next server
		conn, err := ln.Accept()
		if err == nil {
			err = conn.Close()
		}
		accepted <- err
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, <-accepted)
}

// standbyTest is a standby that serves, and the leaders that it may have, all over one environment.
type standbyTest struct {
	*Standby
	environment *servertest.Control
	url         string
}

func newStandbyTest(t *testing.T) *standbyTest {
	t.Helper()
	b := &standbyTest{environment: servertest.New()}
	var err error
	b.Standby, err = NewStandby(StandbyOptions{Known: control.NewStandby(records{b.environment}), Environment: api.Environment{Name: "shop"}})
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.url = "http://" + ln.Addr().String()
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln.(*net.TCPListener)) }()
	t.Cleanup(func() {
		end()
		require.NoError(t, <-served)
		require.NoError(t, ln.Close())
	})
	return b
}

// leader starts a server that leads the environment. end kills it.
func (b *standbyTest) leader(t *testing.T) (url string, end func()) {
	t.Helper()
	s, err := New(Options{Control: b.environment})
	require.NoError(t, err)
	srv := httptest.NewServer(s.Handler())
	end = sync.OnceFunc(func() {
		s.CloseStreams()
		srv.CloseClientConnections()
		srv.Close()
	})
	t.Cleanup(end)
	return srv.URL, end
}

func (b *standbyTest) client(t *testing.T) *api.Client {
	t.Helper()
	client, err := api.NewClient(b.url, api.WithPatience(0))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// While no server leads, a standby answers what the store has. For the rest it says that none leads, of whatever operation.
func TestStandby_WithoutLeader(t *testing.T) {
	b := newStandbyTest(t)
	b.Lead("", true)
	require.NoError(t, b.environment.PutService(t.Context(), api.Service{Name: "cart"}))
	require.NoError(t, b.environment.PutRoute(t.Context(), api.NamedRoute{Name: "team"}, ""))
	_, err := b.environment.Deploy(t.Context(), control.Key{Service: "cart", Version: "one"}, api.Deployment{})
	require.NoError(t, err)
	client := b.client(t)

	services, err := client.Services(t.Context())
	require.NoError(t, err)
	require.Equal(t, "cart", services[0].Name)
	named, err := client.Route(t.Context(), "team")
	require.NoError(t, err)
	require.Equal(t, "team", named.Name)
	generations, err := client.History(t.Context(), "cart", "one")
	require.NoError(t, err)
	require.Len(t, generations, 1)
	_, err = client.History(t.Context(), "cart", "two")
	problem, ok := errors.AsType[*api.Problem](err)
	require.True(t, ok)
	require.Equal(t, api.CodeNotFound, problem.Code)
	letters, err := client.DeadLetters(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 12, letters[0].ID)
	events, err := client.Events(t.Context(), api.EventFilter{})
	require.NoError(t, err)
	require.NotEmpty(t, events.Items)
	environment, err := client.Environment(t.Context())
	require.NoError(t, err)
	require.Equal(t, "shop", environment.Name)

	answers := map[standbyAnswer]int{}
	for pattern, answer := range b.own.standbyAnswers {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{service}", "cart", "{version}", "one", "{route}", "team", "{id}", "1", "{proxy}", "edge").Replace(path)
		if strings.HasSuffix(path, "/stream") || strings.HasSuffix(path, "/watch") {
			continue // have no end
		}
		r, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader("{}"))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		got, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, got.Body.Close())
		answers[answer]++
		if answer == asksLeader || answer == leaderless { // there is no table yet
			require.Equal(t, http.StatusServiceUnavailable, got.StatusCode, pattern)
			require.Equal(t, "1", got.Header.Get("Retry-After"), pattern)
		} else {
			require.Equal(t, http.StatusOK, got.StatusCode, pattern)
		}
	}
	require.Greater(t, answers[asksLeader], 10)
	require.Greater(t, answers[fromStore], 5)
}

// One stream of the leader's table serves all who watch it at a standby. They stay where a leader is lost, and go on with
// the tables of the next one; and so do those who follow the events.
func TestStandby_StreamsOutliveTheLeader(t *testing.T) {
	b := newStandbyTest(t)
	first, kill := b.leader(t)
	b.environment.SetTable(route.Spec{Environment: "shop", Epoch: "a", Revision: 1})
	b.Lead(first, true)
	client := b.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	nextTable, endTables := iter.Pull2(client.FollowTableOnce(ctx, api.TablePosition{}))
	defer endTables()
	nextEvent, endEvents := iter.Pull2(client.FollowEvents(ctx, api.EventFilter{After: api.FromNow}))
	defer endEvents()
	table := func() api.TableUpdate {
		t.Helper()
		u, err, ok := nextTable()
		require.True(t, ok)
		require.NoError(t, err)
		return u
	}
	require.EqualValues(t, 1, table().Table.Revision)
	b.environment.ChangeTable(route.Change{Base: 1, Revision: 2, Routes: []route.RouteChange{{Name: "team", Route: &route.NamedRoute{Name: "team"}}}})
	require.EqualValues(t, 2, table().Change.Revision)

	kill()
	require.Eventually(t, func() bool { return !b.isFollowing() }, 20*time.Second, time.Millisecond)
	b.Lead("", true)
	event := make(chan api.Event, 1)
	go func() {
		e, _, _ := nextEvent()
		event <- e
	}()
	var id int64
	require.Eventually(t, func() bool { // the stream may not have begun before
		id = b.environment.Emit(api.Event{Type: api.EventRouteChanged, Message: "meanwhile"})
		select {
		case e := <-event:
			require.Equal(t, "meanwhile", e.Message)
			return true
		case <-time.After(10 * time.Millisecond):
			return false
		}
	}, 20*time.Second, time.Millisecond)
	require.Positive(t, id)
	last, err := client.Table(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, last.Revision, "the last table is in force while no server leads")
	_, err = client.Explain(t.Context(), api.ExplainRequest{URL: "http://cart.localhost/"})
	require.NoError(t, err)

	second, _ := b.leader(t)
	b.environment.SetTable(route.Spec{Environment: "shop", Epoch: "b", Revision: 3})
	b.Lead(second, true)
	whole := table()
	require.Equal(t, "b", whole.Table.Epoch)
	require.EqualValues(t, 3, whole.Table.Revision)
}

// Who has seen a later table at another server gets no older one here.
func TestStandby_SendsNoOlderTable(t *testing.T) {
	b := newStandbyTest(t)
	leader, _ := b.leader(t)
	b.environment.SetTable(route.Spec{Environment: "shop", Epoch: "a", Revision: 5})
	b.Lead(leader, true)
	require.Eventually(t, func() bool { return b.known.Table().Revision() == 5 }, 20*time.Second, time.Millisecond)

	behind := control.NewStandby(given{records{b.environment}, 9})
	require.NoError(t, behind.TakeTable(api.TableUpdate{Table: b.environment.Table().Spec()}))
	for _, after := range []route.Position{{Epoch: "a", Revision: 9}, {Epoch: "b", Revision: 7}, {Revision: 6}} {
		soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := behind.WaitTable(soon, after)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, after)
	}
	table, err := behind.WaitTable(t.Context(), route.Position{Epoch: "b", Revision: 10})
	require.NoError(t, err, "the store has never been there: it was put back")
	require.EqualValues(t, 5, table.Revision())
	table, err = behind.WaitTable(t.Context(), route.Position{Epoch: "b", Revision: 4})
	require.NoError(t, err)
	require.EqualValues(t, 5, table.Revision())
}

// given is a store that has given out a revision.
type given struct {
	records
	revision uint64
}

func (g given) Revision(context.Context) (uint64, error) { return g.revision, nil }

// What waits for the answer of a leader is told when another server has taken over; where this program does not know the schema of the
// store, all that is stored is asked of the leader.
func TestStandby_AnotherLeads(t *testing.T) {
	b := newStandbyTest(t)
	asked := make(chan struct{})
	paused := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPut {
			close(asked)
		}
		<-r.Context().Done()
	}))
	defer paused.Close()
	b.Lead(paused.URL, true)
	client := b.client(t)
	ended := make(chan error, 1)
	go func() {
		soon, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := client.PutRoute(soon, api.NamedRoute{Name: "team"})
		ended <- err
	}()
	<-asked
	b.Lead("", true)
	problem, ok := errors.AsType[*api.Problem](<-ended)
	require.True(t, ok)
	require.Equal(t, api.CodeUnavailable, problem.Code)

	require.NoError(t, b.environment.PutService(t.Context(), api.Service{Name: "cart"}))
	b.Lead("", false)
	_, err := client.Services(t.Context())
	problem, ok = errors.AsType[*api.Problem](err)
	require.True(t, ok)
	require.Equal(t, api.CodeUnavailable, problem.Code)
	_, err = client.Environment(t.Context())
	require.NoError(t, err)
}
