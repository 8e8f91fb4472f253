package proxy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/layover-dev/layover/internal/route"
)

// h2cSettings is a field HTTP2-Settings: 100 streams, and a window of 7 bytes.
const h2cSettings = "AAMAAABkAAQAAAAH"

// upgradeToH2C has a connection become one of HTTP/2 by a GET, and returns it after the 101.
func upgradeToH2C(t *testing.T, w *world, headers ...string) *h2cConn {
	t.Helper()
	conn := dial(t, w.addr)
	lines := append([]string{
		"GET /a?b=c HTTP/1.1", "Host: cart.localhost", "Connection: Upgrade, HTTP2-Settings",
		"Upgrade: h2c", "HTTP2-Settings: " + h2cSettings,
	}, headers...)
	conn.send(t, append(lines, "")...)
	res := conn.response(t, http.MethodGet)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(t, "h2c", res.Header.Get("Upgrade"))
	c := &h2cConn{wire: conn, framer: http2.NewFramer(conn, conn.in)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return c
}

// h2cConn is a bare connection of HTTP/2.
type h2cConn struct {
	*wire
	framer *http2.Framer
	acks   int // of settings
}

// start sends what a client has to send first.
func (c *h2cConn) start(t *testing.T, settings ...http2.Setting) {
	t.Helper()
	_, err := io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, c.framer.WriteSettings(settings...))
}

// answer reads the answer on a stream, and lets the other side send as it likes.
func (c *h2cConn) answer(t *testing.T, stream uint32) (header map[string]string, body string) {
	t.Helper()
	header = map[string]string{}
	var text bytes.Buffer
	for {
		frame, err := c.framer.ReadFrame()
		require.NoError(t, err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				c.acks++
			} else {
				require.NoError(t, c.framer.WriteSettingsAck())
			}
		case *http2.MetaHeadersFrame:
			require.Equal(t, stream, f.StreamID)
			for _, field := range f.Fields {
				header[field.Name] = field.Value
			}
		case *http2.DataFrame:
			require.LessOrEqual(t, len(f.Data()), 7, "the window is as the settings said")
			text.Write(f.Data())
			if len(f.Data()) > 0 {
				require.NoError(t, c.framer.WriteWindowUpdate(stream, uint32(len(f.Data()))))
			}
		case *http2.GoAwayFrame:
			require.Fail(t, "the connection ends", "%v %s", f.ErrCode, f.DebugData())
		}
		if frame.Header().StreamID == stream && frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return header, text.String()
		}
	}
}

// ask sends a request on a stream. The headers, name and value by turns, go over those of its own.
func (c *h2cConn) ask(t *testing.T, stream uint32, headers ...string) {
	t.Helper()
	fields := []string{":method", "GET", ":scheme", "http", ":authority", "cart.localhost", ":path", "/"}
	for i := 0; i < len(headers); i += 2 {
		if at := slices.Index(fields, headers[i]); at >= 0 {
			fields[at+1] = headers[i+1]
		} else {
			fields = append(fields, headers[i], headers[i+1])
		}
	}
	require.NoError(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: encodeFields(t, fields...), EndStream: true, EndHeaders: true}))
}

// encodeFields compresses fields, name and value by turns.
func encodeFields(t *testing.T, fields ...string) []byte {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		require.NoError(t, encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return block.Bytes()
}

func TestH2C_Upgrade(t *testing.T) {
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+" "+r.Host+r.RequestURI+" "+r.Header.Get("X-Long")+r.Header.Get("X-Own")+r.Header.Get("Upgrade")+r.Header.Get("Http2-Settings"))
		}
	}
	w := newWorld(t, Options{}, service("cart", ready("main", instance(t, handler("main"))), ready("pr-1", instance(t, handler("pr-1")))))
	long := strings.Repeat("x", 40<<10) // more than a frame
	c := upgradeToH2C(t, w, "Baggage: "+toPR1, "X-Long: "+long, "X-Own: 1", "Connection: X-Own")
	c.start(t, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	header, body := c.answer(t, 1)
	require.Equal(t, "200", header[":status"])
	require.Equal(t, "pr-1 cart.localhost/a?b=c "+long, body)

	// Later requests are decided on their own.
	c.ask(t, 3)
	_, body = c.answer(t, 3)
	require.Equal(t, "main cart.localhost/ ", body)
	c.ask(t, 5, "baggage", toPR1)
	header, body = c.answer(t, 5)
	require.Equal(t, "pr-1 cart.localhost/ ", body)
	require.Equal(t, "cart@pr-1; route=pr-1; by=baggage", header["layover-served-by"])
	require.Equal(t, 1, c.acks, "the client sent settings once")
	require.Equal(t, "/a", w.records.wait(t, 3)[0].Path)

	// The drain tells the client, and does not wait for it.
	w.stop()
	for {
		frame, err := c.framer.ReadFrame()
		require.NoError(t, err)
		if frame.Header().Type == http2.FrameGoAway {
			break
		}
	}
}

// TestH2C_ClientsSettingsGoLast holds that of a setting that is in both places, the one
// of the client's own frame counts.
func TestH2C_ClientsSettingsGoLast(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "longer than seven bytes"))))
	c := upgradeToH2C(t, w)
	c.start(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
	for {
		frame, err := c.framer.ReadFrame()
		require.NoError(t, err)
		if data, ok := frame.(*http2.DataFrame); ok {
			require.Equal(t, "lon", string(data.Data()))
			return
		}
	}
}

