package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The conformance suite holds what a client and an instance see of HTTP/1.1 on the wire:
// both ends are bare connections. It runs on each way that a request may take through the
// proxy. Messages are in conformance_message_test.go, streams in conformance_stream_test.go,
// and what is refused in conformance_refuse_test.go.

// paths are the ways a request may take through the proxy.
func paths() []string { return []string{"fast", "net/http"} }

// fastPathIsThere says whether the two differ. Until then both are net/http's.
const fastPathIsThere = true

// newPathWorld is newWorld on one of the paths.
func newPathWorld(t *testing.T, path string, options Options, address string) *world {
	t.Helper()
	options.NoFastPath = path == "net/http"
	return newWorld(t, options, service("cart", ready("main", address)))
}

// strict says whether a path reads and writes every byte itself.
func strict(path string) bool { return path == "fast" && fastPathIsThere }

// notYetOnNetHTTP names the cases of the suite that net/http's server and transport do not
// meet. They are left out on that path.
func notYetOnNetHTTP() map[string]bool {
	return map[string]bool{
		// Its server reads these.
		"length and coding":        true, // the coding counts, and the connection is closed
		"coding and length":        true,
		"two equal lengths":        true,
		"coding in HTTP/1.0":       true, // it counts there too
		"folded line":              true,
		"folded by a tab":          true,
		"folded length":            true,
		"LF alone at the end":      true,
		"LF alone everywhere":      true,
		"LF alone behind the line": true,
		"LF alone ends the head":   true,
		"version 1.2":              true,
		"host and target differ":   true, // the target counts
		"too many fields":          true,
		"target too long":          true,

		// To it this is a client that left.
		"half-close behind a GET":  true,
		"half-close behind a POST": true,

		"/%": true, // a path that cannot be unescaped

		// It reads these chunks and trailers.
		"chunk size with a space":      true,
		"chunk size of 64 bits":        true, // it waits for that much
		"chunk extension with NUL":     true,
		"body ends in LF":              true,
		"trailer that is folded":       true,
		"trailer that ends in LF":      true,
		"trailer with a space in name": true,
	}
}

// eachPath runs a test on each path.
func eachPath(t *testing.T, test func(t *testing.T, path string)) {
	t.Helper()
	for _, path := range paths() {
		t.Run(path, func(t *testing.T) { test(t, path) })
	}
}

// eachCase runs the cases of a table on each path, without those that are not yet met.
func eachCase[C any](t *testing.T, cases map[string]C, test func(t *testing.T, path, name string, c C)) {
	t.Helper()
	notYet := notYetOnNetHTTP()
	eachPath(t, func(t *testing.T, path string) {
		for name, c := range cases {
			if notYet[name] && !strict(path) {
				continue
			}
			t.Run(name, func(t *testing.T) { test(t, path, name, c) })
		}
	})
}

// origin is an instance at the far end of bare connections.
type origin struct {
	addr  string
	conns atomic.Int64 // that were made

	mu   sync.Mutex
	got  bytes.Buffer // every byte that came, on all connections
	open []net.Conn
}

// newOrigin starts an instance that runs script for each connection, one after another's
// beginning. It closes the connection when script returns.
func newOrigin(t *testing.T, script func(c *far)) *origin {
	t.Helper()
	l := listen(t)
	o := &origin{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.open = append(o.open, conn)
			o.mu.Unlock()
			number := o.conns.Add(1)
			all.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(patience))
				script(&far{Conn: conn, in: bufio.NewReader(io.TeeReader(conn, o)), number: int(number)})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		o.mu.Lock()
		for _, conn := range o.open {
			_ = conn.Close()
		}
		o.mu.Unlock()
		all.Wait()
	})
	return o
}

// Write keeps what came.
func (o *origin) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.got.Write(p)
}

// bytes returns what came so far.
func (o *origin) bytes() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.got.String()
}

// far is an instance's end of a connection.
type far struct {
	net.Conn
	in     *bufio.Reader
	number int // of the connection, from 1
}

// head reads the head of a message; nil where the connection ends.
func (c *far) head() []string { return readHead(c.in) }

// say writes as it is.
func (c *far) say(text string) { _, _ = io.WriteString(c, text) }

// closeWrite ends what c says.
func (c *far) closeWrite() { _ = c.Conn.(*net.TCPConn).CloseWrite() }

// bodyOf reads the body behind a head, and the trailers behind that.
func (c *far) bodyOf(head []string) (body string, trailers []string) {
	if length := field(head, "Content-Length"); length != nil {
		n, _ := strconv.Atoi(length[0])
		read := make([]byte, n)
		n, _ = io.ReadFull(c.in, read)
		return string(read[:n]), nil
	}
	if field(head, "Transfer-Encoding") == nil {
		return "", nil
	}
	return readChunked(c.in)
}

