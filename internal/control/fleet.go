package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

const (
	proxySilent    = 10 * time.Second // a proxy that reported nothing for so long is not waited for
	proxyForgotten = 30 * time.Second // nor known any more
	proxyBusy      = 5 * time.Minute  // but for so long what it had in progress may go on, and nothing is put to sleep under it
	takeUpTimeout  = 2 * time.Second  // how long a deployment waits for proxies to take up its table
)

// Bounds of what proxies may report.
const (
	maxProxies     = 1000
	maxProxyName   = 128
	maxAddresses   = 64
	maxDraining    = 4096
	maxReportText  = 256     // bytes of an address, a build or the name of an instance or version
	maxProxyCounts = 1 << 20 // numbers of requests, of all proxies together
	keptStamps     = 1024
)

// fleet is the data plane as a whole: the embedded proxy, where there is one, and the
// stand-alone proxies that report to this server.
type fleet struct {
	embedded DataPlane // nil where the server runs without one
	news     signal    // a report came

	mu      sync.Mutex
	table   *route.Table
	stamps  []stamp // of the newest tables of its epoch, oldest first
	members map[process]*member
	counts  int               // entries of all members' requests
	active  map[string]bool   // versions that members reported requests of since it was looked at
	seen    map[string]uint64 // the embedded proxy's requests, when that was looked at
}

// process is one process of a proxy. While one hands its listeners over to the next, both report.
type process struct {
	id      string
	started int64 // Unix time in nanoseconds
}

// member is what the newest reports of a process say.
type member struct {
	report   api.ProxyReport // without Draining, Busy and Requests
	draining map[string]bool
	busy     []string // versions with requests in progress
	requests map[string]uint64
	seen     time.Time
	replaced bool // a later process of the same proxy has reported
}

// stamp is when a revision of the table was published.
type stamp struct {
	revision uint64
	at       time.Time
}

func newFleet(embedded DataPlane) *fleet {
	return &fleet{embedded: embedded, table: route.EmptyTable(), members: map[process]*member{}, active: map[string]bool{}}
}

