package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/edge"
	"github.com/layover-dev/layover/internal/handover"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/telemetry"
	"github.com/layover-dev/layover/internal/telemetry/otlp"
)

type proxyCmdOptions struct {
	File        string
	Servers     []string
	Listen      []string
	ID          string
	Admin       string
	Cache       string
	Table       string
	Handover    string
	AcceptReset bool
	Debug       bool

	ReadyWithin time.Duration // at a hand-over
	Linger      time.Duration // after one
	Drain       time.Duration
}

const (
	defaultAdmin = "127.0.0.1:7071"
	noAdmin      = "off"
)

func newProxyCmd(app *App) *cobra.Command {
	opts := &proxyCmdOptions{}
	cmd := &cobra.Command{
		Use:     "proxy",
		GroupID: groupRun,
		Short:   "Run a proxy of its own, beside a server that runs elsewhere",
		Long: `Run only the proxy, as often as you like: each follows a server's table, and goes on with
its last one while no server answers. With --table-cache it starts from that, too.

Several servers of one environment may be named; the proxy follows one of them at a time.
Settings come from the blocks proxy and telemetry of the file that -f names, which is that of
layover.yaml, from their variables (LAYOVER_PROXY_LISTEN), and from the flags. There is no file
by default.

/readyz at the admin address says which revision is in force and whether it is stale; it is
200 while there is a table. /metrics is for Prometheus, /healthz says that the program lives.

Ctrl-C and SIGTERM drain. SIGHUP starts the program's file anew and hands it the listening
sockets: no connection is refused, and where the new process does not get ready, this one goes
on. With --handover the next ` + "`layover proxy --handover FILE`" + ` takes them over in the same way.`,
		Example: `  layover proxy --server http://layover.internal:7070 --table-cache /var/lib/layover/table
  layover proxy --server http://a:7070,http://b:7070 --listen :8080 --id edge-1
  LAYOVER_SERVER=http://a:7070,http://b:7070 LAYOVER_PROXY_LISTEN=:8080 layover proxy
  layover proxy --table table.json --admin off`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runProxy(cmd.Context(), app, opts) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&opts.Servers, "server", nil, "URLs of the servers of the environment, tried in turn (LAYOVER_SERVER)")
	f.StringVarP(&opts.File, "file", "f", "", "configuration file; only its proxy and telemetry blocks are used")
	f.StringSliceVar(&opts.Listen, "listen", nil, "addresses to listen on (LAYOVER_PROXY_LISTEN; default 127.0.0.1:8080)")
	f.StringVar(&opts.Admin, "admin", cmp.Or(app.env("LAYOVER_PROXY_ADMIN"), defaultAdmin), "address of /healthz, /readyz and /metrics, or \"off\" (LAYOVER_PROXY_ADMIN)")
	f.StringVar(&opts.ID, "id", app.env("LAYOVER_PROXY_ID"), "names the proxy to the server (LAYOVER_PROXY_ID; default: host name and port)")
	f.StringVar(&opts.Cache, "table-cache", app.env("LAYOVER_TABLE_CACHE"), "file that keeps the last good table for the next start (LAYOVER_TABLE_CACHE)")
	f.StringVar(&opts.Table, "table", "", "file with a table as JSON, as GET /api/v1/table gives it, to begin with; without --server it stays")
	f.StringVar(&opts.Handover, "handover", "", "Unix socket over which the next process takes over the listeners")
	f.BoolVar(&opts.AcceptReset, "accept-reset", false, "take a table that is older than the last one, or of another environment")
	f.DurationVar(&opts.ReadyWithin, "ready-within", 30*time.Second, "how long a new process may take to get ready at a hand-over")
	f.DurationVar(&opts.Linger, "linger", 10*time.Second, "after a hand-over, how long kept connections may bring another request")
	f.DurationVar(&opts.Drain, "drain", proxy.DefaultDrainTimeout, "how long requests in flight may go on when the process ends")
	f.BoolVar(&opts.Debug, "debug", false, "log more")
	return cmd
}

