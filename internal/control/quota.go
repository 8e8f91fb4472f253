package control

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Quotas bound how many versions run at a time; 0 means no bound. Default versions and what
// layover.yaml declares count too, and are never refused: the environment needs them.
type Quotas struct {
	Running         int // in the environment
	RunningPerOwner int // of one owner
}

// usage counts the versions that run, as the quotas count them.
type usage struct {
	all   int
	owner map[string]int // by the name that [ownerKey] makes of theirs
}

func ownerKey(owner string) string { return strings.ToLower(api.CleanActor(owner)) }

// runs says whether the version has, or is about to have, instances: what a quota counts.
// A version that failed and has nothing else to serve does not.
func (r *VersionRecord) runs() bool {
	newest := r.newest()
	return r.Desired == DesiredRunning && newest != nil && (newest.State == GenerationPending || r.serving() != nil)
}

// count notes that before is now after; either may be nil.
func (u *usage) count(before, after *VersionRecord) {
	if before != nil && before.runs() {
		u.add(before.Owner, -1)
	}
	if after != nil && after.runs() {
		u.add(after.Owner, +1)
	}
}

func (u *usage) add(owner string, n int) {
	u.all += n
	name := ownerKey(owner)
	if name == "" {
		return
	}
	if u.owner == nil {
		u.owner = map[string]int{}
	}
	if u.owner[name] += n; u.owner[name] == 0 {
		delete(u.owner, name)
	}
}

// checkQuota refuses that next runs, where it is one too many. before is the version as it
// was, and may be nil. Nothing else changes a record meanwhile: it is called within [Control.update].
func (c *Control) checkQuota(before, next *VersionRecord) error {
	if !next.runs() {
		return nil
	}
	q, ran := c.opts.Quotas, before != nil && before.runs()
	owner := ownerKey(next.Owner)
	theirs := ran && ownerKey(before.Owner) == owner // it counts already
	c.mu.Lock()
	standard := c.isDefaultLocked(next.Key)
	all, have := c.usage.all, c.usage.owner[owner]
	c.mu.Unlock()
	switch {
	case standard:
	case q.RunningPerOwner > 0 && owner != "" && !theirs && have >= q.RunningPerOwner:
		return c.overQuota(next, fmt.Sprintf("%s has %d versions that run, and may have %d", next.Owner, have, q.RunningPerOwner), "quotas.running_per_owner")
	case q.Running > 0 && !ran && all >= q.Running:
		return c.overQuota(next, fmt.Sprintf("%d versions run, and %d may", all, q.Running), "quotas.running")
	}
	return nil
}

// maxCandidates is how many versions a refusal names that could go.
const maxCandidates = 10

// isDefaultLocked says whether key is the default version of its service.
func (c *Control) isDefaultLocked(key Key) bool {
	return cmp.Or(c.services[key.Service].Default, route.DefaultVersion) == key.Version
}

// overQuota says that there is no room for r, and what could make room: the
// owner's own versions, or everybody's where there are none of those.
func (c *Control) overQuota(r *VersionRecord, why, setting string) *Error {
	own, all := c.candidates(r)
	found := own
	hint := "stop one of yours"
	if len(own) == 0 {
		found, hint = all, "ask an owner to stop one"
	}
	e := &Error{Code: api.CodeQuota, Message: fmt.Sprintf("there is no room for %s: %s", r.Key, why)}
	if len(found) == 0 {
		e.Hint = "whoever runs the environment can raise " + setting
		return e
	}
	for _, v := range found[:min(len(found), maxCandidates)] {
		e.Details = append(e.Details, v.String())
	}
	if more := len(found) - maxCandidates; more > 0 {
		e.Details = append(e.Details, fmt.Sprintf("and %d more", more))
	}
	e.Hint = fmt.Sprintf("%s: layover stop %s; or whoever runs the environment raises %s", hint, found[0].key, setting)
	return e
}

// waitsForQuota notes that a version sleeps on for want of room, and returns the refusal. Whoever calls the
// version waits with that, and is told its message: whose versions could go stands in the details.
func (c *Control) waitsForQuota(key Key, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	told := *e
	told.Message = "waiting for quota: " + e.Message
	noted := told
	if len(e.Details) > 0 {
		noted.Message += "; what could go: " + strings.Join(e.Details, "; ")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.keepers[key]; k != nil {
		k.crowded = explained(&noted)
	}
	return &told
}

// candidate is a version that could go.
type candidate struct {
	key      Key
	owner    string
	days     int // since it was deployed
	at       time.Time
	requests uint64
}

func (v candidate) String() string {
	age := fmt.Sprintf("%d days ago", v.days)
	switch v.days {
	case 0:
		age = "within the last day"
	case 1:
		age = "a day ago"
	}
	return fmt.Sprintf("%s of %s, deployed %s, %d requests", v.key, cmp.Or(v.owner, "nobody"), age, v.requests)
}

// candidates returns the versions that could make room for r, those of its owner
// apart: by whole days the oldest first, of a day the least used.
func (c *Control) candidates(r *VersionRecord) (own, all []candidate) {
	requests := c.fleet.Requests()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, rec := range c.records {
		if key == r.Key || !rec.runs() || c.isDefaultLocked(key) {
			continue
		}
		at := rec.newest().At
		v := candidate{key: key, owner: rec.Owner, days: int(time.Since(at) / (24 * time.Hour)), at: at, requests: requests[key.String()]}
		all = append(all, v)
		if v.owner != "" && ownerKey(v.owner) == ownerKey(r.Owner) {
			own = append(own, v)
		}
	}
	order := func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.days, a.days), cmp.Compare(a.requests, b.requests), a.at.Compare(b.at), compareKeys(a.key, b.key))
	}
	slices.SortFunc(own, order)
	slices.SortFunc(all, order)
	return own, all
}
