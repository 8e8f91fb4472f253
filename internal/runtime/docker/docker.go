// Package docker runs instances as containers of one Docker Engine.
//
// The Engine is the only memory: every container carries labels that say which
// environment, service, version and instance it is, so a new [Runtime] finds again
// what an earlier one started. Containers publish their port on 127.0.0.1, and
// resolve every host of the environment to the proxy, so that neither the code in
// them nor any DNS server has to change.
//
// It speaks the Engine API from version 1.41 (Docker 20.10) on.
package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/failpoint"
	"github.com/layover-dev/layover/internal/runtime/logfile"
)

// Labels of every container, by which instances are found again.
const (
	LabelEnvironment = "dev.layover.environment"
	LabelService     = "dev.layover.service"
	LabelVersion     = "dev.layover.version"
	LabelGeneration  = "dev.layover.generation"
	LabelID          = "dev.layover.id"
)

// HostGateway stands for the machine the Engine runs on, as seen from a
// container. Where the Engine runs in a virtual machine of a desktop, it is the desktop.
const HostGateway = "host-gateway"

const (
	queryTimeout  = 30 * time.Second // a question: inspect, list, kill
	changeTimeout = 2 * time.Minute  // a change that moves disks and networks: create, start, remove
	lingerTimeout = 10 * time.Second // what a change may take once nobody waits for it
)

// Options say which environment a [Runtime] runs, and where.
type Options struct {
	// Environment names what belongs together. All containers that carry its name
	// are this runtime's, so two servers on one Engine need two names.
	Environment string

	// ProxyAddress is the IP address at which containers reach the proxy. Empty
	// means [HostGateway].
	ProxyAddress string

	// Network is the bridge network containers join. Empty means the Engine's
	// own, "bridge".
	Network string

	// Host is the Engine's address, for example unix:///var/run/docker.sock. Empty
	// means the one the docker command uses: DOCKER_HOST, else DOCKER_CONTEXT, else
	// the current context of Docker's configuration, else the default socket.
	Host string

	// Logger gets what no caller is told. Nil means [slog.Default].
	Logger *slog.Logger

	// LogBytes bounds the log that the Engine keeps of a container. 0 means 30 MiB.
	LogBytes int64

	// Archive gets the logs of the containers that are removed. Nil means that nothing is kept.
	Archive *logfile.Archive
}

// Runtime is a [control.Runtime] over one Docker Engine.
type Runtime struct {
	environment   string
	proxy         string
	network       string
	logBytes      int64
	archive       *logfile.Archive
	log           *slog.Logger
	engine        *client.Client
	unusable      error // why the Engine's address is of no use; nil where it is
	queryTimeout  time.Duration
	changeTimeout time.Duration

	mu       sync.Mutex
	starting map[string]chan struct{} // by instance; closed when that start has ended
	known    map[string]known         // by container, of those that run
}

// New returns a Runtime. It does not talk to the Engine, which may be started
// later; every call says so while there is none. An error means that opts are wrong.
func New(opts Options) (*Runtime, error) {
	if !containerName.MatchString(opts.Environment) || strings.Contains(opts.Environment, "--") {
		return nil, fmt.Errorf("environment %q cannot be part of a container name: use letters, digits, '.', '_' and single '-'", opts.Environment)
	}
	if opts.ProxyAddress == "" {
		opts.ProxyAddress = HostGateway
	}
	if _, err := netip.ParseAddr(opts.ProxyAddress); err != nil && opts.ProxyAddress != HostGateway {
		return nil, fmt.Errorf("proxy address %q is neither an IP address nor %q", opts.ProxyAddress, HostGateway)
	}
	switch {
	case opts.Network == "":
		opts.Network = defaultNetwork
	case opts.Network == "host", opts.Network == "none", strings.HasPrefix(opts.Network, "container:"):
		return nil, fmt.Errorf("network %q publishes no ports: name a bridge network", opts.Network)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	engine, unusable, err := connect(opts.Host)
	if err != nil {
		return nil, err
	}
	return &Runtime{
		environment:   opts.Environment,
		proxy:         opts.ProxyAddress,
		network:       opts.Network,
		logBytes:      cmp.Or(opts.LogBytes, 30<<20),
		archive:       opts.Archive,
		log:           opts.Logger.With("runtime", api.RuntimeDocker),
		engine:        engine,
		unusable:      unusable,
		queryTimeout:  queryTimeout,
		changeTimeout: changeTimeout,
		starting:      make(map[string]chan struct{}),
		known:         make(map[string]known),
	}, nil
}

// Close lets go of the connections to the Engine. It stops no container.
func (r *Runtime) Close() error { return r.engine.Close() }

// Start starts w as a container; see [control.Runtime]. It pulls the image where
// the policy of w says so, before it touches anything else.
func (r *Runtime) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	if step == nil {
		step = func(api.Step, string) {}
	}
	plan, err := r.plan(w)
	if err != nil {
		return control.Status{}, err
	}
	found, err := r.find(ctx, w.ID)
	if err == nil && running(found.State) {
		return r.statusOf(found), nil
	}
	if err != nil && !cerrdefs.IsNotFound(err) {
		return control.Status{}, r.fail(ctx, "look for container "+plan.name, err)
	}
	if err := r.ensureImage(ctx, plan, w.Run.Docker.Pull, step); err != nil {
		return control.Status{}, err
	}

	// Starts of one ID take turns from here on: what a second one finds is whole.
	done, err := r.turn(ctx, w.ID)
	if err != nil {
		return control.Status{}, fmt.Errorf("start %s: %w", w.ID, err)
	}
	defer done()
	found, err = r.find(ctx, w.ID)
	switch {
	case err == nil && running(found.State):
		return r.statusOf(found), nil
	case err == nil: // has exited, or was created by a server that ended there
		r.keepLog(ctx, found)
		if err := r.remove(ctx, found.ID); err != nil {
			return control.Status{}, r.fail(ctx, "remove the ended container "+plan.name, err)
		}
	case !cerrdefs.IsNotFound(err):
		return control.Status{}, r.fail(ctx, "look for container "+plan.name, err)
	}
	step(api.StepStart, "container "+plan.name)
	return r.launch(ctx, plan)
}

