package control

import (
	"cmp"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/layover-dev/layover/api"
)

// resolve takes a service's template and a deployment's overrides together.
func resolve(s api.Service, d api.Deployment) (api.Run, map[string]string, error) {
	run, err := override(s, d.Overrides)
	if err != nil {
		return api.Run{}, nil, err
	}
	if err := checkRun(run); err != nil {
		return api.Run{}, nil, err
	}
	if d.Port < 0 || d.Port > 65535 {
		return api.Run{}, nil, invalidf("", "%d is not a port", d.Port)
	}
	env := map[string]string{}
	maps.Copy(env, s.Env)
	maps.Copy(env, d.Env)
	if size := sizeOf(run, env); size > maxWorkload {
		return api.Run{}, nil, invalidf("put what is long into a file, and name that",
			"the command and the environment variables have %d bytes together, and may have %d", size, maxWorkload)
	}
	return run, env, checkEnv(env)
}

// checkEnv refuses variables that no instance could have.
func checkEnv(env map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !api.IsVariable(name) {
			return invalidf("use letters, digits and _", "%q cannot be the name of an environment variable", name)
		}
		if strings.Contains(env[name], "\x00") {
			return invalidf("", "the value of the environment variable %s has a NUL byte", name)
		}
		if unknown := api.UnknownPlaceholders(env[name]); len(unknown) > 0 {
			return invalidf("known are "+strings.Join(api.Placeholders(), ", "),
				"the environment variable %s has the unknown placeholder %s", name, unknown[0])
		}
	}
	return nil
}

// maxWorkload bounds the command and the environment variables of a version, in
// bytes: each generation that is kept has its own.
const maxWorkload = 128 << 10

func sizeOf(r api.Run, env map[string]string) int {
	var words []string
	switch {
	case r.Process != nil:
		words = append([]string{r.Process.Dir}, r.Process.Command...)
	case r.Docker != nil:
		words = append([]string{r.Docker.Image}, r.Docker.Command...)
	case r.ECS != nil:
		words = append([]string{r.ECS.Image}, r.ECS.Command...)
	case r.External != nil:
		words = []string{r.External.URL}
	}
	size := 0
	for _, word := range words {
		size += len(word)
	}
	for name, value := range env {
		size += len(name) + len(value)
	}
	return size
}

// override replaces in the template what the overrides name.
func override(s api.Service, o api.Overrides) (api.Run, error) {
	given := 0
	for _, set := range []bool{o.Image != "", len(o.Command) > 0, o.URL != "", o.Adopt} {
		if set {
			given++
		}
	}
	if given > 1 {
		return api.Run{}, invalidf("give one of them", "image, command, url and adopt exclude each other")
	}
	t := s.Run
	switch {
	case o.Adopt && (t.ECS == nil || t.ECS.Service == ""):
		return api.Run{}, invalidf("set run.ecs.service of the service, or give the url of what is there already",
			"service %s names no ECS service that could be adopted", s.Name)
	case o.Adopt: // what the template says of the tasks that Layover runs, is not of those that are there
		e := *t.ECS
		e.Image, e.Command, e.Mode, e.CPU, e.Memory = "", nil, "", 0, 0
		e.Adopt, e.Port = true, cmp.Or(o.Port, e.Port)
		return api.Run{ECS: &e}, nil
	case o.Image != "" && t.ECS != nil:
		e := *t.ECS
		e.Image, e.Adopt, e.Port = o.Image, false, cmp.Or(o.Port, e.Port)
		return api.Run{ECS: &e}, nil
	case o.Image != "":
		d := deref(t.Docker)
		d.Image, d.Port = o.Image, cmp.Or(o.Port, d.Port)
		return api.Run{Docker: &d}, nil
	case len(o.Command) > 0:
		p := deref(t.Process)
		p.Command, p.Dir = o.Command, cmp.Or(o.Dir, p.Dir)
		return api.Run{Process: &p}, nil
	case o.URL != "":
		e := deref(t.External)
		e.URL = o.URL
		return api.Run{External: &e}, nil
	case t.Process != nil:
		p := *t.Process
		p.Dir = cmp.Or(o.Dir, p.Dir)
		return api.Run{Process: &p}, nil
	case t.Docker != nil:
		d := *t.Docker
		d.Port = cmp.Or(o.Port, d.Port)
		return api.Run{Docker: &d}, nil
	case t.ECS != nil:
		e := *t.ECS
		e.Port = cmp.Or(o.Port, e.Port)
		return api.Run{ECS: &e}, nil
	case t.External != nil:
		return t, nil
	}
	return api.Run{}, invalidf("give an image, a command or a URL, or a run block in layover.yaml",
		"service %s has no template to run a version from", s.Name)
}

