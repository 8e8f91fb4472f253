package proxy

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// reloadInterval is how often the files of certificates are looked at.
const reloadInterval = time.Second

// KeyPair names the files of a certificate, with the chain behind it, and of its key. Both are PEM.
type KeyPair struct {
	CertFile string
	KeyFile  string
}

// Certificates are what TLS listeners show who they are with. They come from files, and are read
// again when those change. It is safe for concurrent use.
type Certificates struct {
	pairs   []KeyPair
	logger  *slog.Logger
	current atomic.Pointer[certificateSet]

	mu     sync.Mutex // serializes Reload and look
	loaded []stamp    // of the files when they were last read
	seen   []stamp    // of the files when they were last looked at
}

// LoadCertificates reads the certificates. The error names every file that is of no use.
// Nil as logger means [slog.Default].
func LoadCertificates(pairs []KeyPair, logger *slog.Logger) (*Certificates, error) {
	if len(pairs) == 0 {
		return nil, errors.New("a TLS listener needs a certificate: name one in proxy.tls")
	}
	if logger == nil {
		logger = slog.Default()
	}
	c := &Certificates{pairs: pairs, logger: logger}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// TLSConfig returns the configuration of a listener: TLS 1.2 and newer, HTTP/2 and
// HTTP/1.1, and the certificate of the name that the client asks for.
func (c *Certificates) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load().find(hello), nil
		},
	}
}

// Run reads the certificates again whenever their files change, until ctx ends.
// Where the new files are of no use it logs why, and the certificates stay.
func (c *Certificates) Run(ctx context.Context) error {
	ticker := time.NewTicker(reloadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.look()
		}
	}
}

// look reads the files where they are no longer what they were, and have been left
// alone since the last look: a pair is two files, which are not written at one moment.
func (c *Certificates) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := stampAll(c.pairs)
	settled := sameStamps(now, c.seen)
	c.seen = now
	if !settled || sameStamps(now, c.loaded) {
		return
	}
	if err := c.reloadLocked(now); err != nil {
		c.logger.Error("certificates changed and cannot be used; the old ones stay", "err", err)
		return
	}
	c.logger.Info("certificates read again")
}

// Reload reads the certificates now. On an error those that were there stay.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reloadLocked(stampAll(c.pairs))
}

// reloadLocked notes the stamps whether or not the files are of use: what is wrong with them is
// told once.
func (c *Certificates) reloadLocked(now []stamp) error {
	c.loaded = now
	set := &certificateSet{byName: make(map[string][]*tls.Certificate)}
	var errs []error
	for _, pair := range c.pairs {
		certificate, err := pair.load()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if end := certificate.Leaf.NotAfter; time.Now().After(end) {
			c.logger.Warn("a certificate has expired", "file", pair.CertFile, "expired", end)
		}
		set.add(certificate)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	c.current.Store(set)
	return nil
}

// load reads a pair. The two files are one certificate's, or it is an error.
func (p KeyPair) load() (*tls.Certificate, error) {
	cert, err := readPEM(p.CertFile, "certificate")
	if err != nil {
		return nil, err
	}
	key, err := readPEM(p.KeyFile, "key")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("use %s with the key %s: %s; %s", p.CertFile, p.KeyFile,
			strings.TrimPrefix(err.Error(), "tls: "), pairHint(key, err))
	}
	return &pair, nil
}

func readPEM(file, what string) ([]byte, error) {
	text, err := os.ReadFile(file)
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		return nil, fmt.Errorf("read the %s %s: %w; check the path in proxy.tls and who may read it", what, file, path.Err)
	case err != nil:
		return nil, fmt.Errorf("read the %s %s: %w", what, file, err)
	}
	if block, _ := pem.Decode(text); block == nil {
		return nil, fmt.Errorf("read the %s %s: there is no PEM block in it; it must hold lines such as -----BEGIN %s-----", what, file, strings.ToUpper(what))
	}
	return text, nil
}

// pairHint says what to do about two files that are no pair.
func pairHint(key []byte, err error) string {
	block, _ := pem.Decode(key)
	switch {
	case block != nil && (strings.Contains(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != ""):
		return "the key has a passphrase, take it off with: openssl pkey -in KEY -out NEWKEY"
	case strings.Contains(err.Error(), "does not match"):
		return "name the key that the certificate was made with, and put the server's certificate first in its file"
	}
	return "the first file must hold the certificate and its chain, the second the private key"
}

// certificateSet is all certificates as they are at one time.
type certificateSet struct {
	all    []*tls.Certificate
	byName map[string][]*tls.Certificate // "shop.test" and "*.shop.test"; several for several kinds of keys
}

func (s *certificateSet) add(certificate *tls.Certificate) {
	s.all = append(s.all, certificate)
	for _, name := range certificate.Leaf.DNSNames {
		name = strings.ToLower(name)
		s.byName[name] = append(s.byName[name], certificate)
	}
}

// find returns the certificate for the name that the client asks for: that of the very
// name, else that of *.domain, else the first of all, of which the client will think what it must.
func (s *certificateSet) find(hello *tls.ClientHelloInfo) *tls.Certificate {
	name := strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
	_, domain, _ := strings.Cut(name, ".")
	for _, candidates := range [][]*tls.Certificate{s.byName[name], s.byName["*."+domain]} {
		for _, candidate := range candidates {
			if len(candidates) == 1 || hello.SupportsCertificate(candidate) == nil {
				return candidate
			}
		}
	}
	return s.all[0]
}

// stamp tells whether a file is still what it was.
type stamp struct {
	info fs.FileInfo
	err  string
}

func stampAll(pairs []KeyPair) []stamp {
	stamps := make([]stamp, 0, 2*len(pairs))
	for _, pair := range pairs {
		for _, file := range []string{pair.CertFile, pair.KeyFile} {
			info, err := os.Stat(file)
			s := stamp{info: info}
			if err != nil {
				s.err = err.Error()
			}
			stamps = append(stamps, s)
		}
	}
	return stamps
}

func sameStamps(a, b []stamp) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		switch x, y := a[i].info, b[i].info; {
		case a[i].err != b[i].err, (x == nil) != (y == nil):
			return false
		case x != nil && (!os.SameFile(x, y) || x.Size() != y.Size() || !x.ModTime().Equal(y.ModTime())):
			return false
		}
	}
	return true
}
