package control

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// A version may have two hooks: a setup, which runs once for each generation before its
// instances start, and a teardown, which runs when the version is removed, until it succeeds.

// Hook is a hook as it runs: what a service and a deployment say of it, taken together.
type Hook struct {
	Run     api.Run           `json:"run"`
	Env     map[string]string `json:"env,omitempty"` // over that of the instances
	Timeout api.Duration      `json:"timeout"`
}

// Hooks is what is known of the hooks of a version, from its first deployment to its removal.
type Hooks struct {
	SetUp    bool              `json:"set_up,omitempty"`   // a setup succeeded once
	Outputs  map[string]string `json:"outputs,omitempty"`  // what its setups gave; may be secrets
	Teardown *Teardown         `json:"teardown,omitempty"` // what has to run before it is gone; nil where nothing has
	Log      *HookLog          `json:"log,omitempty"`      // of the hook that ran last
}

// Teardown is a teardown that a version owes: that of the newest generation that brought one.
type Teardown struct {
	Hook
	InstanceEnv map[string]string `json:"instance_env,omitempty"` // of that generation's instances
	Done        bool              `json:"done,omitempty"`         // it succeeded
	Skipped     bool              `json:"skipped,omitempty"`      // a person gave it up
	Tries       int               `json:"tries,omitempty"`        // how often it failed
	Failure     string            `json:"failure,omitempty"`      // why it did the last time
}

// The names of the hooks.
const (
	hookSetup    = "setup"
	hookTeardown = "teardown"
)

const defaultHookTimeout = 5 * time.Minute

// hookID names the run of a hook to its runtime. It is no name of an instance, whose last
// part is a number.
func hookID(key Key, generation int64, hook string) string {
	return instanceID(key, generation, 1) + "." + hook
}

// IsHook says whether id, of anything that a runtime has, names the run of a hook.
func IsHook(id string) bool {
	last := id[strings.LastIndex(id, "--")+1:]
	return strings.HasSuffix(last, "."+hookSetup) || strings.HasSuffix(last, "."+hookTeardown)
}

// resolvedHooks are the hooks that a deployment has; nil where it has none.
type resolvedHooks struct{ setup, teardown *Hook }

// same says whether a generation has the same hooks.
func (h resolvedHooks) same(g *Generation) bool {
	return reflect.DeepEqual(h.setup, g.Setup) && reflect.DeepEqual(h.teardown, g.Teardown)
}

// resolveHooks takes the hooks of a service and a deployment together; run is what the instances run.
func (c *Control) resolveHooks(key Key, s api.Service, d api.Deployment, run api.Run) (resolvedHooks, error) {
	var out resolvedHooks
	for _, h := range []struct {
		name              string
		standard, instead *api.Hook
		to                **Hook
	}{{hookSetup, s.Setup, d.Setup, &out.setup}, {hookTeardown, s.Teardown, d.Teardown, &out.teardown}} {
		wanted := cmp.Or(h.instead, h.standard)
		if wanted == nil || wanted.Off {
			continue
		}
		resolved, err := resolveHook(h.name, *wanted, run)
		if err != nil {
			return resolvedHooks{}, err
		}
		if err := c.checkProxy(key, resolved.Run, resolved.Env); err != nil {
			return resolvedHooks{}, err
		}
		*h.to = resolved
	}
	return out, nil
}

// resolveHook makes a hook what it runs beside instances that run so.
func resolveHook(name string, h api.Hook, run api.Run) (*Hook, error) {
	if err := checkHook(name, h); err != nil {
		return nil, err
	}
	out := &Hook{Env: maps.Clone(h.Env), Timeout: cmp.Or(h.Timeout, api.Duration(defaultHookTimeout))}
	switch h.RuntimeBeside(run) {
	case api.RuntimeECS:
		if run.ECS == nil {
			return nil, invalidf("set run.ecs of the service, or another runtime", "the %s is to run as an ECS task, and nothing says from which template", name)
		}
		task := *run.ECS
		task.Adopt, task.Mode = false, api.ECSTask
		task.Image, task.Command = cmp.Or(h.Image, task.Image), h.Command
		out.Run = api.Run{ECS: &task}
	case api.RuntimeDocker:
		if h.Dir != "" {
			return nil, invalidf("leave it out, or set runtime: process", "the directory of the %s is for a process, and it runs as a container", name)
		}
		container := deref(run.Docker)
		container.Image, container.Command = cmp.Or(h.Image, container.Image), h.Command
		if container.Image == "" {
			return nil, invalidf("give it an image", "the %s is to run as a container, and nothing says of which image", name)
		}
		out.Run = api.Run{Docker: &container}
	default:
		if len(h.Command) == 0 {
			return nil, invalidf("give it a command, or an image", "the %s has nothing to run", name)
		}
		out.Run = api.Run{Process: &api.Process{Command: h.Command, Dir: cmp.Or(h.Dir, deref(run.Process).Dir)}}
	}
	if err := checkRun(out.Run); err != nil {
		return nil, err
	}
	if size := sizeOf(out.Run, out.Env); size > maxWorkload {
		return nil, invalidf("put what is long into a file, and name that",
			"the command and the environment variables of the %s have %d bytes together, and may have %d", name, size, maxWorkload)
	}
	return out, nil
}

// checkHooks refuses what is wrong with the hooks of a service whatever runs its instances.
func checkHooks(s api.Service) error {
	for name, h := range map[string]*api.Hook{hookSetup: s.Setup, hookTeardown: s.Teardown} {
		if h == nil || h.Off {
			continue
		}
		if err := checkHook(name, *h); err != nil {
			return err
		}
	}
	return nil
}

