package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

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
	known := ""
	s, err := NewStandby(StandbyOptions{Leader: func() string { return known }})
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

	known = own // it was the leader before it started again
	answer, _ = ask(http.MethodGet, "/x", "", "")
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)

	known = leader.URL
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
