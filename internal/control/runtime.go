package control

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/layover-dev/layover/api"
)

// Runtime starts and stops the instances of one environment in one way: as
// processes, containers, or addresses that somebody else runs.
//
// Instances outlive the server. What a runtime started must be found again by a
// new Runtime value over the same environment, by List, after any crash.
// Implementations are safe for concurrent use, and pass runtimetest.Run.
type Runtime interface {
	// Start starts one instance and returns as soon as it runs, before it is
	// healthy. Starting an ID that already runs returns that instance; an ID that
	// has exited is started again. step is called as each step begins, with words
	// for people ("pull", "layer 3 of 7"); it may be nil. An error means that nothing of the
	// instance is left behind; ctx ending is such an error.
	// Errors a person caused are *Error with a hint (no such command, no such image).
	Start(ctx context.Context, w Workload, step func(step api.Step, detail string)) (Status, error)

	// Stop ends an instance: asks it to end (SIGTERM), and ends it by force
	// after grace. It returns when nothing of the instance is left but its log, where
	// the runtime has a [LogArchive]. Stopping an unknown instance is no error.
	Stop(ctx context.Context, id string, grace time.Duration) error

	// List returns all instances of the environment, also those that have exited and were not stopped.
	// Where it cannot see all of them it returns an error, never a part.
	List(ctx context.Context) ([]Status, error)

	// Watch calls changed, one call at a time, whenever an instance exits or its
	// addresses change, until ctx ends. It may call for one change more than once. It
	// returns an error where it lost track; the caller lists and watches anew.
	Watch(ctx context.Context, changed func(Status)) error

	// Logs reads the log of the present run of an instance, oldest line first. Of each stream every line
	// is later than the one before. Lines longer than a bound come in parts ([api.LogLine].Partial).
	Logs(ctx context.Context, id string, opts LogOptions) (LogReader, error)
}

// LogReader gives the lines of a log one by one. Next returns io.EOF at the end;
// a following reader ends with ctx, or when the instance has ended and all is read. A line without a
// time is none of the log: it says that lines are missing there, which the reader came too late for.
type LogReader interface {
	Next() (api.LogLine, error)
	io.Closer
}

// LogOptions says which part of the log of an instance is wanted.
type LogOptions struct {
	Follow bool
	Since  time.Time // zero means from the start
	Tail   int       // only the last lines; 0 means all
	Run    time.Time // only of the run that began then, else ErrNoInstance; zero means whichever there is
	Resume time.Time // lines up to then were read before: it is told where some behind them are missing
}

// ErrNoInstance is returned by Logs for an instance that is not there.
var ErrNoInstance = errors.New("no such instance")

// Workload is everything a runtime needs to start one instance. All
// placeholders are filled in, except {port} where the runtime picks the port.
type Workload struct {
	ID          string            `json:"id"` // unique in the environment, also a valid file and container name
	Environment string            `json:"environment"`
	Service     string            `json:"service"`
	Version     string            `json:"version"`
	Generation  int64             `json:"generation"`
	Owner       string            `json:"owner,omitempty"`
	Run         api.Run           `json:"run"`
	Grace       time.Duration     `json:"grace,omitempty"` // that Stop will give it, for runtimes that have to know before
	Port        int               `json:"port,omitempty"`  // fixed port; 0 lets the runtime pick
	Env         map[string]string `json:"env,omitempty"`
	Yields      []string          `json:"yields,omitempty"` // names in Env before which a value goes that the runtime's template has
	Hosts       []string          `json:"hosts,omitempty"`  // every exact host of the environment, to resolve to the proxy
}

// Status is what a runtime knows of one instance.
type Status struct {
	ID         string
	Service    string
	Version    string
	Generation int64
	Addresses  []Address // where it listens; none once it has exited
	Running    bool
	ExitCode   int    // where not Running; -1 where unknown
	Reason     string // why it is not Running, where more is known than the code: "killed: out of memory (limit 64 MiB)"
	StartedAt  time.Time
	Images     []api.Image // what it really runs, where the runtime can tell; for people, and it may be known later than the rest
	Base       *api.Base   // what it was copied from; nil where it is no copy; for people as well
}

// Address is where an instance is reached.
type Address struct {
	HostPort   string
	TLS        bool
	ServerName string // see route.Instance
	Host       string // see route.Instance
	From       string // see route.Instance
}

// LogRun is one run of an instance, from its start to its end: an instance that is started
// again has several.
type LogRun struct {
	Instance   string    `json:"instance"`
	Service    string    `json:"service"`
	Version    string    `json:"version"`
	Generation int64     `json:"generation"`
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at,omitzero"` // zero where it goes on, or is not known
}

// LogArchive keeps the logs of instances that are gone: runtimes hand them over where
// they stop an instance, or start one anew that has ended, but for hooks (see [IsHook]), whose
// output may have secrets. It is bounded for each version.
type LogArchive interface {
	// Runs returns the runs of a version that are kept.
	Runs(key Key) ([]LogRun, error)
	// Open reads the log of a run. It returns ErrNoInstance where it is not kept.
	Open(ctx context.Context, run LogRun, opts LogOptions) (LogReader, error)
	// Remove forgets all runs of a version.
	Remove(key Key) error
	// Versions returns the versions of which something is kept.
	Versions() ([]Key, error)
}
