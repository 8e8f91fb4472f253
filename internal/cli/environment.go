package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/forge"
	"github.com/layover-dev/layover/internal/gateway/redis"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/receipt"
	"github.com/layover-dev/layover/internal/runtime/docker"
	"github.com/layover-dev/layover/internal/runtime/ecs"
	"github.com/layover-dev/layover/internal/runtime/external"
	"github.com/layover-dev/layover/internal/runtime/logfile"
	"github.com/layover-dev/layover/internal/runtime/process"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/telemetry"
	"github.com/layover-dev/layover/internal/telemetry/otlp"
	"github.com/layover-dev/layover/internal/telemetry/receiver"
	"github.com/layover-dev/layover/internal/testrun"
	"github.com/layover-dev/layover/internal/webhook"
)

// environment is server, proxy, runtimes and store of one environment in one process;
// or all of that but the proxy, where proxies run apart.
type environment struct {
	file   *config.File
	apart  bool
	log    *slog.Logger
	store  *store.DB
	held   chan error // what [store.DB.Hold] returned
	unhold func()     // ends it, and waits for that

	docker    *docker.Runtime
	ecs       *ecs.Runtime
	logs      *logfile.Archive
	observer  *observer      // the proxy, and what learns of its requests; nil where it runs apart
	exporter  *otlp.Exporter // nil where telemetry goes nowhere
	registry  *prometheus.Registry
	events    *telemetry.Events
	receipts  *receipt.Store
	control   *control.Control
	webhooks  *webhook.Sender
	forges    *forge.Hub // nil where there are none
	tests     *testrun.Keeper
	traefik   *traefik.Source // nil where there is no configuration for Traefik
	redis     *redis.Writer   // nil where no configuration is written to Redis
	server    *server.Server
	proxies   []proxy.Listener    // those of proxy.listen, then those of proxy.listen_tls
	certs     *proxy.Certificates // of the latter; nil where there are none
	serverLis net.Listener

	lines       *telemetry.Logs // nil where they are not sent
	receiverLis []net.Listener  // those of telemetry.receiver.listen
}

// stopTimeout bounds how long ending takes: drain, then the graces of the instances.
const stopTimeout = 2 * time.Minute

// openEnvironment opens the store below data, listens, and wires everything
// together. Nothing runs before [environment.run]. On an error nothing is left open.
func openEnvironment(ctx context.Context, file *config.File, data string, log *slog.Logger) (*environment, error) {
	e := &environment{file: file, log: log, receipts: receipt.New(receipt.Options{Hops: file.Telemetry.KeptRequests})}
	return e, e.open(ctx, data)
}

// openServer is openEnvironment for proxies that run apart.
func openServer(ctx context.Context, file *config.File, data string, log *slog.Logger) (*environment, error) {
	e := &environment{file: file, log: log, apart: true, receipts: receipt.New(receipt.Options{Hops: file.Telemetry.KeptRequests})}
	return e, e.open(ctx, data)
}

func (e *environment) open(ctx context.Context, data string) (err error) {
	defer func() {
		if err != nil {
			_ = e.close() // the first error counts
		}
	}()
	if data, err = filepath.Abs(data); err != nil {
		return fmt.Errorf("find the folder %s: %w", data, err)
	}
	location := e.file.StoreLocation(data)
	if e.apart && config.IsPostgres(location) {
		e.store, err = e.standBy(ctx, location)
	} else {
		e.store, err = openStore(ctx, location)
	}
	if err != nil {
		return err
	}
	e.hold(ctx)
	if err := os.MkdirAll(data, 0o700); err != nil { // a store elsewhere does not make it
		return fmt.Errorf("make the data folder: %w", err)
	}
	identity, err := readIdentity(filepath.Join(data, "id"), e.file.Environment)
	if err != nil {
		return err
	}
	if e.serverLis != nil { // it stood by
		if identity, err = e.store.Announce(ctx, e.sharedURL(), identity); err != nil {
			return err
		}
	}
	runtimes, err := e.openRuntimes(ctx, data, identity)
	if err != nil {
		return err
	}
	if e.serverLis == nil {
		if err := e.listen(ctx); err != nil {
			return err
		}
	}
	if e.exporter, err = openExporter(e.file, os.Getenv, e.log); err != nil {
		return err
	}
	if e.file.Telemetry.Sends(config.SignalLogs) {
		e.lines = telemetry.NewLogs(telemetry.LogOptions{Environment: e.file.Environment, RouteOf: e.routeOfTrace}, e.exporter)
	}
	plane, err := e.openProxy()
	if err != nil {
		return err
	}
	if err := e.openControl(ctx, runtimes, plane); err != nil {
		return err
	}
	return e.openAPI(ctx)
}

