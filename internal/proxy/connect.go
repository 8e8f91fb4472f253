package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 says so; nothing rests on it
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"

	"github.com/layover-dev/layover/internal/proxy/xconnect"
	"github.com/layover-dev/layover/internal/route"
)

// WebSocket over HTTP/2 (RFC 8441): the client opens a stream with the method CONNECT
// and the pseudo-header field :protocol, and the stream is the connection. An instance that
// speaks HTTP/1.1 gets an Upgrade instead, one that speaks HTTP/2 gets the same CONNECT.
//
// One thing HTTP/2 cannot pass on: an instance that ends its side of the connection ends the
// stream, as net/http has no way to end one half of an answer's stream and read on. No WebSocket
// says anything behind its last frame.

// protocolField is where net/http puts the pseudo-header field.
const protocolField = ":protocol"

// websocketProtocol is the only :protocol that is passed on.
const websocketProtocol = "websocket"

// environmentRestored takes back the switch that net/http has read by now.
var _ = xconnect.Restore()

// tunnelProtocol returns the :protocol of an extended CONNECT, "" for other requests.
func tunnelProtocol(r *http.Request) string {
	if r.Method != http.MethodConnect || len(r.Header[protocolField]) == 0 {
		return ""
	}
	return r.Header[protocolField][0]
}

// connect answers an extended CONNECT, for which an instance has been acquired.
func (x *relay) connect() {
	// The instance's end of the tunnel must not outlive the request.
	ctx, cancel := context.WithCancel(x.in.Context())
	defer cancel()
	body := &requestBody{ReadCloser: x.in.Body, in: x.in, out: x.in}
	out := x.in.Clone(ctx)
	out.Body, out.ContentLength, out.RequestURI, out.Trailer = nil, 0, "", nil
	delete(out.Header, protocolField)
	x.rewrite(&httputil.ProxyRequest{In: x.in, Out: out})
	x.body = body
	open := x.openByUpgrade
	if x.decision.Service.Protocol == route.H2C {
		open = x.openByConnect
	}
	res, err := open(out)
	if err != nil {
		x.fail(nil, nil, err)
		return
	}
	x.answered(res.StatusCode)
	closeAnswer := context.AfterFunc(ctx, func() { _ = res.Body.Close() })
	defer func() {
		closeAnswer()
		_ = x.in.Body.Close() // or HTTP/2's transport waits below for the end of what it reads from it
		_ = res.Body.Close()
	}()
	if problem := x.checkTunnel(res); problem != nil {
		x.answer(problem)
		return
	}
	x.passHeader(res)
	if res.StatusCode != http.StatusOK {
		x.w.WriteHeader(res.StatusCode) // the instance refused, and says why
		_, _ = io.Copy(&x.w, res.Body)
		return
	}
	x.w.WriteHeader(http.StatusOK)
	x.limit.lift() // the two may pause for as long as they like
	x.relayTunnel(res.Body)
}

// passHeader hands on the fields of the instance's answer, but for those of its connection.
func (x *relay) passHeader(res *http.Response) {
	h := x.w.Header()
	for name, values := range res.Header {
		if !isHopByHop(name) && !httpguts.HeaderValuesContainsToken(res.Header["Connection"], name) && name != "Sec-Websocket-Accept" {
			h[name] = values
		}
	}
	h[ServedByHeader] = []string{x.decision.ServedBy()}
}

// checkTunnel returns why an answer neither opens a tunnel nor can be passed on as a
// refusal, or nil. An answer that opens it gets the status that the client has to see.
func (x *relay) checkTunnel(res *http.Response) *problem {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols, res.ProtoMajor == 2 && res.StatusCode == http.StatusOK:
		res.StatusCode = http.StatusOK
		return nil
	case res.StatusCode >= 300:
		return nil
	}
	err := fmt.Errorf("the answer to a WebSocket's request is %s", res.Status)
	return badAnswer(x.decision.Version.ID, x.instance, x.decision.Service.Protocol, err)
}

