package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// Diagnoser is a [Runtime] that can look at an instance that runs and does not answer.
// The sentences that people read are made here, from its facts.
type Diagnoser interface {
	// Diagnose returns what is known of an instance, [ErrNoInstance] where it is not there.
	Diagnose(ctx context.Context, id string) (Facts, error)
}

// Facts are what a runtime knows of an instance that runs.
type Facts struct {
	Port     int              // that it was told to listen on
	Known    bool             // Listens is all that there is
	Listens  []netip.AddrPort // where it listens
	Apart    bool             // it has a network of its own: nobody outside reaches its loopback
	Declared []int            // other ports that its image says it listens on, which may be wrong
}

const (
	diagnoseTimeout = 3 * time.Second // for the facts of an instance and of its paths
	maxPorts        = 5               // that a sentence names
)

// explainUnhealthy says in a sentence why an instance did not become healthy.
func (d *deployment) explainUnhealthy(ctx context.Context, s api.Service, inst *instance, timeout time.Duration, checks int) *Error {
	k := d.k
	k.c.mu.Lock()
	id, health, addresses := inst.ID, strings.TrimPrefix(inst.health, "unhealthy: "), slices.Clone(inst.Addresses)
	k.c.mu.Unlock()
	told := &Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf("not healthy after %s: %s", timeout, health),
		Hint:    healthHint(d.generation.Run),
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	if len(addresses) > 0 && healthKind(s.Health) == api.HealthHTTP {
		if explainPath(ctx, s, addresses[0], checks, told) {
			return told
		}
	}
	looker, ok := k.c.opts.Runtimes[d.generation.Run.Runtime()].(Diagnoser)
	if !ok {
		return told
	}
	if facts, err := looker.Diagnose(ctx, id); err == nil {
		if why, hint := explainPorts(facts); why != "" {
			told.Message, told.Hint = fmt.Sprintf("not healthy after %s: %s", timeout, why), hint
		}
	}
	return told
}

// explainPath asks once more for the health path, and where it has a bad answer, once for each of
// the paths that are usual. It says whether there was such an answer.
func explainPath(ctx context.Context, s api.Service, a Address, checks int, told *Error) bool {
	bad, ok := errors.AsType[*statusError](checkHTTP(ctx, s, a))
	if !ok {
		return false
	}
	told.Message += fmt.Sprintf(" (checked %d times)", checks)
	told.Hint = "set health.path of the service to a path that answers 200, or mend what answers there"
	for _, path := range []string{"/", "/health", "/healthz", "/ready", "/readyz", "/livez", "/status", "/ping"} {
		if path == bad.path || ctx.Err() != nil {
			continue
		}
		other := s
		other.Health.Path = path
		if checkHealth(ctx, other, a) == nil {
			told.Message += fmt.Sprintf("; %s is healthy", path)
			told.Hint = fmt.Sprintf("set health.path of the service to %s", path)
			break
		}
	}
	return true
}

// explainPorts says what is wrong with where an instance listens, "" where nothing is.
func explainPorts(f Facts) (why, hint string) {
	right := func(a netip.AddrPort) bool { return int(a.Port()) == f.Port }
	reached := func(a netip.AddrPort) bool { return !f.Apart || !a.Addr().IsLoopback() }
	switch {
	case !f.Known && len(f.Declared) > 0:
		return fmt.Sprintf("it was told to listen on port %d, and nothing answers there; its image declares %s", f.Port, portList(f.Declared)),
			fmt.Sprintf("have it listen on the port in PORT, or set port to %d", f.Declared[0])
	case !f.Known:
		return "", ""
	case len(f.Listens) == 0:
		return fmt.Sprintf("it listens on no port; it was told to listen on port %d", f.Port),
			"have it listen on the port in PORT, or see in its log what it waits for"
	case slices.ContainsFunc(f.Listens, func(a netip.AddrPort) bool { return right(a) && reached(a) }):
		return "", ""
	}
	if i := slices.IndexFunc(f.Listens, right); i >= 0 {
		return fmt.Sprintf("it listens on %s only, inside its container, where nobody outside reaches it", f.Listens[i]),
			"have it listen on all addresses: 0.0.0.0 or [::], not 127.0.0.1 or localhost"
	}
	var ports []int
	for _, a := range f.Listens {
		ports = append(ports, int(a.Port()))
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	return fmt.Sprintf("it was told to listen on port %d, and listens on %s", f.Port, portList(ports)),
		fmt.Sprintf("have it listen on the port in PORT, or set port to %d", ports[0])
}

// portList names ports: "port 80", "ports 80, 443 and 3 more".
func portList(ports []int) string {
	var names []string
	for _, port := range ports[:min(len(ports), maxPorts)] {
		names = append(names, strconv.Itoa(port))
	}
	text := "port " + names[0]
	if len(names) > 1 {
		text = "ports " + strings.Join(names, ", ")
	}
	if more := len(ports) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// explained is the sentence of err with its hint.
func explained(err error) string {
	reason := bounded(err.Error(), maxReason)
	if hint := hintOf(err); hint != "" {
		reason += " (" + hint + ")"
	}
	return reason
}

// exitReason says in words how an instance ended. What a signal ends has the code of a shell, 128
// and its number; a program may also give such a code by itself.
func exitReason(s Status) string {
	switch {
	case s.Reason != "":
		return s.Reason
	case s.ExitCode < 0:
		return "it ended; its exit code is not known"
	case signalName(s.ExitCode-128) != "":
		return fmt.Sprintf("exited with code %d, as after %s", s.ExitCode, signalName(s.ExitCode-128))
	default:
		return fmt.Sprintf("exited with code %d", s.ExitCode)
	}
}

// signalName names the signals that end programs, by their numbers on Linux.
func signalName(number int) string {
	switch number {
	case 1:
		return "SIGHUP"
	case 2:
		return "SIGINT"
	case 3:
		return "SIGQUIT"
	case 4:
		return "SIGILL"
	case 6:
		return "SIGABRT"
	case 8:
		return "SIGFPE"
	case 9:
		return "SIGKILL"
	case 11:
		return "SIGSEGV"
	case 13:
		return "SIGPIPE"
	case 15:
		return "SIGTERM"
	}
	return ""
}

// trouble says why the place has no instance that answers: how often one that keeps ending was started again,
// and when that is tried next. It is "" where nothing is wrong.
func (p *place) trouble() string {
	if p.failure == "" || !p.retries || p.nextStart.IsZero() {
		return p.failure
	}
	words := fmt.Sprintf("; next try in %s, at %s", max(time.Until(p.nextStart), 0).Round(time.Second), p.nextStart.UTC().Format("15:04:05 MST"))
	switch {
	case p.restarts == 1:
		words = "; started again once" + words
	case p.restarts > 1:
		words = fmt.Sprintf("; started again %d times in a row", p.restarts) + words
	}
	return p.failure + words
}