// standAlone is a proxy without a server in its process.
type standAlone struct {
	app      *App
	opts     *proxyCmdOptions
	log      *slog.Logger
	observer *observer // the proxy, and what learns of its requests
	follower *edge.Follower
	gates    []socket            // of the proxy
	receives []socket            // telemetry of applications
	admin    *socket             // nil where there is none
	certs    *proxy.Certificates // of the gates with TLS; nil where there are none
	exporter *otlp.Exporter      // nil where telemetry goes nowhere
	registry *prometheus.Registry
	hangup   chan os.Signal
	stopping atomic.Bool
	lingered chan struct{} // closed when the next process has taken over, and senders of telemetry have had time to go there
}

// socket is a listener and what it is called at a hand-over.
type socket struct {
	name    string
	trusted bool
	tls     bool
	gate    *handover.Gate
}

// sockets are all that the process listens on.
func (s *standAlone) sockets() []socket {
	all := slices.Concat(s.gates, s.receives)
	if s.admin != nil {
		all = append(all, *s.admin)
	}
	return all
}

func runProxy(ctx context.Context, app *App, opts *proxyCmdOptions) error {
	file, err := proxySettings(app, opts)
	if err != nil {
		return err
	}
	servers, err := proxyServers(app, opts)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if opts.Debug {
		level = slog.LevelDebug
	}
	s := &standAlone{app: app, opts: opts, log: slog.New(slog.NewTextHandler(app.Err, &slog.HandlerOptions{Level: level}))}
	limitMemory(s.log, memlimit.FromCgroup)
	s.lingered = make(chan struct{})
	s.hangup = make(chan os.Signal, 1) // one that comes before the start is complete waits
	signal.Notify(s.hangup, syscall.SIGHUP)
	defer signal.Stop(s.hangup)
	before, err := s.predecessor(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.prepare(ctx, file, servers, before); err != nil {
		if before != nil {
			before.Refuse(err)
		}
		return err
	}
	return s.run(ctx, before)
}

// proxySettings reads the file, where one is named, with variables and flags over it.
func proxySettings(app *App, opts *proxyCmdOptions) (*config.File, error) {
	file := config.Default()
	if opts.File != "" {
		var err error
		if file, err = loadFile(app, opts.File); err != nil {
			return nil, err
		}
	} else if err := file.ApplyEnv(app.Environ); err != nil {
		return nil, err
	}
	if len(opts.Listen) > 0 {
		if err := file.Set("proxy.listen", strings.Join(opts.Listen, ","), "--listen"); err != nil {
			return nil, err
		}
	}
	for _, l := range file.Listeners() {
		if l.Docker {
			return nil, usagef("name the address of the bridge, for example 172.17.0.1:8080",
				"proxy.listen has %s: a stand-alone proxy does not ask Docker for its bridge", l.Entry)
		}
	}
	for _, address := range file.Telemetry.Receiver.Listen {
		if strings.HasPrefix(address, dockerHost+":") {
			return nil, usagef("name the address of the bridge, for example 172.17.0.1:4318",
				"telemetry.receiver.listen has %s: a stand-alone proxy does not ask Docker for its bridge", address)
		}
	}
	return file, file.Validate()
}

// proxyServers returns the servers to follow: those of the flag, else of the variable; none
// where there is a fixed table and nobody named a server.
func proxyServers(app *App, opts *proxyCmdOptions) ([]edge.Server, error) {
	urls := opts.Servers
	if text := app.env("LAYOVER_SERVER"); len(urls) == 0 && text != "" {
		urls = strings.Split(text, ",")
	}
	if len(urls) == 0 && opts.Table == "" {
		urls = []string{defaultServer}
	}
	var servers []edge.Server
	for _, url := range urls {
		client, err := api.NewClient(strings.TrimSpace(url))
		if err != nil {
			return nil, usagef("it should look like "+defaultServer, "the server %q: %s", url, err)
		}
		servers = append(servers, client)
	}
	return servers, nil
}

// prepare listens, or takes over what the process before this one listens on, and takes up
// the tables that are there without a server.
func (s *standAlone) prepare(ctx context.Context, file *config.File, servers []edge.Server, before *handover.Offer) error {
	if err := s.listen(ctx, file, before); err != nil {
		return err
	}
	var addresses []string
	for _, socket := range s.gates {
		addresses = append(addresses, socket.gate.Addr().String())
	}
	id, err := s.name(addresses[0])
	if err != nil {
		return err
	}
	options := proxyOptions(file, s.log)
	options.DrainTimeout = s.opts.Drain
	if s.certs, err = loadCertificates(file, s.log); err != nil {
		return err
	}
	if s.exporter, err = openExporter(file, s.app.env, s.log); err != nil {
		return err
	}
	options.Wake = func(ctx context.Context, version string) error { return s.follower.Wake(ctx, version) }
	if s.observer, err = observe(file, id, options, followed{s}, s.exporter, s.log); err != nil {
		return err
	}
	for _, one := range s.receives {
		s.observer.receiverLis = append(s.observer.receiverLis, one.gate)
	}
	s.registry = telemetry.NewRegistry(s.observer.collectors(s.figures)...)
	s.follower = edge.New(edge.Options{
		Servers: servers, DataPlane: s.observer.proxy, CacheFile: s.opts.Cache, AcceptReset: s.opts.AcceptReset,
		ID: id, Addresses: addresses, Build: build().Version, Logger: s.log,
	})
	if s.opts.Table != "" {
		table, err := readTable(s.opts.Table)
		if err != nil {
			return err
		}
		s.follower.Use(table)
	}
	return s.follower.LoadCache()
}

// name returns what the server calls this proxy.
func (s *standAlone) name(address string) (string, error) {
	if s.opts.ID != "" {
		if err := route.CheckName("proxy", s.opts.ID); err != nil {
			return "", usagef("", "--id: %s", err)
		}
		return s.opts.ID, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", usagef("name the proxy with --id", "this machine has no host name: %s", err)
	}
	return route.NameOf(host + "-" + port(address)), nil
}

func readTable(path string) (*route.Table, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("get one with: curl http://127.0.0.1:7070/api/v1/table", "read the table: %s", err)
	}
	var spec route.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, usagef("it should be as GET /api/v1/table gives it", "read the table in %s: %s", path, err)
	}
	table, err := route.Compile(spec)
	if err != nil {
		return nil, fmt.Errorf("read the table in %s: %w", path, err)
	}
	return table, nil
}