// relayTunnel passes on what client and instance send each other, each part at once, until both are
// done, or the instance, or one of them fails.
func (x *relay) relayTunnel(instance io.ReadCloser) {
	done := make(chan struct{})
	if up, ok := instance.(io.Writer); ok { // or the transport reads the client's body itself
		go func() {
			defer close(done)
			x.proxy.copyTunnel(up, x.body)
			if x.body.ended.Load() {
				_ = closeWrite(instance)
			} else {
				_ = instance.Close() // the client broke off
			}
		}()
	} else {
		close(done)
	}
	control := http.NewResponseController(&x.w)
	if control.Flush() == nil { // the header
		x.proxy.copyTunnel(flushingWriter{&x.w, control}, instance)
	}
	_ = x.in.Body.Close()
	<-done
	if x.in.Context().Err() != nil || x.w.failed {
		x.record.Error = string(x.left())
	}
}

// copyTunnel copies until from ends or one of the two fails.
func (p *Proxy) copyTunnel(to io.Writer, from io.Reader) {
	buf := p.buffers.Get()
	defer p.buffers.Put(buf)
	// The structs hide other ways to copy, which would not use the buffer.
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buf)
}

// flushingWriter hands on each part at once.
type flushingWriter struct {
	io.Writer
	control *http.ResponseController
}

// Write writes and flushes.
func (w flushingWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err == nil {
		err = w.control.Flush()
	}
	return n, err
}

// openByUpgrade opens the tunnel to an instance that speaks HTTP/1.1.
func (x *relay) openByUpgrade(out *http.Request) (*http.Response, error) {
	key := newWebSocketKey()
	out.Method = http.MethodGet
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{websocketProtocol}
	out.Header["Sec-Websocket-Key"] = []string{key}
	if len(out.Header["Sec-Websocket-Version"]) == 0 {
		out.Header["Sec-Websocket-Version"] = []string{"13"}
	}
	res, err := x.RoundTrip(out)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return res, err
	}
	if !strings.EqualFold(res.Header.Get("Upgrade"), websocketProtocol) || res.Header.Get("Sec-Websocket-Accept") != webSocketAccept(key) {
		_ = res.Body.Close()
		return nil, errors.New("it switched protocols, and not to the WebSocket that was asked for (Upgrade or Sec-WebSocket-Accept are wrong)")
	}
	return res, nil
}

// openByConnect opens the tunnel to an instance that speaks HTTP/2. Each tunnel has a
// connection of its own, as with HTTP/1.1: [net/http.Transport] refuses the field :protocol.
func (x *relay) openByConnect(out *http.Request) (*http.Response, error) {
	out.Method = http.MethodConnect
	out.Header[protocolField] = []string{websocketProtocol}
	out.Body, out.ContentLength = x.body, -1
	conn, err := x.dialTunnel(out.Context())
	for err != nil && isDialError(err) && out.Context().Err() == nil && x.moveOn() {
		x.aim(out)
		conn, err = x.dialTunnel(out.Context())
	}
	if err != nil {
		return nil, err
	}
	transport := &http2.Transport{DisableCompression: true, ReadIdleTimeout: pingAfter, PingTimeout: pingTimeout} //nolint:staticcheck // the one in net/http refuses :protocol
	client, err := transport.NewClientConn(conn)                                                                  //nolint:staticcheck // likewise
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	ctx := out.Context()
	if timeout := x.proxy.options.AnswerTimeout; timeout > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
	}
	res, err := client.RoundTrip(out)
	if err != nil {
		_ = conn.Close()
		if strings.Contains(err.Error(), "extended connect not supported") { // there is no value for it
			err = errors.New("it does not offer WebSocket over HTTP/2 (RFC 8441)")
		}
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Time{})
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return res, nil
}

// dialTunnel connects to the instance for one tunnel.
func (x *relay) dialTunnel(ctx context.Context) (net.Conn, error) {
	conn, err := x.proxy.transports.dialer.DialContext(ctx, "tcp", x.instance.Address)
	if err != nil || !x.instance.TLS {
		return conn, err
	}
	encrypted := tls.Client(conn, &tls.Config{ServerName: x.instance.ServerName, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}})
	ctx, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
	defer cancel()
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return encrypted, nil
}

// newWebSocketKey returns what Sec-WebSocket-Key is to hold: 16 random bytes.
func newWebSocketKey() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	return base64.StdEncoding.EncodeToString(random[:])
}

// webSocketAccept returns what Sec-WebSocket-Accept has to hold for a key (RFC 6455 section 4.2.2).
func webSocketAccept(key string) string {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	sum := sha1.Sum([]byte(key + guid)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}
