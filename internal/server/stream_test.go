package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/server/servertest"
)

// stream is an answer that is read line by line. It ends with the test.
type stream struct {
	*http.Response
	r     *bufio.Reader
	close func()
}

func (e *env) open(t *testing.T, path string, header ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+path, nil)
	require.NoError(t, err)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	s := &stream{Response: resp, r: bufio.NewReader(resp.Body)}
	s.close = func() {
		cancel()
		_ = resp.Body.Close()
	}
	t.Cleanup(s.close)
	require.Equal(t, 200, resp.StatusCode)
	return s
}

// message returns the next message of a stream of server-sent events, its lines joined by "|".
func (s *stream) message(t *testing.T) string {
	t.Helper()
	var lines []string
	for {
		line, err := s.r.ReadString('\n')
		require.NoError(t, err)
		if line == "\n" {
			return strings.Join(lines, "|")
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
}

func TestEventStream(t *testing.T) {
	e := newEnv(t)
	e.Emit(api.Event{Type: api.EventServiceChanged, Service: "cart", Message: "one"})
	e.Emit(api.Event{Type: api.EventServiceChanged, Service: "pricing", Message: "two <&>"})

	s := e.open(t, "/api/v1/events/stream")
	require.Equal(t, "text/event-stream", s.Header.Get("Content-Type"))
	require.Equal(t, ": keep-alive|id: 0", s.message(t), "where to go on after a break comes first")
	require.Regexp(t, `^id: 1\|event: event\|data: \{"id":1,.*"message":"one"\}$`, s.message(t))
	require.Regexp(t, `^id: 2\|.*"message":"two <&>"\}$`, s.message(t))
	e.Emit(api.Event{Type: api.EventRouteChanged, Message: "three"})
	require.Regexp(t, `^id: 3\|.*"message":"three"\}$`, s.message(t))
}

func TestEventStreamFrom(t *testing.T) {
	tests := map[string]struct {
		path   string
		header []string
		want   []string
	}{
		"the start":             {"/api/v1/events/stream", nil, []string{"id: 0", "id: 1", "id: 2", "id: 3"}},
		"after one":             {"/api/v1/events/stream?after=1", nil, []string{"id: 1", "id: 2", "id: 3"}},
		"now":                   {"/api/v1/events/stream?after=-1", nil, []string{"id: 2", "id: 3"}},
		"Last-Event-ID":         {"/api/v1/events/stream?after=-1", []string{"Last-Event-ID: 1"}, []string{"id: 1", "id: 2", "id: 3"}},
		"one service":           {"/api/v1/events/stream?service=cart", nil, []string{"id: 0", "id: 1", "id: 2", "id: 3"}},
		"one service, the last": {"/api/v1/events/stream?service=cart&after=1", nil, []string{"id: 1", "id: 2", "id: 3"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.Emit(api.Event{Type: api.EventServiceChanged, Service: "cart", Message: "one"})
			e.Emit(api.Event{Type: api.EventServiceChanged, Service: "pricing", Message: "two"})
			s := e.open(t, tt.path, tt.header...)
			var got []string
			for i := range tt.want {
				if i == len(tt.want)-1 { // it has caught up
					e.Emit(api.Event{Type: api.EventServiceChanged, Service: "cart", Message: "three"})
				}
				m := s.message(t)
				for part := range strings.SplitSeq(m, "|") {
					if strings.HasPrefix(part, "id: ") {
						got = append(got, part)
					}
				}
				if strings.Contains(tt.path, "service=cart") {
					require.NotContains(t, m, "pricing")
				}
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// The log is entered where a time says, however long it is, and events that were stored a little
// out of their order are found too.
func TestEventsSince(t *testing.T) {
	e := newEnv(t)
	began := time.Now().Add(-1000 * time.Minute)
	for i := range 1000 {
		at := began.Add(time.Duration(i) * time.Minute)
		if i == 500 {
			at = at.Add(-65 * time.Second) // happened before 499, and was stored later
		}
		e.Emit(api.Event{Time: at, Type: api.EventServiceChanged, Service: "cart", Message: strconv.Itoa(i)})
	}
	for name, tt := range map[string]struct {
		since string
		count int
		first string
	}{
		"how long ago":     {"10m30s", 10, "990"},
		"before all":       {"10000h", 1000, "0"},
		"behind all":       {"0s", 0, ""},
		"a time":           {began.Add(600 * time.Minute).UTC().Format(time.RFC3339Nano), 400, "600"},
		"between disorder": {began.Add(499*time.Minute - time.Second).UTC().Format(time.RFC3339Nano), 500, "499"},
	} {
		t.Run(name, func(t *testing.T) {
			var out api.EventList
			got := e.ask(t, "GET", "/api/v1/events?limit=1000&since="+url.QueryEscape(tt.since), "")
			require.NoError(t, json.Unmarshal([]byte(got.body), &out), got.body)
			require.Len(t, out.Items, tt.count)
			if tt.count > 0 {
				require.Equal(t, tt.first, out.Items[0].Message)
			}
		})
	}
	s := e.open(t, "/api/v1/events/stream?since=1m30s")
	_ = s.message(t) // where it begins
	require.Contains(t, s.message(t), `"message":"999"`)
	s = e.open(t, "/api/v1/events/stream?since=1m30s", "Last-Event-ID: 1000")
	e.Emit(api.Event{Type: api.EventServiceChanged, Message: "new"})
	_ = s.message(t)
	require.Contains(t, s.message(t), `"message":"new"`, "what the client has is not sent again")
}

func TestStreamsStayAlive(t *testing.T) {
	for _, path := range []string{"/api/v1/events/stream?after=-1", "/api/v1/table/watch?after=e1.1"} {
		t.Run(path, func(t *testing.T) {
			e := newEnv(t, func(o *server.Options) { o.KeepAlive = 5 * time.Millisecond })
			s := e.open(t, path)
			for range 3 {
				require.Contains(t, s.message(t), ": keep-alive|id: ")
			}
		})
	}
}

// The time limits of a server are for requests: a stream outlives them.
func TestStreamsOutliveTheServersTimeouts(t *testing.T) {
	s, err := server.New(server.Options{Control: servertest.New(), KeepAlive: 20 * time.Millisecond})
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	srv.Start()
	t.Cleanup(srv.Close)
	t.Cleanup(s.CloseStreams)
	e := &env{url: srv.URL}
	messages := e.open(t, "/api/v1/events/stream")
	for range 10 {
		require.Contains(t, messages.message(t), "id: 0")
	}
}

func TestListEvents(t *testing.T) {
	e := newEnv(t)
	for i := range 1200 { // more than one page of the log
		e.Emit(api.Event{Type: api.EventInstanceHealth, Service: []string{"cart", "pricing"}[i%2], Version: "v1", Message: "m"})
	}
	tests := map[string]struct {
		query       string
		n           int
		first, last int64
	}{
		"default":     {"", 100, 1, 100},
		"after":       {"?after=1190", 10, 1191, 1200},
		"most":        {"?limit=1000", 1000, 1, 1000},
		"none":        {"?limit=0", 0, 0, 0},
		"service":     {"?service=pricing&limit=600", 600, 2, 1200},
		"version":     {"?version=v1&limit=1", 1, 1, 1},
		"no version":  {"?version=v2", 0, 0, 0},
		"beyond last": {"?after=99999", 0, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var list api.EventList
			got := e.ask(t, "GET", "/api/v1/events"+tt.query, "")
			unmarshal(t, got.body, &list)
			require.Equal(t, int64(1200), list.Last)
			require.Len(t, list.Items, tt.n)
			if tt.n > 0 {
				require.Equal(t, tt.first, list.Items[0].ID)
				require.Equal(t, tt.last, list.Items[tt.n-1].ID)
			}
		})
	}
}

func TestTable(t *testing.T) {
	e := newEnv(t)
	e.SetTable(route.Spec{Revision: 17, Environment: "shop"})
	got := e.ask(t, "GET", "/api/v1/table", "")
	require.Equal(t, 200, got.StatusCode)
	require.Equal(t, `"e1.17"`, got.Header.Get("ETag"))
	var spec route.Spec
	unmarshal(t, got.body, &spec)
	require.Equal(t, "shop", spec.Environment)

	for header, status := range map[string]int{
		`"e1.17"`:          304,
		`W/"e1.17"`:        304,
		`"e1.16", "e1.17"`: 304,
		`*`:                304,
		`"e1.16"`:          200,
		`"e2.17"`:          200,
		`"17"`:             200,
		`e1.17`:            200,
		`"e1.17`:           200,
		`"e1.1","e1.170"`:  200,
	} {
		got := e.ask(t, "GET", "/api/v1/table", "", "If-None-Match: "+header)
		require.Equal(t, status, got.StatusCode, header)
		require.Equal(t, status == 304, got.body == "", header)
		require.Equal(t, `"e1.17"`, got.Header.Get("ETag"))
	}
}

// A table of another epoch is another one, whatever was asked for and kept before.
func TestTableOfAnotherEpoch(t *testing.T) {
	e := newEnv(t)
	e.SetTable(route.Spec{Revision: 17, Environment: "shop"})
	require.Contains(t, e.ask(t, "GET", "/api/v1/table", "").body, `"environment":"shop"`)
	for _, revision := range []uint64{17, 3} {
		e.SetTable(route.Spec{Epoch: fmt.Sprint("e", revision), Revision: revision, Environment: fmt.Sprint("shop-", revision)})
		got := e.ask(t, "GET", "/api/v1/table", "", `If-None-Match: "e1.17"`)
		require.Equal(t, 200, got.StatusCode)
		require.Contains(t, got.body, fmt.Sprintf(`"environment":"shop-%d"`, revision))
	}
	e.ChangeTable(change(3, 4))
	require.Contains(t, e.open(t, "/api/v1/table/watch").message(t), "id: e3.3|event: table|", "and is kept")
}

func change(base, revision uint64) route.Change {
	return route.Change{Base: base, Revision: revision, Services: []route.ServiceChange{
		{Name: "cart", Service: &route.Service{Name: "cart"}},
	}}
}

func TestWatchTable(t *testing.T) {
	e := newEnv(t)
	s := e.open(t, "/api/v1/table/watch")
	require.Regexp(t, `^id: e1.1\|event: table\|data: \{"epoch":"e1","revision":1,`, s.message(t))
	e.ChangeTable(change(1, 2))
	require.Regexp(t, `^id: e1.2\|event: change\|data: \{"epoch":"e1","base":1,"revision":2,"services":\[\{"name":"cart",`, s.message(t))
	s.close()

	e.ChangeTable(change(2, 5))
	e.ChangeTable(change(5, 6))
	s = e.open(t, "/api/v1/table/watch", "Last-Event-ID: e1.2")
	require.Contains(t, s.message(t), "id: e1.5|event: change|")
	require.Contains(t, s.message(t), "id: e1.6|event: change|")
	e.SetTable(route.Spec{Revision: 9})
	require.Contains(t, s.message(t), "id: e1.9|event: table|", "no change leads there")
	s.close()

	s = e.open(t, "/api/v1/table/watch?after=e1.1")
	require.Contains(t, s.message(t), "id: e1.9|event: table|", "what is between is not known any more")
	s = e.open(t, "/api/v1/table/watch?after=e1.100")
	require.Contains(t, s.message(t), "id: e1.9|event: table|", "such a revision never was")
}

// A revision of another epoch is another table, also where there are changes from that revision on.
func TestWatchTableOfAnotherEpoch(t *testing.T) {
	e := newEnv(t)
	for revision := uint64(1); revision < 5; revision++ {
		e.ChangeTable(change(revision, revision+1))
	}
	require.Contains(t, e.open(t, "/api/v1/table/watch?after=e1.3").message(t), "id: e1.4|event: change|")
	for _, after := range []string{"e0.3", "3", "0", "e0.9"} {
		require.Contains(t, e.open(t, "/api/v1/table/watch?after="+after).message(t), "id: e1.5|event: table|", after)
	}
	s := e.open(t, "/api/v1/table/watch?after=e1.5")
	e.SetTable(route.Spec{Epoch: "e2", Revision: 2}) // the store was put back to an older state
	require.Contains(t, s.message(t), "id: e2.2|event: table|")
	e.ChangeTable(change(2, 3))
	require.Contains(t, s.message(t), "id: e2.3|event: change|")
	for _, after := range []string{"x", "e1.", "e1.-1", strings.Repeat("x", 99) + ".1"} {
		require.Equal(t, 422, e.ask(t, "GET", "/api/v1/table/watch?after="+after, "").StatusCode, after)
		require.Equal(t, 422, e.ask(t, "GET", "/api/v1/table/watch", "", "Last-Event-ID: "+after).StatusCode, after)
	}
}

// Proxies take no table of a lower revision than they have: none is given to them that is only
// kept for others, where there is a newer one.
func TestKeptTableIsNotOlderThanTheWatchers(t *testing.T) {
	e := newEnv(t)
	require.Contains(t, e.open(t, "/api/v1/table/watch").message(t), "id: e1.1|event: table|")
	for revision := uint64(1); revision < 5; revision++ {
		e.ChangeTable(change(revision, revision+1))
	}
	require.Contains(t, e.open(t, "/api/v1/table/watch?after=e0.9").message(t), "id: e1.1|event: table|", "there is none that it would take")
	require.Contains(t, e.open(t, "/api/v1/table/watch?after=e0.3").message(t), "id: e1.5|event: table|")
}

// The whole table is encoded anew only where the changes since are not known.
func TestWatchersShareASnapshot(t *testing.T) {
	e := newEnv(t)
	require.Contains(t, e.open(t, "/api/v1/table/watch").message(t), "id: e1.1|event: table|")
	e.ChangeTable(change(1, 2))
	s := e.open(t, "/api/v1/table/watch")
	require.Contains(t, s.message(t), "id: e1.1|event: table|")
	require.Contains(t, s.message(t), "id: e1.2|event: change|")
	require.Equal(t, `"e1.2"`, e.ask(t, "GET", "/api/v1/table", "").Header.Get("ETag"))
	require.Contains(t, e.open(t, "/api/v1/table/watch").message(t), "id: e1.2|event: table|")
}

// A watcher that does not read is not queued for: it is cut off, and comes back to a snapshot.
func TestSlowWatcherSkipsToASnapshot(t *testing.T) {
	e := newEnv(t, func(o *server.Options) { o.WriteTimeout = time.Minute })
	e.SetTable(wide(2, 16<<20)) // more than the buffers of a connection hold
	s := e.open(t, "/api/v1/table/watch")
	line, err := s.r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "id: e1.2\n", line)
	for revision := uint64(2); revision < 1000; revision++ { // while the table is being sent
		e.ChangeTable(change(revision, revision+1))
	}
	e.SetTable(route.Spec{Revision: 2000})
	require.Len(t, s.message(t), len("event: table|data: ")+len(marshal(t, wide(2, 16<<20))))
	require.Contains(t, s.message(t), "id: e1.2000|event: table|", "what came in between is left out")
}

// A watcher that takes a little of a long table again and again holds it only so long.
func TestWatcherThatTrickles(t *testing.T) {
	const size = 16 << 20
	e := newEnv(t, func(o *server.Options) { o.WriteTimeout = 50 * time.Millisecond })
	e.SetTable(wide(2, size))
	s := e.open(t, "/api/v1/table/watch")
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	read := int64(0)
	for {
		n, err := io.CopyN(io.Discard, s.r, 256<<10)
		if read += n; err != nil {
			break
		}
		<-pace.C
	}
	require.Less(t, read, int64(size))
}

func marshal(t *testing.T, spec route.Spec) []byte {
	t.Helper()
	spec.Epoch = servertest.Epoch
	table, err := route.Compile(spec) // with its defaults
	require.NoError(t, err)
	data, err := json.Marshal(table.Spec())
	require.NoError(t, err)
	return data
}

// wide is a table of so many bytes.
func wide(revision uint64, size int) route.Spec {
	return route.Spec{Revision: revision, Services: []route.Service{{
		Name:     "wide",
		Versions: []route.Version{{Name: "main", State: route.Failed, Reason: strings.Repeat("x", size)}},
	}}}
}

func TestProxies(t *testing.T) {
	e := newEnv(t)
	const report = `{"id":"edge-1","started_at":"2026-01-31T12:00:00Z","revision":1,"addresses":["127.0.0.1:8080"],"requests":{"cart@main":7}}`
	require.JSONEq(t, `{"items":[]}`, e.ask(t, "GET", "/api/v1/proxies", "").body)
	require.Equal(t, 204, e.ask(t, "POST", "/api/v1/proxies/edge-1", report).StatusCode)
	got := e.ask(t, "GET", "/api/v1/proxies", "")
	var list api.List[api.Proxy]
	unmarshal(t, got.body, &list)
	require.Len(t, list.Items, 1)
	require.Equal(t, uint64(7), list.Items[0].Requests["cart@main"])
	require.Contains(t, got.body, `"behind":0,"lag":"0s"`)
	for name, bad := range map[string]string{
		"another name": "/api/v1/proxies/edge-2",
		"a long name":  "/api/v1/proxies/" + strings.Repeat("x", 200),
	} {
		require.Equal(t, 422, e.ask(t, "POST", bad, report).StatusCode, name)
	}
}

func TestLogs(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	all := []api.LogLine{
		{Time: at, Instance: "i1", Stream: "stdout", Text: "one <b>"},
		{Time: at, Instance: "i1", Stream: "stderr", Text: "two\r"},
	}
	first := `{"time":"2026-01-31T12:00:00Z","instance":"i1","stream":"stdout","text":"one <b>"}`
	second := `{"time":"2026-01-31T12:00:00Z","instance":"i1","stream":"stderr","text":"two\r"}`
	const path = "/api/v1/services/cart/versions/v1/logs"

	tests := map[string]struct {
		query, accept, contentType, want string
	}{
		"by default":         {"", "", "application/x-ndjson", first + "\n" + second + "\n"},
		"anything":           {"", "*/*", "application/x-ndjson", first + "\n" + second + "\n"},
		"lines, not events":  {"", "text/event-stream;q=0.1, application/x-ndjson", "application/x-ndjson", first + "\n" + second + "\n"},
		"events":             {"", "text/event-stream", "text/event-stream", "event: log\ndata: " + first + "\n\nevent: log\ndata: " + second + "\n\n: keep-alive\nid: 2\n\nevent: end\ndata: {}\n\n"},
		"the last":           {"?tail=1", "", "application/x-ndjson", second + "\n"},
		"since is passed on": {"?since=2026-01-31T11:00:00Z", "", "application/x-ndjson", first + "\n" + second + "\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.withVersion(t)
			e.SetLog(nil, all...)
			got := e.ask(t, "GET", path+tt.query, "", "Accept: "+tt.accept)
			require.Equal(t, tt.contentType, got.Header.Get("Content-Type"))
			require.Equal(t, tt.want, got.body)
			require.Eventually(t, func() bool { return e.OpenLogs() == 0 }, 5*time.Second, time.Millisecond)
			if strings.Contains(tt.query, "since") {
				require.Equal(t, at.Add(-time.Hour), e.LogQuery().Since)
			}
		})
	}
}

func TestLogSinceAgo(t *testing.T) {
	e := newEnv(t)
	e.withVersion(t)
	before := time.Now()
	require.Equal(t, 200, e.ask(t, "GET", "/api/v1/services/cart/versions/v1/logs?since=10m", "").StatusCode)
	require.WithinRange(t, e.LogQuery().Since, before.Add(-10*time.Minute), time.Now().Add(-10*time.Minute))
}

func TestFollowingLogEndsWithTheClient(t *testing.T) {
	e := newEnv(t, func(o *server.Options) { o.KeepAlive = 5 * time.Millisecond })
	e.withVersion(t)
	e.SetLog(nil, api.LogLine{Text: "one"})
	s := e.open(t, "/api/v1/services/cart/versions/v1/logs?follow=true")
	line, err := s.r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, `"text":"one"`)
	line, err = s.r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "\n", line, "an empty line keeps it alive")
	s.close()
	require.Eventually(t, func() bool { return e.OpenLogs() == 0 }, 5*time.Second, time.Millisecond)
}

// A log that breaks must not look like one that ends.
func TestLogThatBreaks(t *testing.T) {
	e := newEnv(t)
	e.withVersion(t)
	e.SetLog(errors.New("secret: the disk"), api.LogLine{Text: "one"})
	s := e.open(t, "/api/v1/services/cart/versions/v1/logs")
	_, err := io.ReadAll(s.r)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Eventually(t, func() bool { return strings.Contains(e.log.String(), "stream failed") }, 5*time.Second, time.Millisecond)
}

// A client that reads nothing is cut off, and holds nothing.
func TestSlowClient(t *testing.T) {
	e := newEnv(t, func(o *server.Options) { o.WriteTimeout = 50 * time.Millisecond })
	e.withVersion(t)
	text := strings.Repeat("x", 1<<16)
	lines := make([]api.LogLine, 500) // more than the buffers of a connection hold
	for i := range lines {
		lines[i].Text = text
	}
	e.SetLog(nil, lines...)

	conn, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = fmt.Fprintf(conn, "GET /api/v1/services/cart/versions/v1/logs HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return e.OpenLogs() == 1 }, 5*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return e.OpenLogs() == 0 }, 10*time.Second, time.Millisecond)
}

func TestHeadOfAStreamEnds(t *testing.T) {
	e := newEnv(t)
	e.withVersion(t)
	for _, path := range []string{"/api/v1/events/stream", "/api/v1/table/watch", "/api/v1/services/cart/versions/v1/logs?follow=true"} {
		require.Equal(t, 200, e.ask(t, "HEAD", path, "").StatusCode)
	}
	require.Eventually(t, func() bool { return e.OpenLogs() == 0 }, 5*time.Second, time.Millisecond)
}

// TestLogsFollowedAtATimeAreBounded refuses one more than may be, until one of them ends.
func TestLogsFollowedAtATimeAreBounded(t *testing.T) {
	e := newEnv(t)
	e.withVersion(t)
	const path = "/api/v1/logs?target=cart@v1&follow=true"
	for range 256 {
		s := e.open(t, path)
		t.Cleanup(s.close)
	}
	got := e.ask(t, "GET", path, "")
	require.Equal(t, 503, got.StatusCode)
	require.Contains(t, got.body, "256 logs are being followed")
	require.Equal(t, 200, e.ask(t, "GET", "/api/v1/logs?target=cart@v1", "").StatusCode, "reading is not following")
	require.Equal(t, 422, e.ask(t, "GET", "/api/v1/logs?target=cart", "").StatusCode)
}