func (s *standAlone) listen(ctx context.Context, file *config.File, before *handover.Offer) error {
	open := func(what, setting, address string) (socket, error) {
		name := what + " " + address
		if before != nil {
			if l := before.Socket(name); l != nil {
				return socket{name: name, gate: handover.NewGate(l)}, nil
			}
		}
		l, err := listen(ctx, what, setting, address)
		if err != nil {
			return socket{}, err
		}
		return socket{name: name, gate: handover.NewGate(l.(*net.TCPListener))}, nil
	}
	for _, l := range file.Listeners() {
		one, err := open("proxy", "--listen or LAYOVER_PROXY_LISTEN", l.Entry)
		if err != nil {
			return err
		}
		one.trusted, one.tls = l.Trusted, l.TLS
		s.gates = append(s.gates, one)
	}
	if len(s.gates) == 0 {
		return usagef("", "proxy.listen is empty: nothing could be reached")
	}
	for _, address := range file.Telemetry.Receiver.Listen {
		one, err := open("receiver", "telemetry.receiver.listen or LAYOVER_TELEMETRY_RECEIVER_LISTEN", address)
		if err != nil {
			return err
		}
		s.receives = append(s.receives, one)
	}
	if s.opts.Admin == noAdmin {
		return nil
	}
	one, err := open("admin", "--admin or LAYOVER_PROXY_ADMIN", s.opts.Admin)
	if err != nil {
		return err
	}
	s.admin = &one
	return nil
}

