//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Ports are picked below those that kernels give to outgoing connections (from
// 32768 on Linux, 49152 elsewhere), so that no connection takes one before the instance listens.
const (
	lowestPort  = 18_000
	highestPort = 32_000
)

// ports are the ports of the instances, so that two that start at the same time
// do not get the same. The zero value has none.
type ports struct {
	mu    sync.Mutex
	owner map[int]string // instance, by port
}

// pick reserves a port for an instance: the fixed one, or a free one where fixed is 0.
func (p *ports) pick(ctx context.Context, id string, fixed int) (int, error) {
	p.release(id)
	if fixed != 0 {
		if err := tryPort(ctx, fixed); err != nil {
			return 0, portError(id, fixed, err)
		}
		p.reserve(fixed, id)
		return fixed, nil
	}
	var err error
	for range 200 {
		port := lowestPort + rand.IntN(highestPort-lowestPort) //nolint:gosec // not a secret
		if !p.reserve(port, id) {
			continue
		}
		if err = tryPort(ctx, port); err == nil {
			return port, nil
		}
		p.release(id)
	}
	return 0, &control.Error{
		Code: api.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("no free port for %s between %d and %d", id, lowestPort, highestPort),
		Hint:    "stop versions that nobody uses",
	}
}

// reserve notes the port of an instance, unless another instance has it.
func (p *ports) reserve(port int, id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if owner, taken := p.owner[port]; taken && owner != id {
		return false
	}
	if p.owner == nil {
		p.owner = map[int]string{}
	}
	p.owner[port] = id
	return true
}

// release forgets the port of an instance.
func (p *ports) release(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.owner, func(_ int, owner string) bool { return owner == id })
}

// tryPort says whether a port can be listened on, by every address that an app may choose.
func tryPort(ctx context.Context, port int) error {
	var config net.ListenConfig
	for _, host := range []string{"127.0.0.1", "::1"} {
		listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			if host == "::1" && !errors.Is(err, syscall.EADDRINUSE) {
				continue // a machine without IPv6
			}
			return err
		}
		if err := listener.Close(); err != nil {
			return err
		}
	}
	return nil
}

func portError(id string, port int, err error) error {
	told := &control.Error{Code: api.CodeInvalid, Err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		told.Code = api.CodeConflict
		told.Message = fmt.Sprintf("port %d, which %s asks for, is in use", port, id)
		told.Hint = fmt.Sprintf("stop what listens there (ss -ltnp 'sport = :%d'), or leave the port out to get a free one in PORT", port)
	case errors.Is(err, syscall.EACCES):
		told.Message = fmt.Sprintf("port %d, which %s asks for, may not be used by the server's user", port, id)
		told.Hint = "use a port from 1024 on, or leave the port out to get a free one in PORT"
	case slices.ContainsFunc([]error{context.Canceled, context.DeadlineExceeded}, func(end error) bool { return errors.Is(err, end) }):
		return fmt.Errorf("start %s: %w", id, err)
	default:
		told.Message = fmt.Sprintf("port %d, which %s asks for, cannot be used: %v", port, id, err)
		told.Hint = "leave the port out to get a free one in PORT"
	}
	return told
}
