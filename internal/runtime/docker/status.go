package docker

import (
	"context"
	"net"
	"strconv"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	inspectsAtOnce  = 8
	unknownExitCode = -1
	neverStarted    = "never started: the server ended while it was starting it"
)

// known is what no list says of a container, and what stays so while it runs.
type known struct {
	startedAt time.Time
	from      string // see control.Address
	images    []api.Image
}

// List returns the status of every container of the environment; see
// [control.Runtime]. A container that was created and never started, because the
// server ended in between, is listed as not running.
func (r *Runtime) List(ctx context.Context) ([]control.Status, error) {
	call, cancel := context.WithTimeout(ctx, r.queryTimeout)
	defer cancel()
	listed, err := r.engine.ContainerList(call, client.ContainerListOptions{All: true, Filters: r.filter()})
	if err != nil {
		return nil, r.fail(ctx, "list the containers of environment "+r.environment, err)
	}
	statuses := make([]control.Status, len(listed.Items))
	gone := make([]bool, len(listed.Items))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(inspectsAtOnce)
	for i, summary := range listed.Items {
		if status, ok := r.statusFromSummary(summary); ok {
			statuses[i] = status
			continue
		}
		group.Go(func() error {
			found, err := r.inspect(groupCtx, summary.ID)
			if cerrdefs.IsNotFound(err) { // removed since it was listed
				gone[i] = true
				return nil
			}
			if err == nil {
				statuses[i] = r.statusOf(found)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, r.fail(ctx, "list the containers of environment "+r.environment, err)
	}
	r.forgetAllBut(listed.Items)
	out := statuses[:0]
	for i, status := range statuses {
		if !gone[i] {
			out = append(out, status)
		}
	}
	return out, nil
}

// filter selects the containers of the environment.
func (r *Runtime) filter() client.Filters {
	return client.Filters{}.Add("label", LabelEnvironment+"="+r.environment)
}

// statusFromSummary returns the status of a container that runs, and whether all
// that takes is known: a list says everything but what was inspected once.
func (r *Runtime) statusFromSummary(c container.Summary) (control.Status, bool) {
	r.mu.Lock()
	of, ok := r.known[c.ID]
	r.mu.Unlock()
	if c.State != container.StateRunning || !ok {
		return control.Status{}, false
	}
	status := labelled(c.Labels)
	status.Running, status.StartedAt, status.Images = true, of.startedAt, of.images
	for _, port := range c.Ports {
		if port.PublicPort != 0 && port.Type == string(network.TCP) {
			status.Addresses = append(status.Addresses, control.Address{
				HostPort: net.JoinHostPort(port.IP.String(), strconv.Itoa(int(port.PublicPort))), From: of.from,
			})
		}
	}
	return status, true
}

// statusOf returns the status of an inspected container, and remembers when it was started.
func (r *Runtime) statusOf(c container.InspectResponse) control.Status {
	status := labelled(c.Config.Labels)
	status.StartedAt = parseTime(c.State.StartedAt)
	r.mu.Lock()
	of := known{startedAt: status.StartedAt, from: ownAddress(c.NetworkSettings), images: []api.Image{{
		Name: c.Config.Image, Digest: c.Image, Commit: control.CommitOf(c.Config.Labels), Copies: 1,
	}}}
	if running(c.State) {
		r.known[c.ID] = of
	} else {
		delete(r.known, c.ID)
	}
	r.mu.Unlock()

	if running(c.State) {
		status.Running, status.Images = true, of.images
		if c.NetworkSettings != nil {
			status.Addresses = published(c.NetworkSettings.Ports, of.from)
		}
		return status
	}
	status.ExitCode = c.State.ExitCode
	switch {
	case c.State.Status == container.StateCreated:
		status.ExitCode = unknownExitCode
		status.Reason = neverStarted
	case c.State.OOMKilled:
		status.Reason = outOfMemory(c.HostConfig.Memory)
	case c.State.Error != "":
		status.Reason = c.State.Error
	}
	return status
}

// forgetAllBut drops what is remembered of containers that are not in listed.
func (r *Runtime) forgetAllBut(listed []container.Summary) {
	there := make(map[string]bool, len(listed))
	for _, c := range listed {
		there[c.ID] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.known {
		if !there[id] {
			delete(r.known, id)
		}
	}
}

// running says whether a container has a living process. A paused one has.
func running(state *container.State) bool { return state.Running && !state.Restarting && !state.Dead }

// published returns where the published ports are reached on the Engine's machine.
func published(ports network.PortMap, from string) []control.Address {
	var out []control.Address
	for _, bindings := range ports {
		for _, binding := range bindings {
			out = append(out, control.Address{HostPort: net.JoinHostPort(binding.HostIP.String(), binding.HostPort), From: from})
		}
	}
	return out
}

// ownAddress is the address that calls of a container come from: its own in the network that it is in. In none, or
// several, that is not known.
func ownAddress(settings *container.NetworkSettings) string {
	if settings == nil || len(settings.Networks) != 1 {
		return ""
	}
	for _, in := range settings.Networks {
		if in != nil && in.IPAddress.IsValid() {
			return in.IPAddress.String()
		}
	}
	return ""
}

// labelled returns a status with what the labels of a container say.
func labelled(labels map[string]string) control.Status {
	generation, _ := strconv.ParseInt(labels[LabelGeneration], 10, 64) // 0 where somebody changed it
	return control.Status{
		ID:         labels[LabelID],
		Service:    labels[LabelService],
		Version:    labels[LabelVersion],
		Generation: generation,
	}
}

func outOfMemory(limit int64) string {
	if limit <= 0 {
		return "killed: out of memory (it has no limit of its own: the machine ran out)"
	}
	size := units.CustomSize("%.4g %s", float64(limit), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"})
	return "killed: out of memory (limit " + size + ")"
}

// parseTime reads a time of the Engine, which writes the year 1 for "never".
func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}
