package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func TestNoTable(t *testing.T) {
	p := New(Options{})
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://cart.localhost/", nil))
		return w
	}
	w := ask()
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, string(CodeNoTable), w.Header().Get(ErrorHeader))
	require.Equal(t, "1", w.Header().Get("Retry-After"))

	p.SetTable(compile(t, route.Spec{}))
	w = ask()
	require.Equal(t, http.StatusNotFound, w.Code, "now it is known that there is no such host")
	require.Equal(t, string(CodeUnknownHost), w.Header().Get(ErrorHeader))
}

func TestRetire(t *testing.T) {
	greeting := instance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	w := newWorld(t, Options{}, service("cart", ready("main", greeting)), service("chat", ready("main", upgrading(t))))
	kept, upgraded := dial(t, w.addr), dial(t, w.addr)
	ask := func() *http.Response {
		kept.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "")
		return kept.answer(t, http.MethodGet).Response
	}
	require.False(t, ask().Close)
	w.Retire()
	require.True(t, ask().Close, "the request that was on its way is answered, and the last one")
	_, err := kept.in.ReadByte()
	require.ErrorIs(t, err, io.EOF)

	upgraded.send(t, "GET / HTTP/1.1", "Host: chat.localhost", "Connection: Upgrade", "Upgrade: websocket", "")
	res := upgraded.response(t, http.MethodGet)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(t, []string{"Upgrade"}, res.Header["Connection"])
	require.NoError(t, upgraded.Close())
}