// openProxy makes the proxy, which is in this process unless proxies run apart.
func (e *environment) openProxy() (control.DataPlane, error) {
	if e.apart {
		return nil, nil //nolint:nilnil // there is none
	}
	options := proxyOptions(e.file, e.log)
	options.Wake = e.wake
	var err error
	if e.observer, err = observe(e.file, "up", options, ownReceipts{e.receipts}, e.exporter, e.log); err != nil {
		return nil, err
	}
	e.observer.receiverLis = e.receiverLis
	return e.observer.proxy, nil
}

// ownReceipts is the [hopServer] in this process.
type ownReceipts struct{ *receipt.Store }

// SendHops takes in what the proxy saw.
func (r ownReceipts) SendHops(_ context.Context, b api.HopBatch) error {
	r.Add(b)
	return nil
}

// Receipt returns what is known of a trace.
func (r ownReceipts) Receipt(_ context.Context, trace string) (api.Receipt, error) {
	found, _ := r.Store.Receipt(trace)
	return found, nil
}

func (e *environment) openControl(ctx context.Context, runtimes map[string]control.Runtime, plane control.DataPlane) (err error) {
	file := e.file
	e.control, err = control.New(ctx, control.Options{
		Environment:  file.Environment,
		Domain:       file.Domain,
		BaggageKey:   file.BaggageKey,
		RouteHeader:  file.RouteHeader,
		Hold:         time.Duration(file.Hold),
		LeaseWarning: time.Duration(file.LeaseWarning),
		PreviewPort:  port(e.proxyAddress()),
		Store:        e.store,
		Runtimes:     runtimes,
		DataPlane:    plane,
		ProxyAddress: e.proxyAddresses(),

		RouteOfTrace:     e.routeOfTrace,
		TelemetryAddress: e.receiverAddresses(), TelemetryHeader: receiver.InstanceHeader,
		TelemetryEnv: file.Telemetry.Env,
		Quotas:       control.Quotas{Running: file.Quotas.Running, RunningPerOwner: file.Quotas.RunningPerOwner},
		WholeDrain:   file.Gateway.Traefik.Mode != config.TraefikOff,
		OrphanGrace:  time.Duration(file.Server.OrphanGrace),
		LogArchive:   e.logs,
		Log:          e.log,
	})
	return err
}

// openAPI makes the API, and what sends its events elsewhere.
func (e *environment) openAPI(ctx context.Context) error {
	hooks, err := hooks(e.file, os.Getenv)
	if err != nil {
		return err
	}
	e.webhooks, err = webhook.New(ctx, webhook.Options{
		Environment: e.file.Environment, Hooks: hooks, Log: e.control, Store: e.store, Logger: e.log,
	})
	if err != nil {
		return err
	}
	e.tests = testrun.New(testrun.Options{Store: e.store, Tell: e.control.Tell, Reached: e.receipts.Reached, Begins: e.receipts.Announce})
	if err := e.tests.Resume(ctx); err != nil {
		return err
	}
	if err := e.openForges(); err != nil {
		return err
	}
	e.events = telemetry.NewEvents(string(api.EventDeployDone), string(api.EventDeployFailed), string(api.EventVersionWaking), string(api.EventVersionNotAwake))
	e.registry = telemetry.NewRegistry(telemetry.Server(e.figures), e.events)
	if e.observer != nil {
		e.registry.MustRegister(e.observer.collectors(nil)...)
	}
	e.server, err = server.New(server.Options{
		Control:        e.control,
		Webhooks:       e.webhooks,
		Receipts:       e.receipts,
		Tests:          e.tests,
		Forges:         e.forgeHandler(),
		Gateway:        e.openGateway(ctx),
		Environment:    e.describe(),
		AllowedHosts:   e.allowedHosts(),
		AllowedOrigins: e.file.Server.AllowedOrigins,
		Build:          build(),
		Metrics:        telemetry.Handler(e.registry),
		Logger:         e.log,
	})
	return err
}

