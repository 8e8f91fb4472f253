package config

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// FromCompose makes a layover.yaml from the compose file at name: each service that
// listens on a port becomes one that runs in Docker. The result loads without
// problems. The notes say what was left out and what is left to do.
//
// Variables of the caller's environment and env files are not read, so that no
// secret gets into the result.
func FromCompose(name string) ([]byte, []string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, nil, fmt.Errorf("find the folder of %s: %w", name, err)
	}
	unset := map[string]bool{}
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  filepath.Dir(abs),
		ConfigFiles: []types.ConfigFile{{Filename: abs}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) {
		o.SetProjectName(cmp.Or(loader.NormalizeProjectName(filepath.Base(filepath.Dir(abs))), "compose"), false)
		o.SkipResolveEnvironment = true
		o.Profiles = []string{"*"}
		if o.Interpolate != nil {
			o.Interpolate.LookupValue = func(variable string) (string, bool) {
				unset[variable] = true
				return "", false
			}
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	c := &composer{project: project, names: map[string]bool{}}
	for _, variable := range slices.Sorted(maps.Keys(unset)) {
		c.notef("the variable %s of the compose file was taken as not set", variable)
	}
	text := c.file(filepath.Base(name))
	if _, err := Parse(FileName, text); err != nil {
		return nil, nil, fmt.Errorf("turn %s into a layover.yaml: %w", name, err)
	}
	return text, c.notes, nil
}

// composer writes a layover.yaml from a compose project.
type composer struct {
	project *types.Project
	names   map[string]bool // service names given away
	ports   []string        // that services listen on
	out     strings.Builder
	notes   []string
}

func (c *composer) notef(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// linef writes a line of YAML.
func (c *composer) linef(format string, args ...any) { fmt.Fprintf(&c.out, format+"\n", args...) }

func (c *composer) file(from string) []byte {
	services := slices.Sorted(maps.Keys(c.project.Services))
	for _, name := range services {
		c.service(c.project.Services[name])
	}
	body := c.out.String()
	c.out.Reset()
	c.linef("# Made from %s. Check it with: layover validate", quote(from))
	c.linef("environment: %s", quote(route.NameOf(c.project.Name)))
	c.linef("")
	c.linef("proxy:\n  listen:\n    - 127.0.0.1:8080")
	if len(c.ports) > 0 {
		c.linef("    # Containers reach the proxy at the ports of the services they call.")
	}
	for _, port := range c.ports {
		c.linef("    - docker:%s", port)
	}
	c.linef("\nservices:")
	c.out.WriteString(body)
	return []byte(c.out.String())
}

func (c *composer) service(s types.ServiceConfig) {
	name := route.NameOf(s.Name)
	image := s.Image
	if image == "" && s.Build != nil {
		image = c.project.Name + "-" + s.Name
	}
	port := servicePort(s)
	reason := ""
	switch {
	case isBackend(s.Image):
		reason = "it is a database or a broker, and not spoken to with HTTP; keep it running with: docker compose up -d " + s.Name
	case port == "":
		reason = "it has no ports; if it serves HTTP, add ports or expose to it"
	case image == "":
		reason = "it has neither an image nor a build"
	case !isImage(image):
		reason = fmt.Sprintf("%q is not an image reference", image)
	case c.names[name]:
		reason = "another service has the same name but for its case"
	}
	if reason != "" {
		c.notef("%s is left out: %s", s.Name, reason)
		c.linef("  # %s is left out: %s", s.Name, comment(reason))
		return
	}
	c.names[name] = true
	if !slices.Contains(c.ports, port) {
		c.ports = append(c.ports, port)
	}
	if s.Image == "" || s.Build != nil {
		c.notef("%s is built from source; build its image first with: docker compose build %s", s.Name, s.Name)
	}
	c.leftOut(s)
	c.linef("  %s:", name)
	c.hosts(name, strings.ToLower(s.Name))
	c.health(s)
	c.run(s, image, port)
	c.env(s)
	if s.StopGracePeriod != nil && *s.StopGracePeriod > 0 {
		c.linef("    grace: %s", api.Duration(*s.StopGracePeriod))
	}
}

// hosts writes the hosts of a service: the one that Compose gives it, so that
// other services reach it without change, and the one for browsers.
func (c *composer) hosts(name, composeHost string) {
	public := name + "." + route.DefaultDomain
	if _, message := hostProblem(composeHost, false); message != "" || c.names["host "+composeHost] {
		return
	}
	c.names["host "+composeHost] = true
	c.linef("    hosts: [%s, %s]", quote(composeHost), quote(public))
}

func (c *composer) run(s types.ServiceConfig, image, port string) {
	c.linef("    run:\n      docker:\n        image: %s", quote(image))
	if command := []string(s.Command); len(command) > 0 {
		if words := strings.Join(command, " "); command[0] == "" || len(api.UnknownPlaceholders(words)) > 0 {
			c.notef("%s: its command is left out, it has braces that look like a placeholder: %s", s.Name, words)
		} else {
			quoted := make([]string, len(command))
			for i, word := range command {
				quoted[i] = quote(word)
			}
			c.linef("        command: [%s]", strings.Join(quoted, ", "))
		}
	}
	c.linef("        port: %s", port)
	memory, cpus := s.MemLimit, float64(s.CPUS)
	if s.Deploy != nil && s.Deploy.Resources.Limits != nil {
		limits := s.Deploy.Resources.Limits
		memory = cmp.Or(memory, limits.MemoryBytes)
		cpus = cmp.Or(cpus, float64(limits.NanoCPUs))
	}
	if memory >= minMemory {
		c.linef("        memory: %dk", int64(memory)/1024)
	}
	if cpus > 0 {
		c.linef("        cpus: %s", strconv.FormatFloat(cpus, 'f', -1, 32))
	}
	if slices.Contains([]string{"always", "never", "missing"}, s.PullPolicy) {
		c.linef("        pull: %s", s.PullPolicy)
	}
}

func (c *composer) env(s types.ServiceConfig) {
	written := false
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		value := s.Environment[name]
		switch {
		case !api.IsVariable(name):
			c.notef("%s: the variable %q is left out, its name has unusual characters", s.Name, name)
			continue
		case value == nil:
			c.notef("%s: the variable %s is left out, Compose takes its value from your shell", s.Name, name)
			continue
		case len(api.UnknownPlaceholders(*value)) > 0:
			c.notef("%s: the variable %s is left out, it has braces that look like a placeholder", s.Name, name)
			continue
		}
		if !written {
			c.linef("    env:")
			written = true
		}
		c.linef("      %s: %s", name, quote(*value))
	}
	for _, file := range s.EnvFiles {
		c.notef("%s: the variables of %s are left out; add those it needs under env", s.Name, filepath.Base(file.Path))
	}
}

// leftOut notes the parts of a service that have no counterpart.
func (c *composer) leftOut(s types.ServiceConfig) {
	for _, part := range []struct {
		name string
		set  bool
	}{
		{"entrypoint", len(s.Entrypoint) > 0},
		{"volumes", len(s.Volumes) > 0 || len(s.VolumesFrom) > 0 || len(s.Tmpfs) > 0},
		{"secrets and configs", len(s.Secrets) > 0 || len(s.Configs) > 0},
		{"user", s.User != ""},
		{"working_dir", s.WorkingDir != ""},
		{"privileges and devices", s.Privileged || len(s.CapAdd) > 0 || len(s.Devices) > 0},
		{"network_mode", s.NetworkMode != ""},
		{"extra_hosts", len(s.ExtraHosts) > 0},
	} {
		if part.set {
			c.notef("%s: %s left out, Layover has no setting for it", s.Name, part.name)
		}
	}
}

// health writes the check of a service, where it asks for a path over HTTP.
func (c *composer) health(s types.ServiceConfig) {
	if s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) == 0 || s.HealthCheck.Test[0] == "NONE" {
		return
	}
	found := healthURL().FindStringSubmatch(strings.Join(s.HealthCheck.Test, " "))
	if found == nil {
		c.notef("%s: its health check is left out, it asks for no path over HTTP; an instance counts as healthy when it accepts connections", s.Name)
		return
	}
	c.linef("    health:\n      path: %s", quote(cmp.Or(found[1], "/")))
	for _, timing := range []struct {
		key   string
		value *types.Duration
	}{{"interval", s.HealthCheck.Interval}, {"timeout", s.HealthCheck.Timeout}} {
		if timing.value != nil && *timing.value > 0 {
			c.linef("      %s: %s", timing.key, api.Duration(*timing.value))
		}
	}
	if retries := s.HealthCheck.Retries; retries != nil && *retries > 0 && *retries <= 100 {
		c.linef("      failures: %d", *retries)
	}
}

