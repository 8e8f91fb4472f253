// Package ecs runs instances as tasks of Amazon ECS.
//
// A service names a template: an ECS service or a task definition that is there already. Each version is a copy
// of it with another image and other variables, and each instance a task of that copy, or an ECS service that keeps one
// task running. ECS is the only memory: everything carries tags that say which environment, service, version
// and instance it is, so a new [Runtime] finds again what an earlier one started. An ECS service can also be
// adopted as a version, mostly main: its tasks get requests, and nothing of it is changed.
//
// Tasks are looked at for the whole environment together, a hundred a call and within a budget, or told of by
// EventBridge through a queue. An answer that fails takes nothing away of what is known.
package ecs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/logfile"
)

// Options say which environment a [Runtime] runs, and where.
type Options struct {
	// Environment names what belongs together: all tasks that carry its name are this runtime's.
	Environment string

	// Region, Role and Cluster are those of runs that name none. See [api.ECS].
	Region, Role, Cluster string

	// Runs returns the runs of which there may be tasks: those of all services and versions. It
	// says in which clusters to look.
	Runs func() []api.Run

	// Events is the URL of the SQS queue that gets the changes of tasks. Empty means that there is none.
	Events string

	Poll           time.Duration    // between two looks at everything; 0 means 5 s. With Events it is twelve times as long
	CallsPerSecond float64          // questions in each account and region; 0 means 4
	Logger         *slog.Logger     // nil means [slog.Default]
	Archive        *logfile.Archive // gets the logs of instances that are stopped; nil keeps nothing
}

// Runtime is a [control.Runtime] over the clusters of Amazon ECS that the services of an environment name.
type Runtime struct {
	environment string
	defaults    api.ECS // region, role and cluster
	runs        func() []api.Run
	events      string
	poll, hurry time.Duration
	perSecond   float64
	archive     *logfile.Archive
	log         *slog.Logger
	ctx         context.Context //nolint:containedctx // of what many wait for together; ended by Close
	cancel      context.CancelFunc

	mu       sync.Mutex
	accounts map[place]*account
	clusters map[clusterKey]*cluster
	turns    map[string]chan struct{}
	news     chan struct{} // closed when something changed
	told     time.Time     // when the queue was last asked, and answered
}

var _ control.Runtime = (*Runtime)(nil)

type clusterKey struct {
	place
	name string
}

// labels are what the tags of a task say of it.
type labels struct {
	ID, ofService, ofVersion string
	Generation               int64
	container, workload      string
	port                     int
	origin                   string // what it is a copy of, see originOf
	base                     string // the definition that this had then: family and revision
}

// The tags of everything that Layover makes in ECS.
const (
	TagEnvironment = "layover:environment"
	TagService     = "layover:service"
	TagVersion     = "layover:version"
	TagGeneration  = "layover:generation"
	TagOwner       = "layover:owner"
	TagInstance    = "layover:instance"
	tagContainer   = "layover:container"
	tagPort        = "layover:port"
	tagOrigin      = "layover:template"
	tagBase        = "layover:base"
	tagWorkload    = "layover:workload" // hash of what it was to run
)

const (
	modeService  = api.ECSService
	defaultPoll  = 5 * time.Second
	defaultCalls = 4
	eventsFactor = 12               // looks are that much rarer where changes are told
	hurry        = time.Second      // between two looks at what somebody waits for
	lingering    = 30 * time.Second // what tidying up may take once nobody waits for it
)