// figures is what the server shows of the environment.
func (e *environment) figures() telemetry.ServerFigures {
	table := e.control.Table()
	f := telemetry.ServerFigures{Leader: true, Revision: table.Revision(), Versions: map[string]int{}, Build: build().Version}
	for service := range table.Services() {
		f.Services++
		for version := range service.Versions() {
			f.Versions[string(version.State)]++
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	proxies, _ := e.control.Proxies(ctx) // they are in memory
	for _, p := range proxies {
		f.Proxies = append(f.Proxies, telemetry.ProxyFigure{ID: p.ID, Behind: p.Behind, Lag: time.Duration(p.Lag).Seconds()})
	}
	webhooks, err := e.webhooks.Webhooks(ctx)
	if err != nil {
		e.log.Warn("metrics lack the webhooks", "err", err)
	}
	for _, w := range webhooks {
		f.Webhooks = append(f.Webhooks, telemetry.WebhookFigure{Name: w.Name, Behind: w.Behind, Dead: int64(w.Dead)})
	}
	f.Requests, f.Dropped = e.receipts.Counts()
	e.forgeFigures(&f)
	if e.redis != nil {
		written := e.redis.Status().Written
		f.Gateway = &written
	} else if e.traefik != nil {
		now := time.Now()
		if askers := e.traefik.Askers.All(now); len(askers) > 0 {
			unasked := now.Sub(askers[0].Last).Seconds()
			f.GatewayUnasked = &unasked
		}
	}
	if e.lines != nil {
		f.LinesDropped = e.lines.Dropped()
	}
	if e.exporter != nil {
		f.OTLP = e.exporter.Stats()
	}
	return f
}

// run serves until ctx ends, and then lets requests in flight finish, and
// ends what it started. Where the proxies run apart, what it started goes on: they serve it,
// and the next server adopts it. ready is called once everything serves and the file is applied.
func (e *environment) run(ctx context.Context, ready func(context.Context) error) error {
	// The parts end one after another: first the proxy drains, then the server and
	// the reconciler end, and only then the instances.
	reconciling, endReconciling := context.WithCancel(context.WithoutCancel(ctx))
	defer endReconciling()
	behind, ctxBehind := errgroup.WithContext(reconciling)
	behind.Go(func() error { return e.control.Run(ctxBehind) })
	behind.Go(func() error {
		select {
		case err := <-e.held:
			return err
		case <-ctxBehind.Done():
			return nil
		}
	})
	behind.Go(func() error { return e.server.Serve(ctxBehind, e.serverLis) })
	behind.Go(func() error { return e.webhooks.Run(ctxBehind) })
	behind.Go(func() error { return e.countEvents(ctxBehind) })
	if e.forges != nil {
		behind.Go(func() error { return e.forges.Run(ctxBehind) })
	}
	if e.redis != nil {
		behind.Go(func() error { return e.redis.Run(ctxBehind) })
	}
	sent := pushed(e.file, e.exporter, e.registry, tellerOf(e.file, "layover-server", e.serverLis.Addr().String()))
	ended := make(chan struct{}) // closed once no instance runs any more
	sent = append(sent, e.logsSent(ended)...)
	if e.observer != nil {
		for _, part := range e.observer.parts() {
			behind.Go(func() error { return part(ctxBehind) })
		}
		sent = append(sent, e.observer.sent()...)
	}
	telling, endTelling := context.WithCancel(context.WithoutCancel(ctx)) // last of all: instances tell of their end
	defer endTelling()
	tellers, ctxTelling := errgroup.WithContext(telling)
	if e.exporter != nil {
		tellers.Go(func() error { return runTelemetry(ctxTelling, e.exporter.Run, sent...) })
	}

	front, ctxFront := errgroup.WithContext(ctx)
	if !e.apart {
		front.Go(func() error { return e.observer.proxy.Run(ctxFront, e.proxies...) })
	}
	if e.certs != nil {
		front.Go(func() error { return e.certs.Run(ctxFront) })
	}
	front.Go(func() error {
		if err := e.apply(ctxFront); err != nil {
			return err
		}
		return ready(ctxFront)
	})
	front.Go(func() error { // a part behind that fails ends all
		select {
		case <-ctxBehind.Done():
			return context.Cause(ctxBehind)
		case <-ctxTelling.Done():
			return context.Cause(ctxTelling)
		case <-ctxFront.Done():
			return nil
		}
	})
	err := front.Wait()
	endReconciling()
	err = errors.Join(ignoreCanceled(err), ignoreCanceled(behind.Wait()))
	if !e.apart && !errors.Is(err, store.ErrTaken) { // else what runs is another server's to end
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, e.control.StopInstances(stopping))
		close(ended)
	}
	endTelling()
	return errors.Join(err, ignoreCanceled(tellers.Wait()))
}

// routeOfTrace returns the route of a trace: as the proxy in this process knows it, or the proxies told of it.
func (e *environment) routeOfTrace(trace string) string {
	if e.observer != nil {
		var id proxy.TraceID
		if n, err := hex.Decode(id[:], []byte(trace)); err == nil && n == len(id) {
			if name := e.observer.proxy.TraceRoute(id); name != "" {
				return name
			}
		}
	}
	return e.receipts.RouteOf(trace)
}

// logsSent are the parts that send what instances write, where that is wanted. The logs of Amazon ECS are in CloudWatch, which is asked
// for those that somebody reads. ended is closed where no instance runs any more.
func (e *environment) logsSent(ended <-chan struct{}) []func(context.Context) error {
	if e.lines == nil {
		return nil
	}
	return []func(context.Context) error{func(ctx context.Context) error {
		sending, end := context.WithCancel(context.WithoutCancel(ctx))
		var lines errgroup.Group
		lines.Go(func() error { return e.lines.Run(sending) })
		if left := e.control.FollowInstances(ctx, ended, []string{api.RuntimeECS}, e.lines.Add); left > 0 {
			e.log.Warn("logs of instances were not sent, as there were too many", "instances", left)
		}
		end() // all lines are there
		return lines.Wait()
	}}
}

// countEvents counts the events from now on, until ctx ends.
func (e *environment) countEvents(ctx context.Context) error {
	after, err := e.control.LastEvent(ctx)
	if err != nil {
		return err
	}
	for e.control.WaitEvents(ctx, after) == nil {
		events, err := e.control.Events(ctx, after, 256)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it is why they cannot be read
			}
			e.log.Warn("metrics of events are late", "err", err)
			select {
			case <-time.After(eventsAgain):
			case <-ctx.Done():
				return nil
			}
		}
		for _, event := range events {
			after = event.ID
			e.events.Count(string(event.Type))
			if event.Type == api.EventDeployDone {
				e.events.Deployed(time.Duration(event.Took))
			}
		}
	}
	return nil
}