// Stop ends the container of an instance, keeps its log, and removes it with its
// anonymous volumes; see [control.Runtime]. The first signal is the one the image asks
// for (STOPSIGNAL), SIGTERM where it asks for none.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	found, err := r.find(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return r.fail(ctx, "look for container "+r.name(id), err)
	}
	if running(found.State) {
		signal := found.Config.StopSignal
		if signal == "" {
			signal = "SIGTERM"
		}
		if err := r.signal(ctx, found.ID, signal); err != nil {
			return r.fail(ctx, "stop container "+r.name(id), err)
		}
		r.awaitExit(ctx, found.ID, grace)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stop container %s: %w", r.name(id), err)
		}
	}
	failpoint.Pass(failpoint.DockerEnded)
	r.keepLog(ctx, found)
	if err := r.remove(ctx, found.ID); err != nil {
		return r.fail(ctx, "remove container "+r.name(id), err)
	}
	return nil
}

// turn waits until no other start of id goes on, and returns what ends the turn.
func (r *Runtime) turn(ctx context.Context, id string) (func(), error) {
	for {
		r.mu.Lock()
		busy, taken := r.starting[id]
		if !taken {
			mine := make(chan struct{})
			r.starting[id] = mine
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				delete(r.starting, id)
				r.mu.Unlock()
				close(mine)
			}, nil
		}
		r.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// launch creates and starts the container of p. Where that does not work out, it
// removes what there is of it, also when nobody waits any more.
func (r *Runtime) launch(ctx context.Context, p plan) (control.Status, error) {
	id, err := r.create(ctx, p)
	if err == nil {
		err = r.checkCommand(ctx, id, p)
	}
	if err == nil {
		failpoint.Pass(failpoint.DockerCreated)
		err = r.startContainer(ctx, id)
	}
	if isMissingInit(err) {
		// Some packages of Docker come without docker-init. It only reaps orphaned
		// processes, which few services have.
		r.log.WarnContext(ctx, "engine has no docker-init, containers run without it", "err", err)
		p.host.Init = nil
		if err = r.remove(ctx, id); err == nil {
			if id, err = r.create(ctx, p); err == nil {
				err = r.startContainer(ctx, id)
			}
		}
	}
	var started container.InspectResponse
	if err == nil {
		failpoint.Pass(failpoint.DockerStarted)
		started, err = r.inspect(ctx, id)
	}
	if err == nil {
		return r.statusOf(started), nil
	}
	err = r.failStart(ctx, p, err)
	if left := r.discard(ctx, id, p.name, err); left != nil {
		err = errors.Join(err, fmt.Errorf("remove container %s: %w", p.name, left))
	}
	return control.Status{}, err
}

// create makes the container of p. The Engine goes on creating when a caller
// hangs up, and there would be nothing yet to remove; so the call outlives ctx for a while.
func (r *Runtime) create(ctx context.Context, p plan) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	call, cancel := linger(ctx, lingerTimeout, r.changeTimeout)
	defer cancel()
	created, err := r.engine.ContainerCreate(call, client.ContainerCreateOptions{
		Name:       p.name,
		Config:     p.config,
		HostConfig: p.host,
	})
	if err != nil {
		return "", err
	}
	for _, warning := range created.Warnings {
		r.log.WarnContext(ctx, "engine warns about a container", "service", p.config.Labels[LabelService],
			"version", p.config.Labels[LabelVersion], "warning", warning)
	}
	return created.ID, nil
}

