package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Peer is a kind of proxy that can be compared.
type Peer interface {
	// Name is what it is called on the command line.
	Name() string

	// Install makes sure that its program is there: it builds it, or installs it from Debian where
	// this process is root. The error says why it cannot be had.
	Install(ctx context.Context) error

	// Start starts it with the routes of s, listening on a loopback address.
	Start(ctx context.Context, s Setup) (*Running, error)
}

// Setup is what a peer is started with.
type Setup struct {
	Dir     string // of its own, for its files
	Routes  Routes
	Backend *Backend
}

// Running is a proxy that runs.
type Running struct {
	*Process
	Name    string
	Address string
	Setup   Setup

	// Route adds a version, or moves it to another backend, by the means that the proxy has for
	// that: a reload, its API, or a change of the table. It may return before the version is
	// routed. Nil where there is no means.
	Route func(ctx context.Context, added Added) error

	// Quick says that Route can be called a hundred times a second.
	Quick bool

	client  *http.Client
	beside  func() // ends what serves the proxy; may be nil
	cleanUp func()
}

// Peers are all that there are, in the order of the table.
func Peers() []Peer {
	return []Peer{Layover{}, nginx{}, traefik{}, haproxy{}, caddy{}, &fastHTTP{}, reverseProxy{}}
}

// PeersNamed finds peers by their names.
func PeersNamed(names ...string) ([]Peer, error) {
	var found []Peer
	for _, name := range names {
		i := slices.IndexFunc(Peers(), func(p Peer) bool { return p.Name() == name })
		if i < 0 {
			var known []string
			for _, p := range Peers() {
				known = append(known, p.Name())
			}
			return nil, fmt.Errorf("there is no peer %q; there are %s", name, strings.Join(known, ", "))
		}
		found = append(found, Peers()[i])
	}
	return found, nil
}

// StartPeer starts a peer in a folder of its own, and returns once it answers. It
// fails where the peer routes wrongly: its figures would be worth nothing.
func StartPeer(ctx context.Context, p Peer, routes Routes, backend *Backend) (*Running, error) {
	dir, err := os.MkdirTemp("", "layover-bench-"+p.Name()+"-")
	if err != nil {
		return nil, err
	}
	r, err := p.Start(ctx, Setup{Dir: dir, Routes: routes, Backend: backend})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("start %s: %w", p.Name(), err)
	}
	r.Name, r.cleanUp = p.Name(), func() { _ = os.RemoveAll(dir) }
	r.Setup = Setup{Dir: dir, Routes: routes, Backend: backend}
	if err := r.check(ctx); err != nil {
		said := r.Said()
		r.Stop()
		return nil, errors.Join(fmt.Errorf("%s with %d routes: %w", p.Name(), routes.Len(), err), fmt.Errorf("it said: %s", said))
	}
	return r, nil
}

// Stop ends it and removes its files.
func (r *Running) Stop() {
	r.Process.Stop()
	if r.beside != nil {
		r.beside()
	}
	if r.cleanUp != nil {
		r.cleanUp()
	}
}

// check waits until the proxy knows the last route of the set, and then asks for routes from all over it,
// for versions that are not there, and without a route: each has to be answered rightly.
func (r *Running) check(ctx context.Context) error {
	routes := r.Setup.Routes
	last, lastVersion := routes.Services-1, routes.Versions-1
	newest := want{routes.Host(last), routes.Version(lastVersion), routes.Backend(last, lastVersion)}
	wants := append(routes.inUse(200, 99), want{routes.Host(0), routes.Version(0), routes.Backend(0, 0)}, newest)
	var call func(context.Context, int, want) error
	if routes.spoken() == route.H2C {
		var err error
		if call, err = http2Call(Load{Address: r.Address, Routes: routes}); err != nil {
			return err
		}
	} else {
		wants = append(wants,
			want{routes.Host(last), "", routes.Backend(last, 0)}, // no route
			want{routes.Host(last), "nobody-knows-this", routes.Backend(last, 0)},
			want{routes.Host(0), "feature-1000000", routes.Backend(0, 0)}, // begins as another does
		)
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		call = func(ctx context.Context, _ int, w want) error { return r.ask(ctx, client, w) }
	}
	err := poll(ctx, startTimeout, "it does not answer for "+newest.host+" with "+newest.version, func() (bool, error) {
		select {
		case <-r.dead:
			return true, nil // the next request says so
		default:
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := call(ctx, 0, newest)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, w := range wants {
		if err := call(ctx, 0, w); err != nil {
			return err
		}
	}
	return nil
}

func (r *Running) ask(ctx context.Context, client *http.Client, w want) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Address+"/check", nil)
	if err != nil {
		return err
	}
	req.Host = w.host
	if w.version != "" {
		req.Header.Set("Baggage", Baggage(w.version))
	}
	return checked(client, req, w.backend)
}

// Routed adds a version, and returns how long it took until the proxy sent a request to it.
func (r *Running) Routed(ctx context.Context, added Added) (time.Duration, error) {
	if r.Route == nil {
		return 0, fmt.Errorf("%s has no way to change its routes while it runs", r.Name)
	}
	if r.client == nil {
		r.client = &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	}
	began := time.Now()
	if err := r.Route(ctx, added); err != nil {
		return 0, fmt.Errorf("add a route to %s: %w", r.Name, err)
	}
	w := want{r.Setup.Routes.Host(added.Service), added.Name, added.Backend}
	deadline := began.Add(startTimeout)
	for {
		err := r.ask(ctx, r.client, w)
		if err == nil {
			return time.Since(began), nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return 0, fmt.Errorf("the new version of %s is not routed: %w", r.Name, err)
		}
	}
}

// Change makes so many changes a second, one version added, moved and moved back, until ctx ends.
// It returns how many it made.
func (r *Running) Change(ctx context.Context, perSecond int) (int, error) {
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return n, nil
		case <-ticker.C:
		}
		added := Added{Service: n % r.Setup.Routes.Services, Name: fmt.Sprintf("changed-%d", n/2%50), Backend: n % Backends}
		if err := r.Route(ctx, added); err != nil && ctx.Err() == nil {
			return n, err
		}
	}
}

// fromDebian installs a package where a program is missing.
func fromDebian(ctx context.Context, program, pkg string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("%s is not installed: install the package %s (as root on Debian this is done for you)", program, pkg)
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", pkg}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1") // the package must not start its service
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, text)
		}
	}
	_, err := exec.LookPath(program)
	return err
}

// writeFile replaces a file of a peer in one step.
func (s Setup) writeFile(name, text string) (string, error) {
	path := filepath.Join(s.Dir, name)
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(next, path)
}

// extra are the versions that were added to a running peer.
type extra struct {
	mu  sync.Mutex
	all []Added
}

// put adds one, and returns all.
func (e *extra) put(a Added) []Added {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = slices.DeleteFunc(e.all, func(b Added) bool { return a.Service == b.Service && a.Name == b.Name })
	e.all = append(e.all, a)
	return slices.Clone(e.all)
}

// with calls f for the routes of the set and for those added.
func (s Setup) with(added []Added, f func(host, version string, backend int)) {
	s.Routes.each(f)
	for _, a := range added {
		f(s.Routes.Host(a.Service), a.Name, a.Backend)
	}
}