// SetTable is of [DataPlane]. The stand-alone proxies get the table by watching it.
func (f *fleet) SetTable(t *route.Table) {
	if f.embedded != nil {
		f.embedded.SetTable(t)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.Position().Epoch != f.table.Position().Epoch {
		f.stamps = nil
	}
	f.table = t
	if len(f.stamps) == keptStamps {
		f.stamps = slices.Delete(f.stamps, 0, keptStamps/2)
	}
	f.stamps = append(f.stamps, stamp{t.Revision(), time.Now()})
}

// WaitIdle is of [DataPlane]: no proxy sends requests to the instance, and none has
// one in flight. Call it when the instance is out of the table in force. A stand-alone
// proxy counts as long as it reports.
func (f *fleet) WaitIdle(ctx context.Context, instanceID string) error {
	f.mu.Lock()
	without := f.table.Position()
	f.mu.Unlock()
	if f.embedded != nil {
		if err := f.embedded.WaitIdle(ctx, instanceID); err != nil {
			return err
		}
	}
	_, err := f.wait(ctx, func(m *member) bool { return f.hasTakenLocked(m, without) && !m.draining[instanceID] })
	return err
}

// waitTaken waits until every proxy decides on the table at that position or a later one,
// and returns the names of those that do not when ctx ends.
func (f *fleet) waitTaken(ctx context.Context, p route.Position) []string {
	late, _ := f.wait(ctx, func(m *member) bool { return m.replaced || f.hasTakenLocked(m, p) })
	return late
}

// hasTakenLocked says whether a process decides on the table at p, which was published, or on
// one that was published later.
func (f *fleet) hasTakenLocked(m *member, p route.Position) bool {
	if m.report.Epoch == p.Epoch {
		return m.report.Revision >= p.Revision
	}
	return m.report.Epoch == f.table.Position().Epoch // that of p is over
}

// wait returns when ok, which is called with mu held, is true of every process that counts, or those of which it is
// not, with ctx's error.
func (f *fleet) wait(ctx context.Context, ok func(*member) bool) ([]string, error) {
	for {
		next := f.news.next()
		late, again := f.late(ok)
		if len(late) == 0 {
			return nil, nil
		}
		silent := time.NewTimer(again)
		select {
		case <-next:
		case <-silent.C:
		case <-ctx.Done():
			silent.Stop()
			return late, ctx.Err()
		}
		silent.Stop()
	}
}

// late names the proxies that count and of which ok is not true, and says when the next
// of them will have been silent for too long to count.
func (f *fleet) late(ok func(*member) bool) (late []string, again time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	again = proxySilent
	for p, m := range f.members {
		left := proxySilent - time.Since(m.seen)
		if left <= 0 || ok(m) {
			continue
		}
		late = append(late, p.id)
		again = min(again, left)
	}
	slices.Sort(late)
	return slices.Compact(late), again
}

// waitSilent returns once a proxy that fell silent with requests to a version in progress has
// reported again, or they must be over, or ctx has ended. It returns false at once where there is none.
func (f *fleet) waitSilent(ctx context.Context, id string) bool {
	next := f.news.next()
	f.mu.Lock()
	again := time.Duration(0)
	for _, m := range f.members {
		if left := m.busyFor(); left > 0 && slices.Contains(m.busy, id) {
			again = max(again, left)
		}
	}
	f.mu.Unlock()
	if again == 0 {
		return false
	}
	over := time.NewTimer(again)
	defer over.Stop()
	select {
	case <-next:
	case <-over.C:
	case <-ctx.Done():
	}
	return true
}

// busyFor returns for how long what a silent process had in progress may go on. It is 0 for one that
// reports, and for one whose successor does: that one has ended.
func (m *member) busyFor() time.Duration {
	silent := time.Since(m.seen)
	if silent < proxySilent || m.replaced || len(m.busy) == 0 {
		return 0
	}
	return max(proxyBusy-silent, 0)
}

// Requests is of [DataPlane].
func (f *fleet) Requests() map[string]uint64 {
	all := map[string]uint64{}
	if f.embedded != nil {
		all = f.embedded.Requests()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.members) > 0 {
		all = maps.Clone(all)
	}
	for _, m := range f.members {
		for id, n := range m.requests {
			if n > 0 && hasVersion(f.table, id) {
				all[id] += n
			}
		}
	}
	return all
}

// requestsTo counts the requests that one version answered.
func (f *fleet) requestsTo(id string) uint64 {
	var n uint64
	switch p := f.embedded.(type) {
	case nil:
	case interface{ RequestsTo(id string) uint64 }:
		n = p.RequestsTo(id)
	default:
		n = p.Requests()[id]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		n += m.requests[id]
	}
	return n
}

// activity names the versions that had a request since it was called last, or have one in
// progress; those of stand-alone proxies as of their last reports.
func (f *fleet) activity() map[string]bool {
	f.mu.Lock()
	active := f.active
	f.active = map[string]bool{}
	for _, m := range f.members {
		if m.busyFor() > 0 {
			for _, id := range m.busy {
				active[id] = true
			}
		}
	}
	f.mu.Unlock()
	if f.embedded == nil {
		return active
	}
	requests := f.embedded.Requests()
	for id, n := range requests {
		if f.seen[id] != n {
			active[id] = true
		}
	}
	f.seen = requests
	if p, ok := f.embedded.(interface{ Busy() []string }); ok {
		for _, id := range p.Busy() {
			active[id] = true
		}
	}
	return active
}

func hasVersion(table *route.Table, id string) bool {
	key, ok := parseKey(id)
	return ok && versionIn(table, key) != nil
}

// report takes in what a proxy says of itself.
func (f *fleet) report(r api.ProxyReport) error {
	if err := checkReport(r); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked()
	p := process{r.ID, r.StartedAt.UnixNano()}
	m := f.members[p]
	if m == nil {
		if len(f.members) >= maxProxies {
			return &Error{
				Code: api.CodeUnavailable, Message: fmt.Sprintf("this server knows %d proxies, and takes no more", maxProxies),
				Hint: fmt.Sprintf("a proxy is forgotten %s after its last report", proxyForgotten),
			}
		}
		m = &member{requests: map[string]uint64{}}
		f.members[p] = m
		f.replaceLocked(p.id)
	}
	m.seen = time.Now()
	m.draining = make(map[string]bool, len(r.Draining))
	for _, id := range r.Draining {
		m.draining[id] = true
	}
	f.countLocked(m, r.Requests)
	m.busy = slices.DeleteFunc(r.Busy, func(id string) bool { return !hasVersion(f.table, id) })
	for _, id := range m.busy {
		f.active[id] = true
	}
	r.Draining, r.Requests, r.Busy = nil, nil, nil
	m.report = r
	f.news.raise()
	return nil
}

// countLocked takes over numbers of requests. Those of versions that are not in the
// table are left out, and new ones where there are too many.
func (f *fleet) countLocked(m *member, requests map[string]uint64) {
	for id, n := range requests {
		_, known := m.requests[id]
		switch {
		case known:
		case !hasVersion(f.table, id):
			continue
		case f.counts >= maxProxyCounts:
			continue
		default:
			f.counts++
		}
		if m.requests[id] != n {
			f.active[id] = true
		}
		m.requests[id] = n
	}
	if f.counts >= maxProxyCounts { // make room: versions come and go
		for _, m := range f.members {
			before := len(m.requests)
			maps.DeleteFunc(m.requests, func(id string, _ uint64) bool { return !hasVersion(f.table, id) })
			f.counts -= before - len(m.requests)
		}
	}
}

// replaceLocked marks all processes of a proxy but the newest.
func (f *fleet) replaceLocked(id string) {
	newest := int64(math.MinInt64)
	for p := range f.members {
		if p.id == id {
			newest = max(newest, p.started)
		}
	}
	for p, m := range f.members {
		if p.id == id {
			m.replaced = p.started < newest
		}
	}
}

func (f *fleet) forgetLocked() {
	for p, m := range f.members {
		if time.Since(m.seen) > proxyForgotten && m.busyFor() == 0 {
			f.counts -= len(m.requests)
			delete(f.members, p)
			f.replaceLocked(p.id)
		}
	}
}

// list returns the proxies, ordered by ID, each as its newest process says.
func (f *fleet) list() []api.Proxy {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked()
	now := time.Now()
	out := []api.Proxy{}
	for _, m := range f.members {
		if m.replaced || now.Sub(m.seen) > proxyForgotten {
			continue
		}
		one := api.Proxy{ProxyReport: m.report, SeenAt: m.seen.UTC()}
		one.Draining = slices.Sorted(maps.Keys(m.draining))
		one.Requests = maps.Clone(m.requests)
		if !f.hasTakenLocked(m, f.table.Position()) {
			one.Behind = f.behindLocked(m)
			one.Lag = api.Duration(max(now.Sub(f.outdatedLocked(m)), 0))
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b api.Proxy) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// behindLocked counts the revisions that a process lacks. Those of another epoch do not compare
// where they are not lower: it lacks at least the newest.
func (f *fleet) behindLocked(m *member) uint64 {
	if newest := f.table.Revision(); m.report.Revision < newest {
		return newest - m.report.Revision
	}
	return 1
}

// outdatedLocked returns when the first table was published that a process lacks, as far
// back as that is known.
func (f *fleet) outdatedLocked(m *member) time.Time {
	i := 0
	if m.report.Epoch == f.table.Position().Epoch {
		i, _ = slices.BinarySearchFunc(f.stamps, m.report.Revision+1, func(s stamp, revision uint64) int {
			return cmp.Compare(s.revision, revision)
		})
	}
	if i == len(f.stamps) {
		return time.Now()
	}
	return f.stamps[i].at
}

var proxyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`)

// checkReport bounds a report.
func checkReport(r api.ProxyReport) error {
	if len(r.ID) > maxProxyName || !proxyName.MatchString(r.ID) {
		return invalidf("write at most 128 letters, digits, '.', '_', ':' and '-'", "%q cannot name a proxy", bounded(r.ID, maxProxyName))
	}
	if len(r.Addresses) > maxAddresses || len(r.Draining) > maxDraining || len(r.Busy) > maxDraining {
		return invalidf("", "proxy %s reports %d addresses, %d draining instances and %d busy versions; at most %d, %d and %[6]d are taken",
			r.ID, len(r.Addresses), len(r.Draining), len(r.Busy), maxAddresses, maxDraining)
	}
	for _, text := range slices.Concat(r.Addresses, r.Draining, r.Busy, []string{r.Build, r.Epoch}) {
		if len(text) > maxReportText {
			return invalidf("", "proxy %s reports a text of %d bytes; at most %d are taken", r.ID, len(text), maxReportText)
		}
	}
	for id := range r.Requests {
		if len(id) > maxReportText {
			return invalidf("", "proxy %s counts requests to a version whose name has %d bytes", r.ID, len(id))
		}
	}
	return nil
}

// Proxies returns the stand-alone proxies that report to this server, ordered by ID.
func (c *Control) Proxies(context.Context) ([]api.Proxy, error) { return c.fleet.list(), nil }

// ReportProxy takes in what a stand-alone proxy says of itself. Its Requests may leave out
// versions whose number is as before.
func (c *Control) ReportProxy(_ context.Context, r api.ProxyReport) error { return c.fleet.report(r) }
