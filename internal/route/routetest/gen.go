// Package routetest makes tables and requests of any size, and measures what a
// decision costs with them. Benchmarks and proofs share it.
package routetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/layover-dev/layover/internal/route"
)

// Spec makes an environment of so many services, each with so many versions,
// "main" among them, all ready with one instance. Half of the versions have names
// that all services share, as the branch of a change across services has; the
// other half have names of their own.
func Spec(services, versionsPerService int) route.Spec {
	spec := route.Spec{Revision: 1, Environment: "generated", Services: make([]route.Service, services)}
	for i := range spec.Services {
		s := &spec.Services[i]
		s.Name = "service-" + strconv.Itoa(i)
		s.Versions = make([]route.Version, versionsPerService)
		for j := range s.Versions {
			s.Versions[j] = version(i, j)
		}
	}
	return spec
}

// Shape splits a number of versions over services: one service for every thousand
// versions, and at least ten where there are that many.
func Shape(versions int) (services, versionsPerService int) {
	services = max(versions/1000, min(versions, 10))
	return services, versions / services
}

func version(service, n int) route.Version {
	name := "feature-" + strconv.Itoa(n)
	switch {
	case n == 0:
		name = route.DefaultVersion
	case n%2 == 1:
		name = fmt.Sprintf("pr-%d-%d", service, n)
	}
	return route.Version{
		Name: name, State: route.Ready,
		Instances: []route.Instance{{
			ID:      fmt.Sprintf("i-%d-%d", service, n),
			Address: fmt.Sprintf("10.%d.%d.%d:8080", service%256, n/256%256, n%256),
		}},
	}
}

// Change makes the n-th of a row of changes, each of one version, for a table that
// began as [Spec] of so many services and versions: two give a version another
// instance, the next adds a version, and the one after removes it again.
func Change(t *route.Table, services, versionsPerService, n int) route.Change {
	of, j := n%services, 2*(n%max(versionsPerService/2, 1))
	c := route.VersionChange{}
	switch n % 4 {
	case 0, 1:
		v := version(of, j)
		v.Instances[0].Address = "127.0.0.1:" + strconv.Itoa(1+n%65535)
		c.Name, c.Version = v.Name, &v
	case 2:
		c.Name = "new-" + strconv.Itoa(n)
		c.Version = &route.Version{Name: c.Name, State: route.Starting}
	default:
		of, c.Name = (n-1)%services, "new-"+strconv.Itoa(n-1)
	}
	c.Service = "service-" + strconv.Itoa(of)
	return route.Change{Epoch: t.Position().Epoch, Base: t.Revision(), Revision: t.Revision() + 1, Versions: []route.VersionChange{c}}
}

// Requests makes requests that ask for versions of an environment.
type Requests struct {
	spec   *route.Spec
	random *rand.Rand
	inUse  []asked
	text   []byte // of the requests that were filled in last
}

// asked is what a request asks for.
type asked struct{ host, version string }

// NewRequests makes requests that ask for so many versions, chosen from all that
// there are, each as likely as any other; 0 asks for all there are. Spec must be
// compiled (see [route.Table.Spec]). The same seed makes the same requests.
func NewRequests(spec *route.Spec, inUse int, seed uint64) *Requests {
	g := &Requests{spec: spec, random: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // for load, not for secrets
	for range inUse {
		one := g.any() // with a copy of its own: the spec is not to be read while a table is measured
		g.inUse = append(g.inUse, asked{strings.Clone(one.host), strings.Clone(one.version)})
	}
	return g
}

// Fill replaces batch by new requests. Their text is where that of the last requests
// was, which must not be used any more: as a connection's buffer it stays in the
// processor's caches, and takes no room from the table there.
func (g *Requests) Fill(batch []route.Request) {
	g.text = g.text[:0]
	for i := range batch {
		one := g.next()
		batch[i] = route.Request{
			Host:    g.write(one.host, ":8080"),
			Baggage: append(batch[i].Baggage[:0], g.write("tenant=t-1;ttl=60,", g.spec.BaggageKey, "=", one.version, ",user=u-1")),
		}
	}
}

// write joins parts to one string, which is good until the next Fill.
func (g *Requests) write(parts ...string) string {
	start := len(g.text)
	for _, part := range parts {
		g.text = append(g.text, part...)
	}
	// Where append makes a larger array, what points into the older one stays good.
	return unsafe.String(&g.text[start], len(g.text)-start) //nolint:gosec // nobody has it any more when it is written over
}

func (g *Requests) next() asked {
	if len(g.inUse) == 0 {
		return g.any()
	}
	return g.inUse[g.random.IntN(len(g.inUse))]
}

func (g *Requests) any() asked {
	s := &g.spec.Services[g.random.IntN(len(g.spec.Services))]
	return asked{s.Hosts[0], s.Versions[g.random.IntN(len(s.Versions))].Name}
}

// Cost is what one Resolve takes: the median over batches of n requests in all,
// which ask for inUse versions from anywhere in the table (0: for all of them, so
// that hardly one is in the processor's caches). The requests are made just before
// they are decided, as in service they have just come from a connection, so that it
// is the table that is measured. It fails where a request is not answered by the
// version it asks for.
func Cost(t *route.Table, inUse, n int) (time.Duration, error) {
	const size = 256
	requests := NewRequests(t.Spec(), inUse, 1)
	batch := make([]route.Request, size)
	var took []time.Duration
	for len(took)*size < n {
		requests.Fill(batch)
		wrong := 0
		start := time.Now()
		for i := range batch {
			if d := t.Resolve(&batch[i]); d.Match != route.MatchName {
				wrong++
			}
		}
		took = append(took, time.Since(start)/size)
		if wrong > 0 {
			return 0, fmt.Errorf("%d of %d requests were not answered by the version they ask for", wrong, size)
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