// run serves until ctx ends or another process has taken over, and drains.
func (s *standAlone) run(ctx context.Context, before *handover.Offer) error {
	following, endFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer endFollowing()
	behind, following := errgroup.WithContext(following)
	behind.Go(func() error { return s.follower.Run(following) })
	if s.certs != nil {
		behind.Go(func() error { return s.certs.Run(following) })
	}
	for _, part := range s.observer.parts() {
		behind.Go(func() error { return part(following) })
	}
	if s.exporter != nil {
		s.observer.receiveUntil = s.lingered
		if before != nil {
			s.observer.receiveFrom = s.follower.Ready() // until then the other one knows who sends
		}
		sent := append(s.observer.sent(), pushed(s.observer.file, s.exporter, s.registry, s.observer.source)...)
		behind.Go(func() error { return runTelemetry(following, s.exporter.Run, sent...) })
	}
	if before != nil {
		if err := s.awaitTable(ctx); err != nil {
			before.Refuse(err)
			endFollowing()
			return errors.Join(err, behind.Wait())
		}
	}
	serving, endServing := context.WithCancel(ctx)
	defer endServing()
	front, serving := errgroup.WithContext(serving)
	front.Go(func() error { return s.observer.proxy.Run(serving, s.listeners()...) })
	front.Go(func() error {
		<-serving.Done()
		s.stopping.Store(true)
		return nil
	})
	if s.admin != nil {
		behind.Go(func() error { return s.serveAdmin(following) })
	}
	front.Go(func() error {
		if before != nil {
			if err := before.Accept(ctx); err != nil {
				return err
			}
			s.log.Info("took over", "pid", before.PID)
		}
		s.tell()
		s.notify()
		return s.awaitSuccessor(serving, endServing)
	})
	front.Go(func() error { // a part behind that fails ends all
		select {
		case <-following.Done():
			return context.Cause(following)
		case <-serving.Done():
			return nil
		}
	})
	err := front.Wait()
	endFollowing()
	return errors.Join(ignoreCanceled(err), ignoreCanceled(behind.Wait()))
}

// awaitTable waits until there is something to decide on.
func (s *standAlone) awaitTable(ctx context.Context) error {
	select {
	case <-s.follower.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.opts.ReadyWithin):
		return fmt.Errorf("there is no table after %s: %s", s.opts.ReadyWithin, cmp.Or(s.follower.Status().Problem, "no server has answered"))
	}
}

func (s *standAlone) listeners() []proxy.Listener {
	var all []proxy.Listener
	for _, socket := range s.gates {
		l := proxy.Listener{Listener: socket.gate, Trusted: socket.trusted}
		if socket.tls {
			l.TLS = s.certs.TLSConfig() // Validate holds that there are certificates
		}
		all = append(all, l)
	}
	return all
}

func (s *standAlone) serveAdmin(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.follower.Admin(telemetry.Handler(s.registry), s.stopping.Load),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.admin.gate); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve %s: %w", s.admin.gate.Addr(), err)
	}
	return nil
}

// figures is how the proxy follows the servers.
func (s *standAlone) figures() *telemetry.FollowerFigures {
	status := s.follower.Status()
	return &telemetry.FollowerFigures{
		Ready:         status.Table && !s.stopping.Load(),
		Age:           status.Age().Seconds(),
		Connected:     status.Server != "",
		Stale:         status.Stale(),
		Applied:       status.Applied,
		CacheRevision: status.CacheRevision,
		CacheErrors:   status.CacheErrors,
		Draining:      len(s.follower.Draining()),
	}
}

// followed is the [hopServer] that the proxy follows.
type followed struct{ *standAlone }

// SendHops tells it what the proxy saw.
func (f followed) SendHops(ctx context.Context, b api.HopBatch) error {
	return f.follower.SendHops(ctx, b)
}

// Receipt asks it what it knows of a trace.
func (f followed) Receipt(ctx context.Context, trace string) (api.Receipt, error) {
	return f.follower.Receipt(ctx, trace)
}

// tell says where the proxy is and what it has.
func (s *standAlone) tell() {
	for _, socket := range s.gates {
		scheme := "http"
		if socket.tls {
			scheme = "https"
		}
		s.app.say("proxy   %s://%s\n", scheme, reachable(socket.gate.Addr().String()))
	}
	for _, socket := range s.receives {
		s.app.say("otlp    http://%s\n", reachable(socket.gate.Addr().String()))
	}
	if s.admin != nil {
		s.app.say("admin   http://%s/readyz\n", reachable(s.admin.gate.Addr().String()))
	}
	if status := s.follower.Status(); status.Table {
		s.app.say("table   revision %d of %s, from the %s\n", status.Revision, status.Environment, status.Source)
	} else {
		s.app.say("table   none yet: requests are answered with 503 until a server answers\n")
	}
}

// close lets go of the sockets; those of a proxy that ran are closed already.
func (s *standAlone) close() {
	for _, socket := range s.sockets() {
		_ = socket.gate.Close()
	}
	_ = s.observer.close()
}