// deref copies what p points to, or gives the zero value.
func deref[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// checkRun refuses what no runtime could run.
func checkRun(r api.Run) error {
	switch {
	case r.Process != nil:
		if len(r.Process.Command) == 0 || r.Process.Command[0] == "" {
			return invalidf("", "the command is empty")
		}
		if r.Process.Dir != "" && !filepath.IsAbs(r.Process.Dir) {
			return invalidf("the server does not know what it is relative to", "the directory %q is not absolute", r.Process.Dir)
		}
		return checkPlaceholders("command", r.Process.Command...)
	case r.Docker != nil:
		if r.Docker.Image == "" {
			return invalidf("", "the image is empty")
		}
		if p := r.Docker.Port; p < 0 || p > 65535 {
			return invalidf("", "%d is not a port", p)
		}
		if err := checkPlaceholders("image or command", append([]string{r.Docker.Image}, r.Docker.Command...)...); err != nil {
			return err
		}
		return checkImage(r.Docker.Image)
	case r.ECS != nil:
		return checkECS(*r.ECS)
	case r.External != nil:
		u, err := url.Parse(r.External.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return invalidf("it should look like http://cart.internal:8080", "%q is not the URL of a service", r.External.URL)
		}
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return invalidf("", "the URL %s may have a host and a port, nothing else", u.Redacted())
		}
		return nil
	}
	return invalidf("", "nothing says how to run it")
}

// checkECS refuses what no task could be.
func checkECS(e api.ECS) error {
	switch {
	case e.Service == "" && e.TaskDefinition == "":
		return invalidf("set service, to an ECS service that runs already, or task_definition", "nothing says which task definition is the template")
	case e.Adopt && e.Service == "":
		return invalidf("set service", "only an ECS service can be adopted, and none is named")
	case e.Port < 0 || e.Port > 65535:
		return invalidf("", "%d is not a port", e.Port)
	case e.CPU < 0 || e.Memory < 0:
		return invalidf("", "cpu and memory are not negative")
	case e.LaunchType != "" && len(e.Capacity) > 0:
		return invalidf("keep one of them", "launch_type and capacity_providers exclude each other")
	case len(e.Subnets) == 0 && (len(e.SecurityGroups) > 0 || e.PublicIP):
		return invalidf("set subnets as well", "security_groups and public_ip are of the network that subnets name")
	}
	if err := checkPlaceholders("service, image or command", append([]string{e.Service, e.TaskDefinition, e.Image}, e.Command...)...); err != nil {
		return err
	}
	if e.Image == "" {
		return nil
	}
	return checkImage(e.Image)
}

// checkImage refuses what can be no image, whatever its placeholders stand for.
func checkImage(image string) error {
	values := map[string]string{}
	for _, word := range api.Placeholders() {
		values[word] = "0"
	}
	if _, err := reference.ParseNormalizedNamed(api.FillPlaceholders(image, values)); err != nil {
		return invalidf("write it like registry.example.com/cart:1.2", "%q is not an image reference: %v", image, err)
	}
	return nil
}

// checkProxy refuses what is to be told the address of the proxy, where that runs apart and
// nobody said where it is.
func (c *Control) checkProxy(key Key, run api.Run, env map[string]string) error {
	name := run.Runtime()
	if c.opts.DataPlane != nil || c.opts.ProxyAddress[name] != "" || run.Adopted() {
		return nil
	}
	texts := slices.Collect(maps.Values(env))
	if run.Process != nil {
		texts = append(texts, run.Process.Dir)
		texts = append(texts, run.Process.Command...)
	}
	if run.Docker != nil {
		texts = append(texts, run.Docker.Image)
		texts = append(texts, run.Docker.Command...)
	}
	if run.ECS != nil {
		texts = append(texts, run.ECS.Command...)
	}
	const unset = "\x00"
	for _, text := range texts {
		if strings.Contains(api.FillPlaceholders(text, map[string]string{"proxy": unset}), unset) {
			hint := "set proxy.address or LAYOVER_PROXY_ADDRESS of the server to the host:port of a proxy"
			if run.Docker != nil || run.ECS != nil {
				hint += "; containers need its IP address, and not a loopback one"
			}
			return invalidf(hint, "%s uses {proxy}, and this server does not know where instances of the runtime %s reach the proxy", key, name)
		}
	}
	return nil
}

