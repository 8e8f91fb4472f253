package control

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Lease is how long a version may stay awake and live, as far as it was asked for of the
// version itself, and what is known of its activity.
type Lease struct {
	TTL          api.Duration `json:"ttl,omitzero"`           // 0: the service's
	IdleSleep    api.Duration `json:"idle_sleep,omitzero"`    // 0: the service's
	ProtectUntil time.Time    `json:"protect_until,omitzero"` // not removed before
	Until        time.Time    `json:"until,omitzero"`         // extended to by a person
	ActiveAt     time.Time    `json:"active_at,omitzero"`     // last activity, or a little before
	Warned       time.Time    `json:"warned,omitzero"`        // the end that was warned of
}

// take takes over what a deployment asks for. What it does not name stays.
func (l *Lease) take(d api.Deployment) {
	l.TTL, l.IdleSleep = cmp.Or(d.TTL, l.TTL), cmp.Or(d.IdleSleep, l.IdleSleep)
	if !d.ProtectUntil.IsZero() {
		l.ProtectUntil = d.ProtectUntil.UTC()
	}
}

// DefaultLeaseWarning is the default of [Options].LeaseWarning.
const DefaultLeaseWarning = 24 * time.Hour

const (
	tendEvery = time.Second // how often it is looked who is active, and which leases are due
	// leaseSettle is how long no lease ends behind the start of a server: proxies have
	// to tell first what went on meanwhile.
	leaseSettle = proxySilent
	// keptWithin is the part of its ttl by which the stored activity of a version may lag behind.
	keptWithin = 20
)

// terms is what holds for a version at the moment. A time is zero where the thing never happens.
type terms struct {
	idle, ttl   time.Duration
	active      time.Time // last activity
	sleeps      time.Time
	warns, ends time.Time
	keeps       time.Time // when the activity is to be stored
}

// next is when the first of all that is due.
func (t *terms) next() time.Time {
	var next time.Time
	for _, at := range []time.Time{t.sleeps, t.warns, t.ends, t.keeps} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// termsLocked returns what holds for a version. The default version neither sleeps nor ends.
func (c *Control) termsLocked(rec *VersionRecord, k *keeper) terms {
	s, g := c.services[rec.Service], rec.newest()
	if k == nil || g == nil || rec.Desired == DesiredRemoved || isDefault(s, rec.Version) {
		return terms{}
	}
	t := terms{
		idle:   finite(cmp.Or(rec.Lease.IdleSleep, s.IdleSleep)),
		ttl:    finite(cmp.Or(rec.Lease.TTL, s.TTL)),
		active: latest(rec.Lease.ActiveAt, k.active, g.At),
	}
	if t.idle > 0 && sleepProblem(s, rec) == nil {
		t.sleeps = latest(t.active, c.began).Add(t.idle)
	}
	if t.ttl > 0 {
		t.ends = latest(t.active.Add(t.ttl), rec.Lease.Until, rec.Lease.ProtectUntil, c.began.Add(leaseSettle))
		if before := rec.Lease.Warned; before.IsZero() || t.ends.Sub(before).Abs() > t.ttl/(keptWithin/2) {
			t.warns = t.ends.Add(-min(c.opts.LeaseWarning, t.ttl/2))
		}
		if k.active.After(rec.Lease.ActiveAt) {
			t.keeps = rec.Lease.ActiveAt.Add(max(t.ttl/keptWithin, tendEvery))
		}
	}
	return t
}

func isDefault(s api.Service, version string) bool {
	return cmp.Or(s.Default, route.DefaultVersion) == version
}

// finite turns the duration of what never ends into 0.
func finite(d api.Duration) time.Duration {
	if d >= api.Never {
		return 0
	}
	return time.Duration(d)
}

func latest(times ...time.Time) time.Time {
	last := times[0]
	for _, t := range times[1:] {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// dueLocked sees to it that a version whose record has changed is looked at in time.
func (c *Control) dueLocked(key Key) {
	rec := c.records[key]
	if rec == nil {
		return
	}
	t := c.termsLocked(rec, c.keepers[key])
	if next := t.next(); !next.IsZero() && next.Before(c.due) {
		c.due = next
	}
}

// tend puts versions to sleep that had no activity, and removes those whose lease is over,
// until ctx ends. It costs little while nothing is due, however many versions there are.
func (c *Control) tend(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		c.noteActivity(time.Now())
		for _, key := range c.dueVersions(time.Now()) {
			if ctx.Err() == nil {
				c.tendTo(ctx, key)
			}
		}
	}
}

// noteActivity notes which versions had requests.
func (c *Control) noteActivity(now time.Time) {
	active := c.fleet.activity()
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range active {
		if key, ok := parseKey(id); ok && c.keepers[key] != nil {
			c.keepers[key].active = now
			c.dueLocked(key) // its activity may have to be stored
		}
	}
}

// dueVersions returns the versions for which something is due. It goes through all of them
// when it is time to, and notes when that is the next time.
func (c *Control) dueVersions(now time.Time) []Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.due) {
		return nil
	}
	var due []Key
	c.due = now.Add(time.Hour)
	for key, rec := range c.records {
		t := c.termsLocked(rec, c.keepers[key])
		switch next := t.next(); {
		case next.IsZero():
		case !next.After(now):
			due = append(due, key)
			c.due = now // look again whether it is done
		case next.Before(c.due):
			c.due = next
		}
	}
	return due
}