// eventsAgain is when events are read again where the store did not answer.
const eventsAgain = 5 * time.Second

// hold keeps the store ours from now on, until [environment.close]: also while instances are ended.
func (e *environment) hold(ctx context.Context) {
	holding, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.held = make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.held <- e.store.Hold(holding)
	}()
	e.unhold = func() {
		cancel()
		<-ended
	}
}

// wake starts a version that sleeps, for a request to the proxy.
func (e *environment) wake(ctx context.Context, version string) error {
	service, name, _ := strings.Cut(version, "@")
	_, err := e.control.Wake(ctx, control.Key{Service: service, Version: name}, control.By{})
	return err
}

// apply makes the environment hold what the file declares.
func (e *environment) apply(ctx context.Context) error {
	var wanted []control.Wanted
	for _, v := range e.file.Versions() {
		wanted = append(wanted, control.Wanted{
			Key: control.Key{Service: v.Service, Version: v.Version}, Deployment: v.Deployment,
		})
	}
	return e.control.Apply(ctx, e.file.Services(), e.file.Routes(), wanted)
}

// close lets go of listeners and store. It is safe on a half-open environment.
func (e *environment) close() error {
	var errs []error
	for _, l := range e.proxies {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	for _, l := range e.receiverLis {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	if e.serverLis != nil {
		errs = append(errs, ignoreClosed(e.serverLis.Close()))
	}
	errs = append(errs, e.observer.close())
	if e.docker != nil {
		errs = append(errs, e.docker.Close())
	}
	if e.ecs != nil {
		errs = append(errs, e.ecs.Close())
	}
	if e.unhold != nil {
		e.unhold()
	}
	if e.store != nil {
		errs = append(errs, e.store.Close())
	}
	return errors.Join(errs...)
}

// logFiles is in how many files the log of a process is: the oldest goes as a whole.
const logFiles = 6

func (e *environment) openRuntimes(ctx context.Context, data, identity string) (map[string]control.Runtime, error) {
	var err error
	if e.logs, err = logfile.NewArchive(filepath.Join(data, "logs", identity), e.file.Logs.EndedBytes()); err != nil {
		return nil, fmt.Errorf("open the logs of ended instances: %w", err)
	}
	running := e.file.Logs.RunningBytes()
	processes, err := process.New(process.Options{
		Dir: filepath.Join(data, "instances"), Environment: identity, Logger: e.log,
		LogFileSize: running / logFiles, LogFiles: logFiles, Archive: e.logs,
	})
	if err != nil {
		return nil, err
	}
	gateway := ""
	switch {
	case e.apart:
		gateway, _ = e.containersReach()
	case e.wantsDockerListener():
		probe, err := docker.New(docker.Options{Environment: identity, Logger: e.log})
		if err != nil {
			return nil, err
		}
		defer func() { _ = probe.Close() }()
		address, err := probe.Gateway(ctx)
		if err != nil {
			return nil, fmt.Errorf("listen on the Docker bridge, as proxy.listen asks: %w", err)
		}
		gateway = address.String()
	}
	if e.docker, err = docker.New(docker.Options{Environment: identity, ProxyAddress: gateway, Logger: e.log, LogBytes: running, Archive: e.logs}); err != nil {
		return nil, err
	}
	if e.ecs, err = ecs.New(ecs.Options{
		Environment: identity, Region: e.file.ECS.Region, Role: e.file.ECS.Role, Cluster: e.file.ECS.Cluster, Runs: e.ecsRuns,
		Events: e.file.ECS.Events, Poll: time.Duration(e.file.ECS.Poll), CallsPerSecond: e.file.ECS.CallsPerSecond,
		Logger: e.log, Archive: e.logs,
	}); err != nil {
		return nil, err
	}
	runtimes := map[string]control.Runtime{
		api.RuntimeProcess:  processes,
		api.RuntimeDocker:   e.docker,
		api.RuntimeECS:      e.ecs,
		api.RuntimeExternal: external.New(external.Options{Logger: e.log}),
	}
	for name, r := range runtimes {
		runtimes[name] = fencedRuntime{Runtime: r, store: e.store}
	}
	return runtimes, nil
}

// ecsRuns returns the runs that say in which clusters of Amazon ECS there may be instances.
func (e *environment) ecsRuns() []api.Run {
	if e.control == nil {
		return nil // nothing is asked of a runtime before
	}
	return e.control.Runs(api.RuntimeECS)
}

// dockerHost in proxy.listen stands for the gateway of the Docker bridge.
const dockerHost = "docker"

func (e *environment) wantsDockerListener() bool {
	for _, address := range slices.Concat(e.file.Proxy.Listen, e.file.Proxy.ListenTLS, e.file.Telemetry.Receiver.Listen) {
		if strings.HasPrefix(address, dockerHost+":") {
			return true
		}
	}
	return false
}

// listen opens every listener, so that a port in use is told before anything starts.
func (e *environment) listen(ctx context.Context) error {
	var err error
	if e.apart {
		e.serverLis, err = listen(ctx, "server", "server.listen or LAYOVER_SERVER_LISTEN", e.file.Server.Listen)
		return err
	}
	trusted := map[string]bool{}
	for _, address := range e.file.Proxy.TrustedListen {
		trusted[address] = true
	}
	var encryption *tls.Config
	if e.certs, err = loadCertificates(e.file, e.log); err != nil {
		return err
	}
	if e.certs != nil {
		encryption = e.certs.TLSConfig()
	}
	for i, address := range slices.Concat(e.file.Proxy.Listen, e.file.Proxy.ListenTLS) {
		actual, err := e.addressOf(ctx, address)
		if err != nil {
			return err
		}
		setting, config := "proxy.listen or LAYOVER_PROXY_LISTEN", (*tls.Config)(nil)
		if i >= len(e.file.Proxy.Listen) {
			setting, config = "proxy.listen_tls or LAYOVER_PROXY_LISTEN_TLS", encryption
		}
		l, err := listen(ctx, "proxy", setting, actual)
		if err != nil {
			return err
		}
		isTrusted := trusted[address]
		if len(trusted) == 0 {
			isTrusted = actual != address || isLoopback(l.Addr())
		}
		e.proxies = append(e.proxies, proxy.Listener{Listener: l, TLS: config, Trusted: isTrusted})
	}
	if len(e.proxies) == 0 {
		return usagef("", "proxy.listen is empty: nothing could be reached")
	}
	for _, address := range e.file.Telemetry.Receiver.Listen {
		actual, err := e.addressOf(ctx, address)
		if err != nil {
			return err
		}
		l, err := listen(ctx, "receiver of telemetry", "telemetry.receiver.listen or LAYOVER_TELEMETRY_RECEIVER_LISTEN", actual)
		if err != nil {
			return err
		}
		e.receiverLis = append(e.receiverLis, l)
	}
	e.serverLis, err = listen(ctx, "server", "server.listen or LAYOVER_SERVER_LISTEN", e.file.Server.Listen)
	return err
}

// addressOf is an address to listen on, with that of the Docker bridge in the place of its name.
func (e *environment) addressOf(ctx context.Context, address string) (string, error) {
	rest, isDocker := strings.CutPrefix(address, dockerHost+":")
	if !isDocker {
		return address, nil
	}
	gateway, err := e.docker.Gateway(ctx)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(gateway.String(), rest), nil
}

func listen(ctx context.Context, what, setting, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		return l, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return nil, &control.Error{
		Code:    api.CodeConflict,
		Message: fmt.Sprintf("the %s cannot listen on %s: %s", what, address, err),
		Hint:    listenHint(err) + " with " + setting,
		Err:     err,
	}
}

// listenHint says what to do where an address cannot be listened on.
func listenHint(err error) string {
	_, unknown := errors.AsType[*net.DNSError](err)
	switch {
	case unknown, errors.Is(err, syscall.EADDRNOTAVAIL):
		return "choose an address of this machine"
	case errors.Is(err, fs.ErrPermission):
		return "choose a port from 1024 on (those below are for root)"
	default:
		return "end what uses the port, or choose another"
	}
}

// proxyAddresses says where the instances of each runtime reach the proxy.
func (e *environment) proxyAddresses() map[string]string {
	out := map[string]string{}
	if e.apart {
		out[api.RuntimeProcess] = e.file.Proxy.Address
		if ip, ok := e.containersReach(); ok {
			out[api.RuntimeDocker] = net.JoinHostPort(ip, port(e.file.Proxy.Address))
		}
		out[api.RuntimeECS] = e.file.Proxy.Address // a name will do: tasks have the DNS of their VPC
		return out
	}
	for i, entry := range e.file.Proxy.Listen {
		address := e.proxies[i].Listener.Addr().String()
		if strings.HasPrefix(entry, dockerHost+":") {
			out[api.RuntimeDocker] = cmp.Or(out[api.RuntimeDocker], address)
			continue
		}
		out[api.RuntimeProcess] = cmp.Or(out[api.RuntimeProcess], reachable(address))
	}
	out[api.RuntimeProcess] = cmp.Or(out[api.RuntimeProcess], out[api.RuntimeDocker])
	out[api.RuntimeECS] = cmp.Or(e.file.Proxy.Address, out[api.RuntimeProcess])
	return out
}

// receiverAddresses says where the instances of each runtime reach the receiver of their telemetry.
func (e *environment) receiverAddresses() map[string]string {
	said := e.file.Telemetry.Receiver.Address
	out := map[string]string{api.RuntimeProcess: said, api.RuntimeECS: said}
	host, _, _ := net.SplitHostPort(said)
	if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() {
		out[api.RuntimeDocker] = said
	}
	for i, entry := range e.file.Telemetry.Receiver.Listen {
		if i >= len(e.receiverLis) {
			break // it runs apart
		}
		address := e.receiverLis[i].Addr().String()
		if strings.HasPrefix(entry, dockerHost+":") {
			out[api.RuntimeDocker] = cmp.Or(out[api.RuntimeDocker], address)
		}
		out[api.RuntimeProcess] = cmp.Or(out[api.RuntimeProcess], reachable(address))
	}
	return out
}

// containersReach returns the IP address of a proxy that runs apart, where containers can
// reach it at one.
func (e *environment) containersReach() (string, bool) {
	host, _, _ := net.SplitHostPort(e.file.Proxy.Address)
	ip := net.ParseIP(host)
	if ip == nil || ip.IsLoopback() {
		return "", false
	}
	return ip.String(), true
}

// proxyAddress is where the machine of the server reaches a proxy; "" where nobody said.
func (e *environment) proxyAddress() string { return e.proxyAddresses()[api.RuntimeProcess] }

// proxyURL is empty where proxies run apart, and nobody said where.
func (e *environment) proxyURL() string {
	if address := e.proxyAddress(); address != "" {
		return "http://" + address
	}
	return ""
}

func (e *environment) serverURL() string { return "http://" + reachable(e.serverLis.Addr().String()) }

func (e *environment) describe() api.Environment {
	return api.Environment{
		Name: e.file.Environment, Domain: e.file.Domain, BaggageKey: e.file.BaggageKey,
		RouteHeader: e.file.RouteHeader, ProxyURL: e.proxyURL(),
	}
}

// reachable turns an address to listen on into one to connect to.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// readIdentity returns what keeps the instances of this environment apart from those of
// another of the same name on the same machine. It is made once, from the name the
// environment has then: one that is renamed still finds its instances.
func readIdentity(path, name string) (string, error) {
	text, err := os.ReadFile(path)
	if identity := strings.TrimSpace(string(text)); identity != "" {
		return identity, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the identity of the environment: %w", err)
	}
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	identity := name + "-" + hex.EncodeToString(random)
	if err := writeWhole(path, identity+"\n"); err != nil {
		return "", fmt.Errorf("write the identity of the environment: %w", err)
	}
	return identity, nil
}

// writeWhole writes a file so that, after a crash, it is there with all its text or not at all.
func writeWhole(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
