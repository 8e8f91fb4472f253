package harness

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Layover is ours: `layover proxy`, which follows the table of a server.
type Layover struct {
	// Env is added to the environment of the proxy, as NAME=value.
	Env []string
}

// Name is "layover".
func (Layover) Name() string { return "layover" }

// Install builds it from this module.
func (Layover) Install(ctx context.Context) error {
	binary, err := layoverBinary()
	if err != nil {
		return err
	}
	folder, err := moduleDir(ctx, "")
	if err != nil {
		return err
	}
	return buildPeer(ctx, folder, binary, []string{"./cmd/layover"}, "CGO_ENABLED=0")
}

// layoverBinary is where the program is built, by each process that measures it anew.
func layoverBinary() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("layover-bench-%d", os.Getuid()))
	return filepath.Join(dir, "layover"), os.MkdirAll(dir, 0o700)
}

// layoverCommand is the proxy with every feature on that costs a request something: each has
// its record, which goes to the access log, of which a tenth is written.
func layoverCommand(binary, listen, server, dir string) *exec.Cmd {
	cmd := exec.Command(binary, "proxy", "--server", server, "--listen", listen, "--admin", "off", "--id", "bench",
		"--table-cache", filepath.Join(dir, "table"))
	cmd.Env = append(os.Environ(), "LAYOVER_PROXY_ACCESS_LOG_FILE="+filepath.Join(dir, "access.log"), "LAYOVER_PROXY_ACCESS_LOG_SAMPLE=0.1")
	return cmd
}

// Start runs the program beside a server that has nothing but a table; see [feed].
func (l Layover) Start(_ context.Context, s Setup) (*Running, error) {
	binary, err := layoverBinary()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	server, err := startFeed(s.Routes.Spec(s.Backend))
	if err != nil {
		return nil, err
	}
	cmd := layoverCommand(binary, address, server.url, s.Dir)
	cmd.Env = append(cmd.Env, l.Env...)
	p, err := start(cmd, ProxyCPU)
	if err != nil {
		server.stop()
		return nil, err
	}
	return &Running{Process: p, Address: address, Quick: true, beside: server.stop, Route: func(_ context.Context, a Added) error {
		version := ready(a.Name, "added-"+a.Name+"-"+strconv.Itoa(a.Backend), s.Backend.Address(s.Routes.Protocol, a.Backend))
		return server.change(route.VersionChange{Service: "service-" + strconv.Itoa(a.Service), Name: a.Name, Version: &version})
	}}, nil
}

// feed is what a proxy needs of a server: it speaks the API's watch stream of the
// table, and lets its reports pass. It spends nothing on what else a server does.
type feed struct {
	url    string
	server *http.Server

	mu       sync.Mutex
	epoch    string
	first    []byte // the whole table, as JSON
	from     uint64 // its revision
	changes  [][]byte
	revision uint64
	news     chan struct{} // closed when there is a change
}

func startFeed(spec route.Spec) (*feed, error) {
	spec.Epoch = rand.Text()
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &feed{
		url: "http://" + l.Addr().String(), epoch: spec.Epoch, first: text, from: spec.Revision, revision: spec.Revision, news: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/environment", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"name":%q}`, spec.Environment) // the proxy may be gone, here and below
	})
	mux.HandleFunc("POST /api/v1/proxies/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /api/v1/table/watch", f.watch)
	f.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = f.server.Serve(l) }() // until stop
	return f, nil
}

func (f *feed) stop() { _ = f.server.Close() }

// change makes the next revision.
func (f *feed) change(version route.VersionChange) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := json.Marshal(route.Change{Epoch: f.epoch, Base: f.revision, Revision: f.revision + 1, Versions: []route.VersionChange{version}})
	if err != nil {
		return err
	}
	f.revision++
	f.changes = append(f.changes, fmt.Appendf(nil, "event: change\nid: %s.%d\ndata: %s\n\n", f.epoch, f.revision, text))
	close(f.news)
	f.news = make(chan struct{})
	return nil
}

// after returns the changes behind a revision, the newest revision, and what tells of later ones.
func (f *feed) after(revision uint64) ([][]byte, uint64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes[revision-f.from:], f.revision, f.news
}

func (f *feed) watch(w http.ResponseWriter, r *http.Request) {
	after, err := route.ParsePosition(r.FormValue("after"))
	if err != nil {
		http.Error(w, "after: "+err.Error(), http.StatusBadRequest)
		return
	}
	at := after.Revision
	w.Header().Set("Content-Type", "text/event-stream")
	if after.Epoch != f.epoch {
		at = f.from
		if _, err := fmt.Fprintf(w, "event: table\nid: %s.%d\ndata: %s\n\n", f.epoch, at, f.first); err != nil {
			return
		}
	}
	for {
		changes, newest, news := f.after(at)
		at = newest
		for _, one := range changes {
			if _, err := w.Write(one); err != nil {
				return
			}
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-news:
		case <-time.After(10 * time.Second):
			if _, err := strings.NewReader(": still here\n\n").WriteTo(w); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