// tendTo does what is due for one version.
func (c *Control) tendTo(ctx context.Context, key Key) {
	c.mu.Lock()
	rec, k := c.records[key], c.keepers[key]
	if rec == nil || k == nil {
		c.mu.Unlock()
		return
	}
	t := c.termsLocked(rec, k)
	c.mu.Unlock()
	now := time.Now()
	is := func(at time.Time) bool { return !at.IsZero() && !at.After(now) }
	switch {
	case is(t.ends):
		c.endLease(ctx, key, t)
	case is(t.warns):
		c.warn(ctx, key, t)
	case is(t.sleeps):
		why := fmt.Sprintf("no request for %s", api.Duration(t.idle))
		if _, err := c.sleep(ctx, key, By{why: why}, c.idleStill); err != nil && CodeOf(err) == api.CodeInternal {
			c.log.Error("version not put to sleep", "service", key.Service, "version", key.Version, "err", err)
		}
	case is(t.keeps):
		if err := c.editLease(ctx, key, func(*Lease) {}); err != nil {
			c.log.Error("activity not stored", "service", key.Service, "version", key.Version, "err", err)
		}
	}
}

// idleStill says why a version does not go to sleep after all: there was activity meanwhile.
func (c *Control) idleStill(rec *VersionRecord) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.termsLocked(rec, c.keepers[rec.Key]); t.sleeps.IsZero() || t.sleeps.After(time.Now()) {
		return conflictf("", "%s is not idle", rec.Key)
	}
	return nil
}

// editLease changes a version's lease, and stores the activity that is known.
func (c *Control) editLease(ctx context.Context, key Key, edit func(*Lease)) error {
	return c.update(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired == DesiredRemoved {
			return nil, c.unknownVersion(key)
		}
		c.mu.Lock()
		if k := c.keepers[key]; k != nil {
			r.Lease.ActiveAt = latest(r.Lease.ActiveAt, k.active.UTC())
		}
		c.mu.Unlock()
		edit(&r.Lease)
		return r, nil
	})
}

// warn tells that a lease is about to end.
func (c *Control) warn(ctx context.Context, key Key, t terms) {
	if err := c.editLease(ctx, key, func(l *Lease) { l.Warned = t.ends.UTC() }); err != nil {
		c.log.Error("warning not stored", "service", key.Service, "version", key.Version, "err", err)
		return
	}
	c.note(ctx, api.Event{
		Type: api.EventLeaseEnding, Service: key.Service, Version: key.Version,
		Message: fmt.Sprintf("%s is removed in %s, at %s, unless it is used: %s. To keep it: layover extend %s",
			key, roughly(time.Until(t.ends)), t.ends.UTC().Format(time.DateTime+" MST"), t.sinceWhen(), key),
	})
}