// healthURL matches a URL in the command of a health check, and its path.
func healthURL() *regexp.Regexp {
	return regexp.MustCompile(`https?://[A-Za-z0-9._-]+(?::[0-9]+)?(/[A-Za-z0-9._~/?=&%-]*)?`)
}

// servicePort returns the port that a service listens on, "" where it names none.
func servicePort(s types.ServiceConfig) string {
	for _, p := range s.Ports {
		if p.Target > 0 && p.Target <= 65535 && (p.Protocol == "" || p.Protocol == "tcp") {
			return strconv.FormatUint(uint64(p.Target), 10)
		}
	}
	for _, p := range s.Expose {
		number, protocol, _ := strings.Cut(p, "/")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 && (protocol == "" || protocol == "tcp") {
			return strconv.FormatUint(n, 10)
		}
	}
	return ""
}

// isBackend says whether an image is one of the well-known databases and brokers.
func isBackend(image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	parts := strings.Split(reference.Path(named), "/")
	base := parts[len(parts)-1]
	for _, known := range []string{
		"activemq", "cassandra", "clickhouse", "cockroach", "couchbase", "couchdb", "elasticsearch", "etcd", "influxdb",
		"kafka", "keydb", "mariadb", "memcached", "minio", "mongo", "mssql", "mysql", "nats", "neo4j", "opensearch",
		"percona", "pgvector", "postgis", "postgres", "postgresql", "pulsar", "rabbitmq", "redis", "redpanda",
		"scylla", "timescaledb", "valkey", "zookeeper",
	} {
		if base == known || strings.HasPrefix(base, known+"-") || base == "cp-"+known {
			return true
		}
	}
	return false
}

func isImage(image string) bool {
	_, err := reference.ParseNormalizedNamed(image)
	return err == nil
}

// quote writes s as a YAML value: plain where that cannot be misread.
func quote(s string) string {
	if regexp.MustCompile(`^[a-z/][A-Za-z0-9._/@-]*(:[A-Za-z0-9._/@-]+)*$`).MatchString(s) &&
		!slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s)) {
		return s
	}
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return strconv.Quote(s)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// comment keeps text on one line.
func comment(text string) string { return strings.Join(strings.Fields(text), " ") }