// readHead reads lines up to an empty one; nil where the connection ends before.
func readHead(in *bufio.Reader) []string {
	var lines []string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			return lines
		}
		lines = append(lines, line)
	}
}

// readChunked reads a chunked body and its trailers. Where it is cut off, the body
// ends in "(cut off)".
func readChunked(in *bufio.Reader) (body string, trailers []string) {
	const cut = "(cut off)"
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return body + cut, nil
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil {
			return body + cut, nil
		}
		if n == 0 {
			if trailers = readHead(in); trailers == nil {
				return body, nil
			}
			return body, trailers
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(in, chunk); err != nil {
			return body + cut, nil
		}
		body += string(chunk[:n])
	}
}

// field returns the values of the fields of a name in a head, nil where there is none.
func field(head []string, name string) []string {
	var values []string
	for _, line := range head[min(1, len(head)):] {
		if key, value, _ := strings.Cut(line, ":"); strings.EqualFold(key, name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// names returns the names of the fields of a head as they are written, in order.
func names(head []string) []string {
	var all []string
	for _, line := range head[1:] {
		name, _, _ := strings.Cut(line, ":")
		all = append(all, name)
	}
	return all
}

// answering is an instance that answers each request with text.
func answering(text string) func(*far) {
	return func(c *far) {
		for head := c.head(); head != nil; head = c.head() {
			c.bodyOf(head)
			c.say(text)
		}
	}
}

// handing is an instance that hands out each head that it gets, and answers with text.
func handing(text string) (script func(*far), heads <-chan []string) {
	got := make(chan []string, 64)
	return func(c *far) {
		for head := c.head(); head != nil; head = c.head() {
			c.bodyOf(head)
			got <- head
			c.say(text)
		}
	}, got
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// head reads the head of an answer.
func (c *wire) head(t *testing.T) []string {
	t.Helper()
	head := readHead(c.in)
	require.NotNil(t, head, "the connection was closed")
	return head
}

// raw writes as it is.
func (c *wire) raw(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
}

// exactly reads so many bytes.
func (c *wire) exactly(t *testing.T, n int) string {
	t.Helper()
	read := make([]byte, n)
	_, err := io.ReadFull(c.in, read)
	require.NoError(t, err)
	return string(read)
}

// ended holds that the proxy closed the connection, and sent nothing more.
func (c *wire) ended(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(c.in)
	if err != nil {
		require.ErrorContains(t, err, "reset") // as it did not read all that was sent
	}
	require.Empty(t, string(rest))
}

// closeWrite ends what the client says.
func (c *wire) closeWrite(t *testing.T) {
	t.Helper()
	require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
}

// get is a request for a path with the fields given.
func get(path string, fields ...string) string {
	return strings.Join(append([]string{"GET " + path + " HTTP/1.1", "Host: cart.localhost"}, fields...), "\r\n") + "\r\n\r\n"
}

// post is the head of a request with a body.
func post(fields ...string) string {
	return strings.Join(append([]string{"POST / HTTP/1.1", "Host: cart.localhost"}, fields...), "\r\n") + "\r\n\r\n"
}

// served holds that an answer and the n-th record say that cart@main answered, and returns
// the record.
func (w *world) served(t *testing.T, head []string, n int) Record {
	t.Helper()
	require.Equal(t, []string{"cart@main; by=default"}, field(head, ServedByHeader))
	require.Empty(t, field(head, ErrorHeader))
	r := w.records.wait(t, n)[n-1]
	require.Equal(t, "cart", r.Service)
	require.Equal(t, "main", r.Version)
	require.Equal(t, "cart.localhost", r.Host)
	require.Empty(t, r.Error)
	require.Equal(t, fmt.Sprint(r.Status), strings.Fields(head[0])[1])
	return r
}

// failed holds that the n-th record has an error.
func (w *world) failed(t *testing.T, code Code, n int) {
	t.Helper()
	require.Equal(t, string(code), w.records.wait(t, n)[n-1].Error)
}

// problemOf reads the problem behind a head.
func (c *wire) problemOf(t *testing.T, head []string) {
	t.Helper()
	require.Equal(t, []string{"application/problem+json"}, field(head, "Content-Type"))
	require.NotEmpty(t, field(head, ErrorHeader))
	n, err := strconv.Atoi(field(head, "Content-Length")[0])
	require.NoError(t, err)
	require.Contains(t, c.exactly(t, n), `"code":"`+field(head, ErrorHeader)[0]+`"`)
}