// New returns a Runtime. It does not talk to AWS before it is asked for something there.
func New(opts Options) (*Runtime, error) {
	if opts.Environment == "" || len(opts.Environment) > 64 {
		return nil, fmt.Errorf("environment %q: a name of 1 to 64 characters is needed", opts.Environment)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Runs == nil {
		opts.Runs = func() []api.Run { return nil }
	}
	ctx, cancel := context.WithCancel(context.Background())
	poll := cmp.Or(opts.Poll, defaultPoll)
	return &Runtime{
		environment: opts.Environment,
		defaults:    api.ECS{Region: opts.Region, Role: opts.Role, Cluster: cmp.Or(opts.Cluster, "default")},
		runs:        opts.Runs,
		events:      opts.Events,
		poll:        poll,
		hurry:       min(poll, hurry),
		perSecond:   cmp.Or(opts.CallsPerSecond, defaultCalls),
		archive:     opts.Archive,
		log:         opts.Logger.With("runtime", api.RuntimeECS),
		ctx:         ctx,
		cancel:      cancel,
		accounts:    map[place]*account{},
		clusters:    map[clusterKey]*cluster{},
		turns:       map[string]chan struct{}{},
		news:        make(chan struct{}),
	}, nil
}

// Close lets go of what the runtime waits for. It stops no task.
func (r *Runtime) Close() error {
	r.cancel()
	return nil
}

// instanceName is what an ID may be: names of instances, and of hooks.
var instanceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,240}$`)

// Start runs the task, or the ECS service, of an instance, or adopts an ECS service; see [control.Runtime].
func (r *Runtime) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	if step == nil {
		step = func(api.Step, string) {}
	}
	if err := ctx.Err(); err != nil {
		return control.Status{}, fmt.Errorf("start %s: %w", w.ID, err)
	}
	if w.Run.ECS == nil || !instanceName.MatchString(w.ID) {
		return control.Status{}, invalid("", "%q cannot be run on ECS", w.ID)
	}
	c, err := r.cluster(ctx, *w.Run.ECS)
	if err != nil {
		return control.Status{}, err
	}
	free, err := r.turn(ctx, "instance "+w.ID)
	if err != nil {
		return control.Status{}, fmt.Errorf("start %s: %w", w.ID, err)
	}
	defer free()
	switch {
	case w.Run.ECS.Adopt:
		return c.adopt(ctx, w, step)
	case w.Run.ECS.Mode == modeService && !control.IsHook(w.ID):
		return c.startService(ctx, w, step)
	default:
		return c.startTask(ctx, w, step)
	}
}

// Stop ends the task or the ECS service of an instance, and forgets an adopted one; see [control.Runtime]. How long
// containers have after SIGTERM their definition says, which has it from [control.Workload].
func (r *Runtime) Stop(ctx context.Context, id string, _ time.Duration) error {
	if !instanceName.MatchString(id) {
		return nil
	}
	all, err := r.open(ctx)
	if err != nil {
		return err
	}
	free, err := r.turn(ctx, "instance "+id)
	if err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	defer free()
	for _, c := range all {
		if err := c.stop(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// List returns the instances in all clusters of the environment; see [control.Runtime]. It is answered from what
// is known where that is fresh: where it is not, and cannot be made so, there is an error.
func (r *Runtime) List(ctx context.Context) ([]control.Status, error) {
	all, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	var group errgroup.Group
	for _, c := range all {
		group.Go(func() error { return c.fresh(ctx, time.Now().Add(-r.interval())) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return r.snapshot(), nil
}

// interval is the time between two looks at everything.
func (r *Runtime) interval() time.Duration {
	if r.isTold() {
		return r.poll * eventsFactor
	}
	return r.poll
}

// hurried is the least time between two looks at what somebody waits for.
func (r *Runtime) hurried() time.Duration {
	if r.isTold() {
		return r.poll
	}
	return 0
}

// isTold says whether events tell of changes.
func (r *Runtime) isTold() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events != "" && time.Since(r.told) < eventsLate
}

// snapshot is what is known of all instances, in the order of their IDs.
func (r *Runtime) snapshot() []control.Status {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.clusters))
	r.mu.Unlock()
	byID := map[string]control.Status{}
	for _, c := range all {
		c.statuses(byID)
	}
	out := make([]control.Status, 0, len(byID))
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, byID[id])
	}
	return out
}

// Watch looks at everything again and again, reads the queue where there is one, and reports what changes; see
// [control.Runtime]. It first reports every instance that does not run.
func (r *Runtime) Watch(ctx context.Context, changed func(control.Status)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.lookAgain(ctx) })
	group.Go(func() error { return r.lookAtTemplates(ctx) })
	if r.events != "" {
		group.Go(func() error { return r.readEvents(ctx) })
	}
	group.Go(func() error {
		known := map[string]control.Status{}
		for first := true; ; first = false {
			news := r.changed()
			now := map[string]bool{}
			for _, status := range r.snapshot() {
				now[status.ID] = true
				before, was := known[status.ID]
				if was && !sameStatus(before, status) || !was && !status.Running || !was && !first {
					changed(status)
				}
				known[status.ID] = status
			}
			maps.DeleteFunc(known, func(id string, _ control.Status) bool { return !now[id] })
			select {
			case <-news:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return group.Wait()
}

// tidyAfter is when definitions that nothing runs from are looked for first, and tidyEvery how often then.
const (
	tidyAfter = 10 * time.Minute
	tidyEvery = time.Hour
)

// lookAgain looks at all clusters, each interval, until ctx ends. The last tenth of an interval is left for the look itself:
// what changed is known within one.
func (r *Runtime) lookAgain(ctx context.Context) error {
	tidy := time.Now().Add(tidyAfter)
	for {
		all, err := r.open(ctx)
		for _, c := range all {
			err = errors.Join(err, c.fresh(ctx, time.Now().Add(-r.interval()*9/10)))
			if time.Now().After(tidy) {
				err = errors.Join(err, c.sweep(ctx))
			}
		}
		if time.Now().After(tidy) {
			tidy = time.Now().Add(tidyEvery)
		}
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "tasks not looked at", "err", err)
		}
		pause := r.poll
		for _, c := range all {
			if err == nil {
				pause = min(pause, time.Until(c.lookedAt().Add(r.interval()*9/10)))
			}
		}
		select {
		case <-time.After(max(pause, r.poll/10)):
		case <-ctx.Done():
			return nil
		}
	}
}

func sameStatus(a, b control.Status) bool {
	return a.Running == b.Running && a.ExitCode == b.ExitCode && a.Reason == b.Reason && a.StartedAt.Equal(b.StartedAt) &&
		a.Generation == b.Generation && slices.Equal(a.Addresses, b.Addresses)
}

// key says which cluster a run is in.
func (r *Runtime) key(e api.ECS) clusterKey {
	return clusterKey{
		place: place{region: cmp.Or(e.Region, r.defaults.Region), role: cmp.Or(e.Role, r.defaults.Role)},
		name:  cmp.Or(e.Cluster, r.defaults.Cluster),
	}
}

// cluster returns the cluster of a run, and finds credentials for it the first time.
func (r *Runtime) cluster(ctx context.Context, e api.ECS) (*cluster, error) {
	key := r.key(e)
	r.mu.Lock()
	c, a := r.clusters[key], r.accounts[key.place]
	r.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if a == nil {
		var err error
		if a, err = openAccount(ctx, key.place, r.perSecond, r.log); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.accounts[key.place] == nil {
		r.accounts[key.place] = a
	}
	if r.clusters[key] == nil {
		r.clusters[key] = newCluster(r, r.accounts[key.place], key)
	}
	return r.clusters[key], nil
}

// open returns all clusters in which there may be instances.
func (r *Runtime) open(ctx context.Context) ([]*cluster, error) {
	for _, run := range r.runs() {
		if run.ECS == nil {
			continue
		}
		if _, err := r.cluster(ctx, *run.ECS); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.clusters)), nil
}

// turn waits until nothing else goes on under a name, and returns what ends the turn.
func (r *Runtime) turn(ctx context.Context, name string) (func(), error) {
	for {
		r.mu.Lock()
		busy, taken := r.turns[name]
		if !taken {
			mine := make(chan struct{})
			r.turns[name] = mine
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				delete(r.turns, name)
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

// notify tells all that wait that something changed.
func (r *Runtime) notify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.news)
	r.news = make(chan struct{})
}

// changed returns what is closed at the next change.
func (r *Runtime) changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.news
}

// prefix begins the names of everything in ECS that is of this environment.
func (r *Runtime) prefix() string { return "layover-" + ecsName(r.environment) + "--" }

var notInTags = regexp.MustCompile(`[^\p{L}\p{N} +=._:/@-]`)

// tags are the tags of everything that a workload has in ECS.
func (r *Runtime) tags(w control.Workload) []types.Tag {
	all := [][2]string{
		{TagEnvironment, r.environment},
		{TagService, w.Service},
		{TagVersion, w.Version},
		{TagGeneration, strconv.FormatInt(w.Generation, 10)},
		{TagOwner, notInTags.ReplaceAllString(w.Owner, "-")},
	}
	var out []types.Tag
	for _, t := range all {
		if t[1] != "" {
			out = append(out, types.Tag{Key: aws.String(t[0]), Value: aws.String(t[1])})
		}
	}
	return out
}

// instanceTags are the tags of the task or ECS service of one instance.
func (r *Runtime) instanceTags(p plan) []types.Tag {
	out := append(r.tags(p.workload),
		types.Tag{Key: aws.String(TagInstance), Value: &p.workload.ID},
		types.Tag{Key: aws.String(tagContainer), Value: &p.container},
		types.Tag{Key: aws.String(tagPort), Value: aws.String(strconv.Itoa(p.port))},
		types.Tag{Key: aws.String(tagWorkload), Value: aws.String(workloadHash(p.workload))})
	if p.base == "" || len(p.base) > maxTag || len(p.origin) > maxTag || notInTags.MatchString(p.origin) {
		return out // nobody is told what it was copied from
	}
	return append(out, types.Tag{Key: aws.String(tagOrigin), Value: &p.origin}, types.Tag{Key: aws.String(tagBase), Value: &p.base})
}

// maxTag is how long the value of a tag may be.
const maxTag = 256

// labelled reads tags back. There is no ID where they are not of this environment.
func (r *Runtime) labelled(tags []types.Tag) labels {
	if tagOf(tags, TagEnvironment) != r.environment {
		return labels{}
	}
	generation, _ := strconv.ParseInt(tagOf(tags, TagGeneration), 10, 64) // 0 where somebody changed it
	port, _ := strconv.Atoi(tagOf(tags, tagPort))
	return labels{
		ID: tagOf(tags, TagInstance), ofService: tagOf(tags, TagService), ofVersion: tagOf(tags, TagVersion), Generation: generation,
		container: tagOf(tags, tagContainer), port: port, workload: tagOf(tags, tagWorkload),
		origin: tagOf(tags, tagOrigin), base: tagOf(tags, tagBase),
	}
}

func tagOf(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}
