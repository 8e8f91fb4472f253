package control

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"sync"

	"github.com/layover-dev/layover/internal/route"
)

// TableChange is one change of the table, as JSON that is made once for all who want it.
type TableChange struct {
	Revision uint64 // that it makes
	JSON     []byte // a [route.Change] on one line; it must not be changed
}

// How much is kept of what changed. Who is further behind gets the whole table.
const (
	keptChanges     = 4096
	keptChangeBytes = 4 << 20
	maxChange       = 4096 // services, versions and routes of one change; beyond that the table is the shorter way
)

// history keeps the newest changes of the table, which follow one another without a gap. They
// are all of one epoch.
type history struct {
	mu      sync.Mutex
	epoch   string
	base    uint64        // the revision that the first of changes applies to
	changes []TableChange // oldest first
	size    int           // bytes of all
}

// reset forgets all changes: the table at p does not follow the one before by any.
func (h *history) reset(p route.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch, h.base, h.changes, h.size = p.Epoch, p.Revision, nil, 0
}

// add keeps the change that makes the newest table, and drops the oldest ones beyond the bounds.
func (h *history) add(change route.Change) {
	if len(change.Services)+len(change.Versions)+len(change.Routes) > maxChange {
		h.reset(madeBy(change))
		return
	}
	data, err := encodeChange(change)
	if err != nil || len(data) > keptChangeBytes {
		h.reset(madeBy(change)) // the whole table is the way there
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes = append(h.changes, TableChange{Revision: change.Revision, JSON: data})
	h.size += len(data)
	for len(h.changes) > keptChanges || h.size > keptChangeBytes {
		// The entry itself stays as it is: readers share the array until append makes another.
		h.base, h.size = h.changes[0].Revision, h.size-len(h.changes[0].JSON)
		h.changes = h.changes[1:]
	}
}

// madeBy is the position of the table that a change makes.
func madeBy(change route.Change) route.Position {
	return route.Position{Epoch: change.Epoch, Revision: change.Revision}
}

// since returns the changes behind a position, and false where they are not all there: those of
// another epoch lead on from another table, whatever its revision.
func (h *history) since(after route.Position) ([]TableChange, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if after.Epoch != h.epoch {
		return nil, false
	}
	from := 0
	if after.Revision != h.base {
		i, ok := slices.BinarySearchFunc(h.changes, after.Revision, func(c TableChange, revision uint64) int {
			return cmp.Compare(c.Revision, revision)
		})
		if !ok {
			return nil, false
		}
		from = i + 1
	}
	return h.changes[from:len(h.changes):len(h.changes)], true
}

func encodeChange(change route.Change) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(change); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
