package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRequestBody_ClosedBeforeItIsRead holds that a transport which is told of a lost instance just before
// it reads the body is not left waiting for the client, and that another attempt reads all of it.
func TestRequestBody_ClosedBeforeItIsRead(t *testing.T) {
	client, feed := io.Pipe()
	in := httptest.NewRequest(http.MethodPost, "/", client)
	in.ProtoMajor = 2
	body := &requestBody{ReadCloser: client, in: in, out: in}
	_, err := body.roundTrip(roundTripper(func(out *http.Request) (*http.Response, error) {
		require.NoError(t, out.Body.Close())
		_, err := io.ReadAll(out.Body)
		return nil, err
	}), in)
	require.ErrorIs(t, err, errLost)
	go func() {
		_, _ = feed.Write([]byte("all"))
		_ = feed.Close()
	}()
	_, err = body.roundTrip(roundTripper(func(out *http.Request) (*http.Response, error) {
		all, err := io.ReadAll(out.Body)
		require.Equal(t, "all", string(all))
		return nil, err
	}), in)
	require.NoError(t, err)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
