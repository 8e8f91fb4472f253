package ecstest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Runner runs the containers of tasks. Implementations are safe for concurrent use.
type Runner interface {
	// Start starts all containers of a task. It returns an [*ImageError] where an image is not there.
	Start(ctx context.Context, t TaskSpec) (Running, error)
	// Close ends what still runs.
	Close() error
}

// TaskSpec is a task to run.
type TaskSpec struct {
	ID          string // unique
	NetworkMode string // awsvpc, bridge or host
	Containers  []ContainerSpec
}

// ContainerSpec is one container of a task.
type ContainerSpec struct {
	Name        string
	Image       string
	EntryPoint  []string
	Command     []string
	Env         map[string]string
	Ports       []Port
	MemoryMiB   int
	StopTimeout time.Duration
	Essential   bool
	Log         func(at time.Time, line string) // gets every line of stdout and stderr
}

// Port is a port of a container, and which it is on the host.
type Port struct{ Container, Host int }

// Running is a task that was started.
type Running interface {
	Address() netip.Addr              // of the task's network interface, or of the host it is on
	Bindings(container string) []Port // where its ports are on the host; none for a task with a network interface
	Exited() <-chan Exit              // gets the end of each container; closed behind the last
	Stop()                            // SIGTERM, and SIGKILL after the stop time-out of each container; returns at once
}

// Exit is the end of a container.
type Exit struct {
	Container   string
	Code        int
	OutOfMemory bool
}

// ImageError says that an image cannot be had.
type ImageError struct{ Image string }

func (e *ImageError) Error() string { return fmt.Sprintf("no image %s", e.Image) }

// addresses gives addresses of 127.0.0.0/8, one after the other, and never one of 127.0.0.0/16. Each begins somewhere
// else: another process may have some as well.
type addresses struct{ next uint32 }

func (a *addresses) take() netip.Addr {
	if a.next == 0 {
		a.next = rand.Uint32() //nolint:gosec // an address is no secret
	}
	a.next++
	n := a.next % (250 * 256 * 250)
	return netip.AddrFrom4([4]byte{127, byte(1 + n/(256*250)%250), byte(n / 250 % 256), byte(1 + n%250)})
}
