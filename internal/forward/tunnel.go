package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// connect answers CONNECT: it serves the hosts of the environment itself, and makes a blind tunnel to all others.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	target := r.Host
	if _, _, err := net.SplitHostPort(target); err != nil {
		http.Error(w, "CONNECT needs a host and a port", http.StatusBadRequest)
		return
	}
	var out net.Conn
	if !p.opts.Ours(target) {
		var err error
		if out, err = p.dialOutside(r.Context(), target); err != nil {
			http.Error(w, fmt.Sprintf("layover exec cannot reach %s: %v", target, err), http.StatusBadGateway)
			return
		}
	}
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "CONNECT is for HTTP/1.1", http.StatusBadRequest)
		if out != nil {
			_ = out.Close()
		}
		return
	}
	_ = in.SetDeadline(time.Time{})
	if _, err := io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = in.Close()
		if out != nil {
			_ = out.Close()
		}
		return
	}
	conn := &readAhead{Conn: in, reader: buffered.Reader}
	if out != nil {
		join(conn, p.conns.keep(out, nil))
		return
	}
	p.terminate(conn, target)
}

// terminate hands a tunnel to a host of the environment over to the inner server: as TLS where the program speaks that.
func (p *Proxy) terminate(conn *readAhead, target string) {
	_ = conn.SetReadDeadline(time.Now().Add(sniffTime))
	first, err := conn.reader.Peek(1)
	_ = conn.SetReadDeadline(time.Time{})
	if err != nil {
		_ = conn.Close()
		return
	}
	const handshake = 0x16 // a TLS record (RFC 8446, section 5.1)
	if first[0] != handshake {
		p.tunnels.add(conn)
		return
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		name := hello.ServerName
		if name == "" {
			name = withoutPort(target)
		}
		return p.ca.certificate(name)
	}
	p.tunnels.add(tls.Server(conn, config))
}

// dial connects to a host that is none of ours, or to a proxy for such. It never connects the proxy with itself: what was asked of
// it would go round and round.
func (p *Proxy) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err == nil && conn.RemoteAddr().String() == p.Address() {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is the forward proxy of layover exec itself", address)
	}
	return conn, err
}

// dialOutside connects to a host that is none of ours, through the proxy of the program's surroundings where there is one.
func (p *Proxy) dialOutside(ctx context.Context, target string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var upstream *url.URL
	if p.opts.Upstream != nil {
		var err error
		if upstream, err = p.opts.Upstream(&http.Request{URL: &url.URL{Scheme: "https", Host: target}}); err != nil {
			return nil, err
		}
	}
	if upstream == nil {
		return p.dial(ctx, "tcp", target)
	}
	address := upstream.Host
	if upstream.Port() == "" {
		address = net.JoinHostPort(upstream.Hostname(), "80")
	}
	conn, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if u := upstream.User; u != nil {
		password, _ := u.Password()
		plain := http.Request{Header: http.Header{}}
		plain.SetBasicAuth(u.Username(), password)
		req.Header.Set("Proxy-Authorization", plain.Header.Get("Authorization"))
	}
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	reader := bufio.NewReader(conn)
	if err = req.Write(conn); err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(reader, req); err == nil && res.StatusCode != http.StatusOK { //nolint:bodyclose // it ends with the connection
			err = fmt.Errorf("the proxy at %s answered CONNECT with %s", address, res.Status)
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return &readAhead{Conn: conn, reader: reader}, nil
}

// join copies both ways until both sides have ended.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			_ = to.Close()
		}
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
	_ = a.Close()
	_ = b.Close()
}

// readAhead is a connection of which something was read already.
type readAhead struct {
	net.Conn
	reader *bufio.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.reader.Read(p) }

func (c *readAhead) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// tunnels is a listener for the connections that come out of CONNECT.
type tunnels struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newTunnels(addr net.Addr) *tunnels {
	return &tunnels{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (t *tunnels) add(conn net.Conn) {
	select {
	case t.conns <- conn:
	case <-t.closed:
		_ = conn.Close()
	}
}

func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case conn := <-t.conns:
		return conn, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

func (t *tunnels) Addr() net.Addr { return t.addr }