func checkPlaceholders(what string, texts ...string) error {
	for _, text := range texts {
		if unknown := api.UnknownPlaceholders(text); len(unknown) > 0 {
			return invalidf("known are "+strings.Join(api.Placeholders(), ", "),
				"the %s has the unknown placeholder %s", what, unknown[0])
		}
	}
	return nil
}

// workload fills in everything but {port}, which the runtime knows.
func (c *Control) workload(key Key, g *Generation, id string) Workload {
	values := c.placeholders(key, g.Run)
	w := Workload{
		ID:          id,
		Environment: c.opts.Environment,
		Service:     key.Service,
		Version:     key.Version,
		Generation:  g.Number,
		Owner:       g.Deployment.Owner,
		Run:         fillRun(g.Run, values),
		Grace:       c.grace(key.Service),
		Port:        g.Deployment.Port,
		Env:         map[string]string{},
		Hosts:       c.exactHosts(),
	}
	for name, value := range g.Env {
		w.Env[name] = api.FillPlaceholders(value, values)
	}
	maps.Copy(w.Env, g.Outputs)
	standard := map[string]string{
		"LAYOVER_SERVICE": key.Service,
		"LAYOVER_VERSION": key.Version,
		"LAYOVER_ID":      key.identifier(),
	}
	for name, value := range standard {
		if w.Env[name] == "" {
			w.Env[name] = value
		}
	}
	c.setTelemetryEnv(&w, g.Deployment.Origin, g.Run.Runtime())
	return w
}

// placeholders returns what the placeholders of a version stand for, but for {port}.
func (c *Control) placeholders(key Key, run api.Run) map[string]string {
	return map[string]string{
		"service": key.Service,
		"version": key.Version,
		"route":   key.Version,
		"proxy":   c.opts.ProxyAddress[run.Runtime()],
	}
}

func fillRun(r api.Run, values map[string]string) api.Run {
	fill := func(texts []string) []string {
		out := make([]string, len(texts))
		for i, t := range texts {
			out[i] = api.FillPlaceholders(t, values)
		}
		return out
	}
	switch {
	case r.Process != nil:
		p := *r.Process
		p.Command, p.Dir = fill(p.Command), api.FillPlaceholders(p.Dir, values)
		r.Process = &p
	case r.Docker != nil:
		d := *r.Docker
		d.Image = api.FillPlaceholders(d.Image, values)
		if len(d.Command) > 0 {
			d.Command = fill(d.Command)
		}
		r.Docker = &d
	case r.ECS != nil:
		e := *r.ECS
		e.Service, e.TaskDefinition = api.FillPlaceholders(e.Service, values), api.FillPlaceholders(e.TaskDefinition, values)
		e.Image = api.FillPlaceholders(e.Image, values)
		if len(e.Command) > 0 {
			e.Command = fill(e.Command)
		}
		r.ECS = &e
	}
	return r
}

// exactHosts returns every host of the environment that is not a pattern.
func (c *Control) exactHosts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var hosts []string
	for _, s := range c.services {
		for _, h := range s.Hosts {
			if !strings.HasPrefix(h, "*") {
				hosts = append(hosts, h)
			}
		}
	}
	slices.Sort(hosts)
	return hosts
}

// Runs returns how the instances of all services and versions are run by one runtime, as templates and as they are:
// where it runs them, it may have some.
func (c *Control) Runs(runtime string) []api.Run {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []api.Run
	for _, s := range c.services {
		if s.Run.Runtime() == runtime {
			out = append(out, s.Run)
		}
	}
	for _, r := range c.records {
		for _, g := range r.Generations {
			if g.Run.Runtime() == runtime {
				out = append(out, g.Run)
			}
		}
	}
	return out
}
