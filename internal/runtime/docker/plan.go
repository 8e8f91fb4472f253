package docker

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	defaultPort    = 8080
	defaultNetwork = "bridge"
	defaultPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" // the Engine's own

	// A log stays readable through the Engine and never fills the disk.
	logDriver   = "json-file"
	logMaxFiles = 3
)

// The policies of api.Docker.Pull.
const (
	pullMissing = "missing"
	pullAlways  = "always"
	pullNever   = "never"
)

// plan is a workload in the Engine's terms.
type plan struct {
	name   string
	image  reference.Named
	config *container.Config
	host   *container.HostConfig
}

// plan checks w and turns it into what the Engine is asked for.
func (r *Runtime) plan(w control.Workload) (plan, error) {
	spec := w.Run.Docker
	if spec == nil {
		return plan{}, fmt.Errorf("start %s: it is not to run as a container", w.ID)
	}
	if !containerName.MatchString(w.ID) {
		return plan{}, invalid("use letters, digits, '.', '_' and '-'", "instance id %q cannot be part of a container name", w.ID)
	}
	image, err := parseImage(spec.Image)
	if err != nil {
		return plan{}, err
	}
	switch spec.Pull {
	case "", pullMissing, pullAlways, pullNever:
	default:
		return plan{}, invalid("use missing, always or never", "pull policy %q is unknown", spec.Pull)
	}
	resources, err := resources(spec)
	if err != nil {
		return plan{}, err
	}
	number := cmp.Or(w.Port, spec.Port, defaultPort)
	port, err := network.ParsePort(strconv.Itoa(number))
	if err != nil || number < 1 {
		return plan{}, invalid("use a port from 1 to 65535", "port %d cannot be listened on", number)
	}
	env, err := environ(w.Env, number)
	if err != nil {
		return plan{}, err
	}
	withInit := true
	return plan{
		name:  r.name(w.ID),
		image: image,
		config: &container.Config{
			Image:        spec.Image, // as written: the Engine also knows images by their id
			Cmd:          fillPort(spec.Command, number),
			Env:          env,
			ExposedPorts: network.PortSet{port: {}},
			Labels: map[string]string{
				LabelEnvironment: r.environment,
				LabelService:     w.Service,
				LabelVersion:     w.Version,
				LabelGeneration:  strconv.FormatInt(w.Generation, 10),
				LabelID:          w.ID,
			},
		},
		host: &container.HostConfig{
			NetworkMode: container.NetworkMode(r.network),
			// No host port: the Engine picks a free one. Loopback, because only the proxy calls it.
			PortBindings:  network.PortMap{port: {{HostIP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}}},
			ExtraHosts:    r.extraHosts(w.Hosts),
			LogConfig:     r.logConfig(),
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled}, // the control plane restarts
			SecurityOpt:   []string{"no-new-privileges"},
			Init:          &withInit,
			Resources:     resources,
		},
	}, nil
}

// logConfig has the Engine keep a log within the bound.
func (r *Runtime) logConfig() container.LogConfig {
	return container.LogConfig{Type: logDriver, Config: map[string]string{
		"max-size": strconv.FormatInt(max(r.logBytes/logMaxFiles, 1), 10),
		"max-file": strconv.Itoa(logMaxFiles),
	}}
}

func parseImage(name string) (reference.Named, error) {
	if name == "" {
		return nil, invalid("set image, for example registry.example.com/cart:1.4", "no image is given")
	}
	image, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, invalid("an image is named like cart:1.4 or registry.example.com/team/cart:1.4", "%q is not the name of an image: %v", name, err)
	}
	return reference.TagNameOnly(image), nil
}

func resources(spec *api.Docker) (container.Resources, error) {
	var limits container.Resources
	if spec.Memory != "" {
		bytes, err := units.RAMInBytes(spec.Memory)
		if err != nil || bytes <= 0 {
			return limits, invalid("write a number and a unit, for example 256m or 1g", "memory limit %q is not a size", spec.Memory)
		}
		limits.Memory = bytes
		limits.MemorySwap = bytes // memory and swap together: no swap
	}
	if spec.CPUs < 0 {
		return limits, invalid("use a number of cores such as 0.5 or 2", "CPU limit %v is negative", spec.CPUs)
	}
	limits.NanoCPUs = int64(spec.CPUs * 1e9)
	return limits, nil
}

// environ returns the variables as the Engine wants them, sorted. PORT is always
// the port that is published.
func environ(env map[string]string, port int) ([]string, error) {
	out := make([]string, 0, len(env)+1)
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, invalid("names hold no '=', values no NUL byte", "environment variable %q cannot be set", name)
		}
		if name != "PORT" {
			out = append(out, name+"="+strings.ReplaceAll(value, "{port}", strconv.Itoa(port)))
		}
	}
	slices.Sort(out)
	return append(out, "PORT="+strconv.Itoa(port)), nil
}

func fillPort(command []string, port int) []string {
	out := make([]string, 0, len(command))
	for _, arg := range command {
		out = append(out, strings.ReplaceAll(arg, "{port}", strconv.Itoa(port)))
	}
	return out
}

// extraHosts maps the hosts to the proxy. The name localhost stays the container itself.
func (r *Runtime) extraHosts(hosts []string) []string {
	hosts = slices.Clone(hosts)
	slices.Sort(hosts)
	var out []string
	for _, host := range slices.Compact(hosts) {
		if host != "" && host != "localhost" && !strings.Contains(host, "*") {
			out = append(out, host+":"+r.proxy)
		}
	}
	return out
}

// checkCommand says whether the program the container is to run is in its image.
// With docker-init as first process the Engine itself would start such a container,
// and it would end with the code 127.
func (r *Runtime) checkCommand(ctx context.Context, id string, p plan) error {
	created, err := r.inspect(ctx, id)
	if err != nil {
		return err
	}
	if created.Path == "" || created.Platform == "windows" {
		return nil
	}
	for _, candidate := range candidates(created) {
		call, cancel := context.WithTimeout(ctx, r.queryTimeout)
		found, err := r.engine.ContainerStatPath(call, id, client.ContainerStatPathOptions{Path: candidate})
		cancel()
		switch {
		case cerrdefs.IsNotFound(err):
			continue
		case err != nil:
			return err
		case found.Stat.Mode.IsDir(), found.Stat.Mode.IsRegular() && found.Stat.Mode&0o111 == 0:
			return invalid("make it executable in the image", "%s in image %s is no program", candidate, p.config.Image)
		case found.Stat.Mode.IsRegular(), found.Stat.Mode&fs.ModeSymlink != 0:
			return nil
		}
	}
	return invalid("name a program of the image, with its full path", "image %s has no command %q", p.config.Image, created.Path)
}

// candidates returns where in its image the program of a container may be, in the order of search.
func candidates(c container.InspectResponse) []string {
	if strings.Contains(c.Path, "/") {
		if path.IsAbs(c.Path) {
			return []string{c.Path}
		}
		return []string{path.Join("/", c.Config.WorkingDir, c.Path)}
	}
	search := defaultPath
	for _, entry := range c.Config.Env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			search = value
		}
	}
	var out []string
	for dir := range strings.SplitSeq(search, ":") {
		out = append(out, path.Join("/", dir, c.Path))
	}
	return out
}