// TestH2C_NotGranted holds that a request which may not be upgraded is answered as it is.
func TestH2C_NotGranted(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "plain "+string(body))
	}))))
	const both, settings = "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: " + h2cSettings
	for name, lines := range map[string][]string{
		"body":              {"POST / HTTP/1.1", both, "Upgrade: h2c", settings, "Content-Length: 5", "", "hello"},
		"chunked body":      {"POST / HTTP/1.1", both, "Upgrade: h2c", settings, "Transfer-Encoding: chunked", "", "0", ""},
		"no settings":       {"GET / HTTP/1.1", both, "Upgrade: h2c", ""},
		"settings twice":    {"GET / HTTP/1.1", both, "Upgrade: h2c", settings, settings, ""},
		"not listed":        {"GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", settings, ""},
		"no base64":         {"GET / HTTP/1.1", both, "Upgrade: h2c", "HTTP2-Settings: !!!!", ""},
		"half a setting":    {"GET / HTTP/1.1", both, "Upgrade: h2c", "HTTP2-Settings: AAMA", ""},
		"impossible window": {"GET / HTTP/1.1", both, "Upgrade: h2c", "HTTP2-Settings: AAT_____", ""},
		"too many":          {"GET / HTTP/1.1", both, "Upgrade: h2c", "HTTP2-Settings: " + strings.Repeat(h2cSettings, 100), ""},
		"not alone":         {"GET / HTTP/1.1", both, "Upgrade: h2c, websocket", settings, ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, w.addr)
			conn.send(t, append([]string{lines[0], "Host: cart.localhost"}, lines[1:]...)...)
			a := conn.answer(t, http.MethodGet)
			require.Equal(t, http.StatusOK, a.StatusCode)
			require.True(t, strings.HasPrefix(a.text, "plain "), a.text)
		})
	}
}

// TestH2C_NoPreface holds what becomes of a client that does not go on with HTTP/2.
func TestH2C_NoPreface(t *testing.T) {
	for name, sent := range map[string]string{
		"HTTP/1.1":            plainRequest,
		"another first frame": http2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"settings on stream":  http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x01",
		"huge settings":       http2.ClientPreface + "\xff\xff\xff\x04\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main"))))
			c := upgradeToH2C(t, w)
			_, err := io.WriteString(c, sent)
			require.NoError(t, err)
			rest, _ := io.ReadAll(c.in)
			require.NotContains(t, string(rest), "main")
			w.stop()
			require.Empty(t, w.records.list())
		})
	}
}

func TestH2C_ToAnH2CInstance(t *testing.T) {
	cart := service("cart", ready("main", h2cInstance(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })))
	cart.Protocol = route.H2C
	w := newWorld(t, Options{}, cart)
	c := upgradeToH2C(t, w)
	c.start(t)
	_, body := c.answer(t, 1)
	require.Equal(t, "HTTP/2.0", body)
}

func FuzzUpgradedConn(f *testing.F) {
	settings, err := base64.RawURLEncoding.DecodeString(h2cSettings)
	require.NoError(f, err)
	f.Add(settings, []byte(http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00rest"), []byte("\x82\x86"))
	f.Add(settings, []byte(http2.ClientPreface+"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x09"), bytes.Repeat([]byte("x"), 40<<10))
	f.Fuzz(func(t *testing.T, payload, sent, block []byte) {
		settings, ok := parseSettings(payload)
		if !ok || len(block) == 0 || len(payload) > maxUpgradeSettings {
			return
		}
		in := bufio.NewReader(bytes.NewReader(sent))
		all, err := io.ReadAll(&upgradedConn{in: in, request: block, settings: settings})
		if err != nil {
			return
		}
		// What the server reads is a preface, one frame of settings without duplicates of ours, the
		// header in frames that it takes, and then what the client sent.
		rest, found := bytes.CutPrefix(all, []byte(http2.ClientPreface))
		require.True(t, found)
		framer := http2.NewFramer(nil, bytes.NewReader(rest))
		frame, err := framer.ReadFrame()
		require.NoError(t, err)
		require.IsType(t, &http2.SettingsFrame{}, frame)
		var got []byte
		for end := false; !end; {
			frame, err := framer.ReadFrame()
			require.NoError(t, err)
			require.EqualValues(t, 1, frame.Header().StreamID)
			switch f := frame.(type) {
			case *http2.HeadersFrame:
				require.True(t, f.StreamEnded())
				got, end = append(got, f.HeaderBlockFragment()...), f.HeadersEnded()
			case *http2.ContinuationFrame:
				got, end = append(got, f.HeaderBlockFragment()...), f.HeadersEnded()
			default:
				require.Fail(t, "another frame", "%v", f)
			}
		}
		require.Equal(t, block, got)
	})
}

// TestH2C_Curl has a client that many people use upgrade, and ask again on that connection.
func TestH2C_Curl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl here")
	}
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main\n")), ready("pr-1", says(t, "pr-1\n"))))
	url := "http://" + w.addr + "/"
	out, err := exec.CommandContext(t.Context(), curl, "--silent", "--show-error", "--http2", "--noproxy", "*", "--max-time", "20",
		"--header", "Host: cart.localhost", "--header", "Baggage: "+toPR1, "--write-out", "%{http_version} %{num_connects}\n", url, url).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "pr-1\n2 1\npr-1\n2 0\n", string(out))
}
