package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// makePair writes a self-signed certificate for names, and returns its files.
func makePair(t testing.TB, dir, name string, names ...string) KeyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     names,
		NotBefore:    time.Unix(0, 0), // a test's bubble has a time of its own
		NotAfter:     time.Now().AddDate(50, 0, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	pair := KeyPair{CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key")}
	writePEM(t, pair.CertFile, "CERTIFICATE", cert)
	writePEM(t, pair.KeyFile, "PRIVATE KEY", private)
	return pair
}

func writePEM(t testing.TB, file, kind string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
}

// tlsWorld is a world with one more listener, with TLS.
func tlsWorld(t *testing.T, options Options, certificates *Certificates, versions ...string) (w *world, addr string) {
	t.Helper()
	w = &world{records: &records{}}
	options.Recorder, options.Logger = w.records.add, slog.New(slog.DiscardHandler)
	w.Proxy = New(options)
	cart := service("cart")
	for _, version := range versions {
		cart.Versions = append(cart.Versions, ready(version, says(t, version)))
	}
	w.set(t, cart)
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, Listener{Listener: l, TLS: certificates.TLSConfig()}) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w, l.Addr().String()
}

// commonName shakes hands with addr as a client that asks for name.
func commonName(t *testing.T, addr, name string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestTLS_ProtocolsAndScheme(t *testing.T) {
	certificates, err := LoadCertificates([]KeyPair{makePair(t, t.TempDir(), "shop", "*.localhost")}, nil)
	require.NoError(t, err)
	protos := make(chan string, 1)
	w, addr := tlsWorld(t, Options{}, certificates)
	w.set(t, service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
		protos <- r.Header.Get("X-Forwarded-Proto")
		_, _ = io.WriteString(w, "main")
	}))))
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/", nil)
			require.NoError(t, err)
			req.Host = "cart.localhost"
			res, err := transport.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, "main", read(t, res).text)
			require.Equal(t, name, res.Proto)
			require.Equal(t, "https", <-protos)
		})
	}
	_, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	require.Error(t, err)
	conn := dial(t, addr)
	conn.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, http.StatusBadRequest, conn.answer(t, http.MethodGet).StatusCode, "HTTP without TLS")
}

func TestTLS_BehindALoadBalancer(t *testing.T) {
	certificates, err := LoadCertificates([]KeyPair{makePair(t, t.TempDir(), "shop", "cart.localhost")}, nil)
	require.NoError(t, err)
	w, addr := tlsWorld(t, Options{ProxyProtocolFrom: prefixes("127.0.0.1/32")}, certificates, "main")
	conn := dial(t, addr)
	_, err = io.WriteString(conn, proxyHeader(t, 2, "198.51.100.7:4711"))
	require.NoError(t, err)
	client := tls.Client(conn, &tls.Config{ServerName: "cart.localhost", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	_, err = io.WriteString(client, "GET / HTTP/1.1\r\nHost: cart.localhost\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Contains(t, string(got), "200 OK")
	require.Equal(t, "198.51.100.7:4711", w.records.wait(t, 1)[0].Peer.String())
}

func TestCertificates_ByName(t *testing.T) {
	dir := t.TempDir()
	certificates, err := LoadCertificates([]KeyPair{
		makePair(t, dir, "first", "first.test"),
		makePair(t, dir, "wild", "*.shop.test", "SHOP.test"),
		makePair(t, dir, "cart", "cart.shop.test"),
	}, nil)
	require.NoError(t, err)
	_, addr := tlsWorld(t, Options{}, certificates, "main")
	for name, want := range map[string]string{
		"first.test":          "first",
		"cart.shop.test":      "cart", // the exact name goes first
		"pricing.shop.test":   "wild",
		"PRICING.shop.test":   "wild",
		"shop.test":           "wild",
		"a.pricing.shop.test": "first", // * is one label
		"nowhere.test":        "first",
		"":                    "first",
	} {
		require.Equal(t, want, commonName(t, addr, name), name)
	}
}

func TestCertificates_Reload(t *testing.T) {
	dir := t.TempDir()
	pair := makePair(t, dir, "shop", "cart.localhost")
	var log lockedBuffer
	certificates, err := LoadCertificates([]KeyPair{pair}, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	serial := func() string { return certificates.current.Load().all[0].Leaf.SerialNumber.String() }
	first := serial()

	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- certificates.Run(ctx) }()
		wait := func() { time.Sleep(4 * reloadInterval); synctest.Wait() } // the bubble's time
		wait()
		require.Empty(t, log.String(), "nothing has changed")

		// The key of another certificate: a pair of which one half is written.
		other := makePair(t, t.TempDir(), "shop", "cart.localhost")
		require.NoError(t, os.Rename(other.KeyFile, pair.KeyFile))
		wait()
		require.Equal(t, first, serial())
		require.Equal(t, 1, strings.Count(log.String(), "the old ones stay"), "told once: %s", log.String())
		require.Contains(t, log.String(), "does not match")

		require.NoError(t, os.Rename(other.CertFile, pair.CertFile))
		wait()
		second := serial()
		require.NotEqual(t, first, second)

		require.NoError(t, os.Remove(pair.CertFile))
		wait()
		require.Equal(t, second, serial())
		require.Contains(t, log.String(), "no such file")

		makePair(t, dir, "shop", "cart.localhost")
		require.NoError(t, certificates.Reload(), "at once, when asked")
		require.NotEqual(t, second, serial())

		cancel()
		require.NoError(t, <-done)
	})
}

func TestCertificates_NoUse(t *testing.T) {
	dir := t.TempDir()
	good, other := makePair(t, dir, "good", "a.test"), makePair(t, dir, "other", "b.test")
	text, locked := filepath.Join(dir, "text"), filepath.Join(dir, "locked.key")
	require.NoError(t, os.WriteFile(text, []byte("hello\n"), 0o600))
	writePEM(t, locked, "ENCRYPTED PRIVATE KEY", []byte("x"))
	for name, c := range map[string]struct {
		pair KeyPair
		want []string
	}{
		"no file":       {KeyPair{filepath.Join(dir, "none"), good.KeyFile}, []string{"none", "no such file", "proxy.tls"}},
		"no PEM":        {KeyPair{text, good.KeyFile}, []string{text, "no PEM block", "BEGIN CERTIFICATE"}},
		"another's key": {KeyPair{good.CertFile, other.KeyFile}, []string{good.CertFile, other.KeyFile, "does not match", "made with"}},
		"passphrase":    {KeyPair{good.CertFile, locked}, []string{locked, "passphrase", "openssl"}},
		"swapped":       {KeyPair{good.KeyFile, good.CertFile}, []string{"the first file must hold the certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := LoadCertificates([]KeyPair{good, c.pair}, nil)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
	_, err := LoadCertificates(nil, nil)
	require.ErrorContains(t, err, "proxy.tls")
}

// lockedBuffer is a buffer that a log may be written to while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all that was written.
func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