func checkHook(name string, h api.Hook) error {
	switch {
	case h.Timeout < 0 || h.Timeout > api.MaxHookTimeout:
		return invalidf("", "the %s cannot take %s: at most %s", name, h.Timeout, api.MaxHookTimeout)
	case h.Image != "" && h.Runtime == api.RuntimeProcess:
		return invalidf("leave one of the two out", "the %s has an image, and is to run as a process", name)
	case h.Image == "" && len(h.Command) == 0:
		return invalidf("give it a command, or an image", "the %s has nothing to run", name)
	case h.Dir != "" && (h.Image != "" || h.Runtime == api.RuntimeDocker || h.Runtime == api.RuntimeECS):
		return invalidf("leave it out", "the directory of the %s is for a process, and it runs as a container", name)
	case h.Dir != "" && !filepath.IsAbs(h.Dir):
		return invalidf("the server does not know what it is relative to", "the directory %q of the %s is not absolute", h.Dir, name)
	}
	return checkEnv(h.Env)
}

// identifier names the version to things that take letters, digits and "_" only, such as
// databases: service_version, and a hash where another version could come out as the same. It has
// at most 63 bytes and no digit first.
func (k Key) identifier() string {
	name := strings.NewReplacer("-", "_", ".", "_").Replace(k.Service + "_" + k.Version)
	if name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	const longest, hashed = 63, 8
	if len(name) <= longest && !strings.ContainsAny(k.Service, "-._") && !strings.ContainsAny(k.Version, "._") {
		return name
	}
	sum := sha256.Sum256([]byte(k.String()))
	return name[:min(len(name), longest-hashed-2)] + "__" + hex.EncodeToString(sum[:])[:hashed] // no plain one has "__"
}

// hookWorkload fills in what a hook runs with: the environment of the instances, what setups
// gave, and its own.
func (c *Control) hookWorkload(key Key, generation int64, name string, h Hook, instances map[string]string, known Hooks) Workload {
	w := c.workload(key, &Generation{Number: generation, Run: h.Run, Env: instances, Outputs: known.Outputs}, hookID(key, generation, name))
	values := c.placeholders(key, h.Run)
	for variable, value := range h.Env {
		w.Env[variable] = api.FillPlaceholders(value, values)
	}
	w.Env["LAYOVER_ENVIRONMENT"] = c.opts.Environment
	w.Env["LAYOVER_GENERATION"] = strconv.FormatInt(generation, 10)
	w.Env["LAYOVER_HOOK"] = name
	if name == hookSetup {
		w.Env["LAYOVER_SETUP"] = "first"
		if known.SetUp {
			w.Env["LAYOVER_SETUP"] = "again"
		}
	}
	return w
}

// dueHook returns the hook that is to run for the version now, or nil.
func (r *VersionRecord) dueHook() *Hook {
	switch {
	case r.owesTeardown():
		return &r.Hooks.Teardown.Hook
	case r.Desired == DesiredRunning && r.pending() && !r.newest().SetUp:
		return r.newest().Setup
	}
	return nil
}

// wantsHook says whether the run of a hook has a reason to be there.
func (r *VersionRecord) wantsHook(id string) bool {
	newest := r.newest()
	if newest == nil || r.dueHook() == nil {
		return false
	}
	name := hookSetup
	if r.Desired == DesiredRemoved {
		name = hookTeardown
	}
	return id == hookID(r.Key, newest.Number, name)
}

// hookRuntimes names the runtimes on which a hook of the version may have been started.
func (r *VersionRecord) hookRuntimes() []string {
	names := map[string]bool{}
	for _, g := range r.Generations {
		for _, h := range []*Hook{g.Setup, g.Teardown} {
			if h != nil {
				names[h.Run.Runtime()] = true
			}
		}
	}
	if t := r.Hooks.Teardown; t != nil {
		names[t.Run.Runtime()] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// cameUpToStart says whether g, which may be nil, has no setup that failed, whose lines would be those kept of it.
func (g *Generation) cameUpToStart() bool { return g != nil && (g.Setup == nil || g.SetUp) }

// takeHooks takes over what the newest generation brings: it gets what earlier setups gave, and
// its teardown, where it has one, is the one that is owed.
func (r *VersionRecord) takeHooks() {
	g := r.newest()
	g.Outputs = maps.Clone(r.Hooks.Outputs)
	if g.Teardown != nil {
		r.Hooks.Teardown = &Teardown{Hook: *g.Teardown, InstanceEnv: g.Env}
	}
}

// owesTeardown says whether the version is being removed, and its teardown has not succeeded.
func (r *VersionRecord) owesTeardown() bool {
	t := r.Hooks.Teardown
	return r.Desired == DesiredRemoved && t != nil && !t.Done && !t.Skipped
}

func (r *VersionRecord) skipsTeardown() bool {
	return r.Hooks.Teardown != nil && r.Hooks.Teardown.Skipped
}

// teardownAgain notes that a person wants the version removed: a teardown that failed is tried
// at once, or given up where skip says so.
func (r *VersionRecord) teardownAgain(skip bool) {
	if !r.owesTeardown() {
		return
	}
	t := *r.Hooks.Teardown
	t.Failure, t.Skipped = "", skip
	r.Hooks.Teardown = &t
}

// beginAnew begins a new life of a version that was removed. There is none while its teardown
// is not done: that would take away what the new one sets up.
func (r *VersionRecord) beginAnew() error {
	if r.Desired != DesiredRemoved {
		return nil
	}
	if r.owesTeardown() {
		message := fmt.Sprintf("%s is being removed, and its teardown is not done", r.Key)
		if why := r.Hooks.Teardown.Failure; why != "" {
			message += ": " + why
		}
		return conflictf(fmt.Sprintf("wait for it: layover rm %s; or give it up: layover rm --skip-teardown %[1]s", r.Key), "%s", message)
	}
	r.Hooks = Hooks{}
	return nil
}
