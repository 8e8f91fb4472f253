package proxy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxUpgradeSettings bounds the settings that come with an upgrade, in bytes: more than
// there are settings to set.
const maxUpgradeSettings = 100 * 6

// wantsH2C says whether the client asks for HTTP/2 on this connection (Upgrade: h2c).
// A proxy may grant that: HTTP/2 then ends here, and each request of the connection is decided by
// itself. It is not passed on to instances; see [dropTunnelsOfHTTP].
//
// A request with a body keeps HTTP/1.1, as RFC 7540 section 3.2 lets the server choose:
// nothing else of the connection could be read before all of the body was.
func wantsH2C(r *http.Request) bool {
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.TLS != nil || r.ContentLength != 0 {
		return false
	}
	upgrade := r.Header["Upgrade"]
	return len(upgrade) == 1 && strings.EqualFold(upgrade[0], "h2c") &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "Upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "HTTP2-Settings")
}

// upgradeH2C turns the connection into one of HTTP/2, and gives it to the server behind
// d. The request is the connection's first there. It says false, and has done nothing,
// where the request is better answered over HTTP/1.1.
func (p *Proxy) upgradeH2C(w http.ResponseWriter, r *http.Request, d *door) bool {
	settings, ok := upgradeSettings(r.Header)
	rq := readRequest(r, d.Trusted)
	if !ok || rq.checkTarget() != nil || d.closed.Err() != nil {
		return false
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	if strict, ok := conn.(*strictConn); ok {
		strict.startHTTP2()
	}
	upgraded := &upgradedConn{
		Conn:     conn,
		in:       io.MultiReader(io.LimitReader(buffered, int64(buffered.Reader.Buffered())), conn),
		request:  firstHeader(r),
		settings: settings,
	}
	const granted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
	if _, err := io.WriteString(conn, granted); err != nil {
		_ = conn.Close()
	} else {
		d.hand(upgraded)
	}
	return true
}

// upgradeSettings returns the one field HTTP2-Settings, decoded.
func upgradeSettings(h http.Header) ([]http2.Setting, bool) {
	lines := h["Http2-Settings"]
	if len(lines) != 1 || base64.RawURLEncoding.DecodedLen(len(lines[0])) > maxUpgradeSettings {
		return nil, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(lines[0], "="))
	if err != nil {
		return nil, false
	}
	return parseSettings(payload)
}

// parseSettings reads the payload of a SETTINGS frame.
func parseSettings(payload []byte) ([]http2.Setting, bool) {
	if len(payload)%6 != 0 {
		return nil, false
	}
	settings := make([]http2.Setting, 0, len(payload)/6)
	for ; len(payload) > 0; payload = payload[6:] {
		s := http2.Setting{
			ID:  http2.SettingID(uint16(payload[0])<<8 | uint16(payload[1])),
			Val: uint32(payload[2])<<24 | uint32(payload[3])<<16 | uint32(payload[4])<<8 | uint32(payload[5]),
		}
		if s.Valid() != nil {
			return nil, false
		}
		settings = append(settings, s)
	}
	return settings, true
}

// firstHeader writes the header of the request that asked for the upgrade as HTTP/2 has
// it, compressed. No field enters the table of the compression, of which the client knows nothing.
func firstHeader(r *http.Request) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	write := func(name, value string) {
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}) // to memory
	}
	target := r.RequestURI
	if r.URL.Scheme != "" {
		target = r.URL.RequestURI() // of the absolute form
	}
	write(":method", r.Method)
	write(":scheme", "http")
	write(":authority", r.Host)
	write(":path", target)
	for name, values := range r.Header {
		if isHopByHop(name) || httpguts.HeaderValuesContainsToken(r.Header["Connection"], name) {
			continue
		}
		for _, value := range values {
			write(strings.ToLower(name), value)
		}
	}
	return block.Bytes()
}

// isHopByHop says whether a field belongs to a connection of HTTP/1.1, whether or not
// the field Connection names it.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Upgrade", "Http2-Settings", "Keep-Alive", "Proxy-Connection", "Te", "Transfer-Encoding", "Trailer", "Host", "Content-Length":
		return true
	}
	return false
}

// upgradedConn is a connection that has become one of HTTP/2. The server reads from it
// what a client would have sent that knew from the start: the preface, the settings of the upgrade
// and of the client in one frame, and the first request as stream 1.
//
// So there is one HTTP/2 server with one set of limits and one drain, whichever way
// a client came to it.
type upgradedConn struct {
	net.Conn
	in       io.Reader
	request  []byte // compressed header; nil once the beginning was made
	settings []http2.Setting
	begin    bytes.Buffer
	broken   error // why there is no beginning
}

// Read reads what the client sends.
func (c *upgradedConn) Read(b []byte) (int, error) {
	if c.request != nil {
		if err := c.start(); err != nil {
			c.broken = fmt.Errorf("begin HTTP/2 after an upgrade: %w", err)
		}
		c.request, c.settings = nil, nil
	}
	if c.broken != nil {
		return 0, c.broken
	}
	if c.begin.Len() > 0 {
		return c.begin.Read(b)
	}
	return c.in.Read(b)
}

// CloseWrite tells the client that nothing more comes.
func (c *upgradedConn) CloseWrite() error { return closeWrite(c.Conn) }

// start reads the client's preface, and puts the beginning together.
func (c *upgradedConn) start() error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return errors.New("the client goes on with something else")
	}
	c.begin.Write(preface)
	in, out := http2.NewFramer(nil, c.in), http2.NewFramer(&c.begin, nil)
	in.SetMaxReadFrameSize(maxUpgradeSettings)
	frame, err := in.ReadFrame()
	if err != nil {
		return err
	}
	first, ok := frame.(*http2.SettingsFrame)
	if !ok || first.IsAck() {
		return fmt.Errorf("the first frame is %v, which is no SETTINGS", frame.Header())
	}
	// One frame, as the client counts one acknowledgement. What it says itself goes last, and
	// no setting is there twice.
	var settings []http2.Setting
	for _, s := range c.settings {
		if !first.HasDuplicates() {
			if _, again := first.Value(s.ID); again {
				continue
			}
		}
		settings = append(settings, s)
	}
	_ = first.ForeachSetting(func(s http2.Setting) error {
		settings = append(settings, s)
		return nil
	})
	if err := out.WriteSettings(settings...); err != nil {
		return err
	}
	const maxFragment = 16 << 10 // what each side of HTTP/2 takes without having said so
	fragment := c.request[:min(len(c.request), maxFragment)]
	rest := c.request[len(fragment):]
	err = out.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fragment, EndStream: true, EndHeaders: len(rest) == 0})
	for err == nil && len(rest) > 0 {
		fragment = rest[:min(len(rest), maxFragment)]
		rest = rest[len(fragment):]
		err = out.WriteContinuation(1, len(rest) == 0, fragment)
	}
	return err
}
