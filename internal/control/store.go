package control

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// Store keeps the desired state of one environment, and its events, durably.
// Each method is one transaction. Implementations pass storetest.Run.
type Store interface {
	// Services, ordered by name. PutService inserts or replaces.
	// DeleteService returns ErrNotStored for an unknown one, and deletes its versions with it.
	Services(ctx context.Context) ([]api.Service, error)
	PutService(ctx context.Context, s api.Service) error
	DeleteService(ctx context.Context, name string) error

	// Versions, ordered by service and name. UpdateVersion reads one record
	// (nil where there is none), lets edit change or make it, and writes what
	// edit returns, all in one transaction; an error of edit is returned and nothing is written; a nil
	// record from edit deletes it (with its generations).
	Versions(ctx context.Context) ([]VersionRecord, error)
	UpdateVersion(ctx context.Context, key Key, edit func(*VersionRecord) (*VersionRecord, error)) error

	// Routes, ordered by name. DeleteRoute returns ErrNotStored for an unknown one.
	Routes(ctx context.Context) ([]api.NamedRoute, error)
	PutRoute(ctx context.Context, r api.NamedRoute) error
	DeleteRoute(ctx context.Context, name string) error

	// AppendEvent stores e under the next ID, which it returns. Events returns at most limit
	// events with an ID above after, oldest first; LastEvent the highest ID in use, 0 where there is none.
	AppendEvent(ctx context.Context, e api.Event) (int64, error)
	Events(ctx context.Context, after int64, limit int) ([]api.Event, error)
	LastEvent(ctx context.Context) (int64, error)

	// NextRevision adds one to the revision of the table and returns it. It never
	// returns the same number twice, not even after a crash.
	NextRevision(ctx context.Context) (uint64, error)
}

// ErrNotStored is returned where the thing to delete is not there.
var ErrNotStored = errors.New("not stored")

// ErrStored is returned where what is to be added is there.
var ErrStored = errors.New("stored already")

// Key names a version of a service.
type Key struct {
	Service string `json:"service"`
	Version string `json:"version"`
}

// String returns service@version.
func (k Key) String() string { return k.Service + "@" + k.Version }

func parseKey(id string) (Key, bool) {
	service, version, ok := strings.Cut(id, "@")
	return Key{Service: service, Version: version}, ok
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version))
}

// VersionRecord is what is wanted of a version, and what is known of its generations.
type VersionRecord struct {
	Key
	Desired Desired `json:"desired"`          // running or stopped
	Branch  string  `json:"branch,omitempty"` // Git branch it was named after
	Owner   string  `json:"owner,omitempty"`  // of the newest generation
	Source  string  `json:"source,omitempty"` // of the newest generation
	Who
	Scaled      int          `json:"scaled,omitempty"` // instances that a person asked for, apart from a deployment; 0 where none did
	CreatedAt   time.Time    `json:"created_at"`       // first deployment
	Hooks       Hooks        `json:"hooks,omitzero"`
	Lease       Lease        `json:"lease,omitzero"`
	Generations []Generation `json:"generations,omitempty"` // oldest first; bounded by control
}

// Desired is what a person wants of a version.
type Desired string

// What can be wanted.
const (
	DesiredRunning Desired = "running"
	DesiredAsleep  Desired = "asleep" // no instance, and a route that starts one when it is asked for
	DesiredStopped Desired = "stopped"
	DesiredRemoved Desired = "removed" // to be stopped, then deleted
)

// Generation is one deployment of a version.
type Generation struct {
	Number     int64             `json:"number"`
	Deployment api.Deployment    `json:"deployment"`
	Run        api.Run           `json:"run"`           // template and overrides taken together, when it was deployed
	Env        map[string]string `json:"env,omitempty"` // likewise
	State      GenerationState   `json:"state"`
	Served     bool              `json:"served,omitempty"`   // it came up once
	Reason     string            `json:"reason,omitempty"`   // why it failed
	LogTail    []string          `json:"log_tail,omitempty"` // its last lines, where it failed
	At         time.Time         `json:"at"`
	FromSleep  bool              `json:"from_sleep,omitempty"` // the version slept when this was asked for
	Again      int64             `json:"again,omitempty"`      // the generation that it repeats; 0 where it is new
	Slots      []int             `json:"slots,omitempty"`      // numbers of its instances; none stands for the 1 alone
	LastSlot   int               `json:"last_slot,omitempty"`  // the highest number that an instance of it had
	Setup      *Hook             `json:"setup,omitempty"`      // to run before its instances start; nil where nothing is
	Teardown   *Hook             `json:"teardown,omitempty"`   // to run when the version is removed; nil where it brings none
	SetUp      bool              `json:"set_up,omitempty"`     // its setup succeeded
	Outputs    map[string]string `json:"outputs,omitempty"`    // what its instances get of the setup; may be secrets
}

// GenerationState says how far a generation came.
type GenerationState string

// The states of a generation.
const (
	GenerationPending    GenerationState = "pending"    // wanted, not yet healthy
	GenerationServing    GenerationState = "serving"    // became healthy; the one that answers
	GenerationFailed     GenerationState = "failed"     // did not become healthy
	GenerationSuperseded GenerationState = "superseded" // a later one took over
)