func (r *Runtime) startContainer(ctx context.Context, id string) error {
	call, cancel := context.WithTimeout(ctx, r.changeTimeout)
	defer cancel()
	_, err := r.engine.ContainerStart(call, id, client.ContainerStartOptions{})
	return err
}

// discard removes the container of a start that failed with cause.
func (r *Runtime) discard(ctx context.Context, id, name string, cause error) error {
	if id == "" {
		if cerrdefs.IsConflict(cause) {
			return nil // the name is somebody else's
		}
		id = name
	}
	return r.remove(context.WithoutCancel(ctx), id)
}

// remove removes a container by name or id, with force. One that is gone already is no error.
func (r *Runtime) remove(ctx context.Context, id string) error {
	call, cancel := context.WithTimeout(ctx, r.changeTimeout)
	defer cancel()
	_, err := r.engine.ContainerRemove(call, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	switch {
	case cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err): // another removal is at work: it is the one to wait for
		err = r.wait(call, id, container.WaitConditionRemoved)
		if cerrdefs.IsNotFound(err) {
			return nil
		}
	}
	return err
}

// signal sends a signal to a container. One that has exited or is gone is no error.
func (r *Runtime) signal(ctx context.Context, id, signal string) error {
	call, cancel := context.WithTimeout(ctx, r.queryTimeout)
	defer cancel()
	_, err := r.engine.ContainerKill(call, id, client.ContainerKillOptions{Signal: signal})
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) {
		return nil
	}
	return err
}

// awaitExit waits until a container does not run, for at most grace. The removal that
// follows needs no answer, so there is none.
func (r *Runtime) awaitExit(ctx context.Context, id string, grace time.Duration) {
	if grace <= 0 {
		return
	}
	call, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := r.wait(call, id, container.WaitConditionNotRunning); err != nil && call.Err() == nil && !cerrdefs.IsNotFound(err) {
		r.log.WarnContext(ctx, "wait for container", "err", err)
	}
}

func (r *Runtime) wait(ctx context.Context, id string, until container.WaitCondition) error {
	waiting := r.engine.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: until})
	// One of the two always comes, also when ctx ends: nothing is left waiting to send.
	select {
	case <-waiting.Result:
		return nil
	case err := <-waiting.Error:
		return err
	}
}

// find returns the container of an instance.
func (r *Runtime) find(ctx context.Context, id string) (container.InspectResponse, error) {
	if !containerName.MatchString(id) {
		return container.InspectResponse{}, cerrdefs.ErrNotFound.WithMessage("no container can be named " + id)
	}
	found, err := r.inspect(ctx, r.name(id))
	if err != nil {
		return found, err
	}
	if found.Config.Labels[LabelEnvironment] != r.environment || found.Config.Labels[LabelID] != id {
		return found, &control.Error{
			Code:    api.CodeConflict,
			Message: fmt.Sprintf("a container named %s is there, and is not of this environment", r.name(id)),
			Hint:    fmt.Sprintf("remove or rename it: `docker rm -f %s`", r.name(id)),
		}
	}
	return found, nil
}

// inspect asks for a container by name or id. What it returns always has a state and a configuration.
func (r *Runtime) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	call, cancel := context.WithTimeout(ctx, r.queryTimeout)
	defer cancel()
	result, err := r.engine.ContainerInspect(call, id, client.ContainerInspectOptions{})
	if err == nil && (result.Container.State == nil || result.Container.Config == nil || result.Container.HostConfig == nil) {
		err = fmt.Errorf("the engine's description of container %s has no state or configuration", id)
	}
	return result.Container, err
}

// name is the name of an instance's container. Neither part can have "--" where
// the other begins, so no two instances share one.
func (r *Runtime) name(id string) string { return "layover-" + r.environment + "--" + id }

// containerName is what the Engine takes as a name.
var containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// linger returns a context that goes on for extra after ctx has ended, and ends
// after limit in any case.
func linger(ctx context.Context, extra, limit time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(extra):
			cancel()
		case <-out.Done():
		}
	})
	return out, func() {
		stop()
		cancel()
	}
}
