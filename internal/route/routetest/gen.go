// Package routetest makes tables and requests of any size, and measures what a
// decision costs with them. Benchmarks and proofs share it.
package routetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

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

// Requests makes requests that ask for the versions of an environment, each one as
// likely as any other.
type Requests struct {
	spec   *route.Spec
	random *rand.Rand
}

// NewRequests makes requests for the services of spec, which must be compiled (see
// [route.Table.Spec]); the same seed makes the same requests.
func NewRequests(spec *route.Spec, seed uint64) *Requests {
	return &Requests{spec: spec, random: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // for load, not for secrets
}

// Fill replaces batch by new requests.
func (g *Requests) Fill(batch []route.Request) {
	for i := range batch {
		s := &g.spec.Services[g.random.IntN(len(g.spec.Services))]
		name := s.Versions[g.random.IntN(len(s.Versions))].Name
		batch[i] = route.Request{
			Host:    s.Hosts[0] + ":8080",
			Baggage: []string{"tenant=t-1;ttl=60," + g.spec.BaggageKey + "=" + name + ",user=u-1"},
		}
	}
}

// Cost is what one Resolve takes: the median over batches of n requests in all,
// spread over the whole table. The requests are made just before they are decided,
// as they come from a connection in service, so that it is the table that is
// measured. It fails where a request is not answered by the version it asks for.
func Cost(t *route.Table, n int) (time.Duration, error) {
	const size = 256
	requests := NewRequests(t.Spec(), 1)
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
