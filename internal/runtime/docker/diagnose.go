package docker

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/sockets"
)

// Diagnose says what listens in the container of an instance, where the Engine runs on this
// machine and its processes may be looked at, and else what its image declares. See [control.Diagnoser].
func (r *Runtime) Diagnose(ctx context.Context, id string) (control.Facts, error) {
	found, err := r.find(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return control.Facts{}, control.ErrNoInstance
	}
	if err != nil {
		return control.Facts{}, r.fail(ctx, "look at container "+r.name(id), err)
	}
	facts := control.Facts{Apart: true}
	for port := range found.HostConfig.PortBindings {
		facts.Port = int(port.Num())
	}
	for port := range found.Config.ExposedPorts {
		if number := int(port.Num()); number != facts.Port {
			facts.Declared = append(facts.Declared, number)
		}
	}
	slices.Sort(facts.Declared)
	if listens, err := listening(found); err == nil {
		facts.Known, facts.Listens = true, listens
	}
	return facts, nil
}

// listening returns what listens in a container. The number of its first process is one of the
// Engine's machine: that it is of this one too, its control group proves, which bears the container's id.
func listening(c container.InspectResponse) ([]netip.AddrPort, error) {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.State.Pid))
	if err != nil {
		return nil, err
	}
	if c.ID == "" || !strings.Contains(string(groups), c.ID) {
		return nil, fmt.Errorf("process %d of this machine is not of container %s", c.State.Pid, c.ID)
	}
	found, err := sockets.Namespace(c.State.Pid)
	// The Engine's own DNS server listens in every container of a network that is not the default one.
	return slices.DeleteFunc(found, func(a netip.AddrPort) bool { return a.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 11}) }), err
}
