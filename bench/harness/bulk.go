package harness

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Transfer is one big body, sent or fetched by a process of its own.
type Transfer struct {
	Address string `json:"address"` // of the proxy
	Routes  Routes `json:"routes"`
	Upload  bool   `json:"upload"`
	Chunked bool   `json:"chunked"` // without a Content-Length; over HTTP/2 as well
	Bytes   int64  `json:"bytes"`
}

// Transferred is what arrived, as the receiving end counted it.
type Transferred struct {
	Bytes int64         `json:"bytes"`
	Sum   string        `json:"sum"` // SHA-256, hex
	Took  time.Duration `json:"took_ns"`
}

// Run makes the transfer, and fails where not every byte arrived as it was sent.
func (t Transfer) Run(ctx context.Context) (Transferred, error) {
	var got Transferred
	p, err := startRole("transfer", LoadCPU, t)
	if err != nil {
		return got, err
	}
	defer p.Stop()
	if err := p.answer(ctx, &got); err != nil {
		return got, fmt.Errorf("transfer: %w", err)
	}
	want := newSummed()
	if _, err := io.Copy(want, pattern(t.Bytes)); err != nil {
		return got, err
	}
	if got.Bytes != t.Bytes || got.Sum != want.sum() {
		return got, fmt.Errorf("%d bytes arrived with the checksum %s; %d were sent with %s", got.Bytes, got.Sum, t.Bytes, want.sum())
	}
	return got, nil
}

// transfer is the role.
func transfer(in io.Reader, out io.Writer) error {
	var t Transfer
	if err := readOrder(in, &t); err != nil {
		return err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(t.Routes.spoken() == route.HTTP1)
	protocols.SetUnencryptedHTTP2(t.Routes.spoken() == route.H2C)
	client := http.Client{Transport: &http.Transport{Protocols: &protocols, DisableCompression: true}}
	url := fmt.Sprintf("http://%s/download?bytes=%d&chunked=%t", t.Address, t.Bytes, t.Chunked)
	method, body := http.MethodGet, io.Reader(nil)
	if t.Upload {
		method, url, body = http.MethodPost, "http://"+t.Address+"/upload", pattern(t.Bytes)
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	if t.Upload && !t.Chunked {
		req.ContentLength = t.Bytes
	}
	req.Host = t.Routes.Host(0)
	req.Header.Set("Baggage", Baggage(t.Routes.Version(1)))
	began := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, url, res.Status)
	}
	var got Transferred
	if t.Upload {
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
			return err
		}
	} else {
		if t.Chunked != (res.ContentLength < 0) {
			return fmt.Errorf("the answer's length is %d, chunked is %t", res.ContentLength, t.Chunked)
		}
		counted := newSummed()
		if _, err := io.Copy(counted, res.Body); err != nil {
			return err
		}
		got = counted.transferred()
	}
	got.Took = time.Since(began)
	return json.NewEncoder(out).Encode(got)
}

// serveBulk takes and makes big bodies, and answers anything else as the other backends do.
func serveBulk(listeners []net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		counted := newSummed()
		if _, err := io.Copy(counted, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(counted.transferred()) // the client may be gone
	})
	mux.HandleFunc("GET /download", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if r.FormValue("chunked") != "true" {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		_, _ = io.Copy(w, pattern(n)) // the client counts
	})
	mux.HandleFunc("/", sayWho)
	serveNetHTTP(listeners, mux.ServeHTTP)
	return nil
}

// summed counts and sums up what is written to it.
type summed struct {
	n    int64
	hash hash.Hash
}

func newSummed() *summed { return &summed{hash: sha256.New()} }

// Write counts.
func (s *summed) Write(b []byte) (int, error) {
	s.n += int64(len(b))
	return s.hash.Write(b)
}

func (s *summed) sum() string { return hex.EncodeToString(s.hash.Sum(nil)) }

func (s *summed) transferred() Transferred { return Transferred{Bytes: s.n, Sum: s.sum()} }

// pattern makes so many bytes: a random block again and again, with its number in
// front, so that one which is lost, doubled or out of order shows.
func pattern(n int64) io.Reader {
	p := &blocks{at: len(blocks{}.block)}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // no secret
	for i := range p.block {
		p.block[i] = byte(random.IntN(256)) //nolint:gosec // it fits
	}
	return io.LimitReader(p, n)
}

type blocks struct {
	block [64 << 10]byte
	n     uint64
	at    int
}

// Read goes on with the block.
func (p *blocks) Read(b []byte) (int, error) {
	if p.at == len(p.block) {
		binary.LittleEndian.PutUint64(p.block[:], p.n)
		p.n, p.at = p.n+1, 0
	}
	n := copy(b, p.block[p.at:])
	p.at += n
	return n, nil
}