// endLease removes a version whose time is over.
func (c *Control) endLease(ctx context.Context, key Key, t terms) {
	why := fmt.Sprintf("its lease of %s is over: %s", roughly(t.ttl), t.sinceWhen())
	if _, err := c.end(ctx, key, By{why: why}, DesiredRemoved, "removed: "+why); err != nil {
		if CodeOf(err) == api.CodeInternal {
			c.log.Error("version not removed at the end of its lease", "service", key.Service, "version", key.Version, "err", err)
		}
		return
	}
	c.note(ctx, api.Event{
		Type: api.EventLeaseEnded, Service: key.Service, Version: key.Version,
		Message: fmt.Sprintf("%s goes: %s", key, why),
	})
}

func (t *terms) sinceWhen() string {
	return "no activity since " + t.active.UTC().Format(time.DateTime+" MST")
}

// roughly writes a duration with the two units that matter, such as 2d3h.
func roughly(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		days, hours := d/(24*time.Hour), d%(24*time.Hour)/time.Hour
		if hours == 0 {
			return fmt.Sprintf("%dd", days)
		}
		return fmt.Sprintf("%dd%dh", days, hours)
	case d >= time.Hour:
		if minutes := d % time.Hour / time.Minute; minutes > 0 {
			return fmt.Sprintf("%dh%dm", d/time.Hour, minutes)
		}
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return max(d, 0).Round(time.Second).String()
}

// Extend makes the lease of a version longer.
func (c *Control) Extend(ctx context.Context, key Key, e api.Extension, by By) (api.Version, error) {
	if e.By != 0 && !e.Until.IsZero() {
		return api.Version{}, invalidf("give one of the two", "a lease is extended by a time or until one, not both")
	}
	now := time.Now()
	c.mu.Lock()
	rec, k := c.records[key], c.keepers[key]
	if rec == nil || rec.Desired == DesiredRemoved {
		defer c.mu.Unlock()
		return api.Version{}, c.unknownVersionLocked(key)
	}
	t := c.termsLocked(rec, k)
	c.mu.Unlock()
	if err := rec.meant(by.Branch); err != nil {
		return api.Version{}, err
	}
	if t.ttl == 0 {
		return api.Version{}, conflictf("a ttl is given with: layover deploy "+key.String()+" --ttl 3d",
			"%s has no lease to extend: it stays until somebody removes it", key)
	}
	until := e.Until
	switch {
	case e.By > 0:
		until = latest(t.ends, now).Add(time.Duration(min(e.By, api.Never)))
	case until.IsZero():
		until = now.Add(t.ttl)
	}
	if !until.After(now) || !e.Until.IsZero() && until.Before(t.ends) {
		return api.Version{}, invalidf("name a later time", "the lease of %s ends at %s already, without an extension to %s",
			key, t.ends.UTC().Format(time.DateTime+" MST"), until.UTC().Format(time.DateTime+" MST"))
	}
	if err := c.editLease(ctx, key, func(l *Lease) { l.Until = latest(l.Until, until.UTC()) }); err != nil {
		return api.Version{}, err
	}
	v, err := c.Version(ctx, key)
	if err == nil && v.Lease != nil {
		c.note(ctx, api.Event{
			Type: api.EventLeaseExtended, Service: key.Service, Version: key.Version, Actor: by.Actor,
			Message: fmt.Sprintf("%s stays until %s, or longer if it is used", key, v.Lease.EndsAt.Format(time.DateTime+" MST")),
		})
	}
	return v, err
}

// viewLeaseLocked fills in what is left of a version's lease.
func (c *Control) viewLeaseLocked(v *api.Version, rec *VersionRecord, k *keeper) {
	t := c.termsLocked(rec, k)
	if t.idle == 0 && t.ttl == 0 {
		return
	}
	v.Lease = &api.Lease{
		TTL: api.Duration(t.ttl), IdleSleep: api.Duration(t.idle), ActiveAt: t.active.UTC(), ProtectUntil: rec.Lease.ProtectUntil,
	}
	if !t.sleeps.IsZero() {
		v.Lease.SleepsAt = t.sleeps.UTC()
	}
	if !t.ends.IsZero() {
		v.Lease.EndsAt = t.ends.UTC()
	}
}
