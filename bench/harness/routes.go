package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/layover-dev/layover/internal/route"
)

// Backends is how many addresses the backend answers at. The versions of a route
// set are spread over them, so that an answer shows whether it came from the right one,
// and the proxies' connections to them are kept, as those to versions in use are.
const Backends = 16

// Routes is a set of routes: services, each with so many versions, the default one
// among them. It is made of numbers only, so that every process can make the same.
type Routes struct {
	Services int            `json:"services"`
	Versions int            `json:"versions"` // of each service
	Protocol route.Protocol `json:"protocol"` // of the backend
}

// NewRoutes splits a number of versions over services: ten for each service, up to a thousand services.
// Proxies that try one router after the other are at their best with few versions for a host.
func NewRoutes(n int, protocol route.Protocol) Routes {
	services := min(max(n/10, 1), 1000)
	return Routes{Services: services, Versions: n / services, Protocol: protocol}
}

// Len is how many routes there are.
func (r Routes) Len() int { return r.Services * r.Versions }

// Host is the host of a service.
func (r Routes) Host(service int) string { return "service-" + strconv.Itoa(service) + ".bench.test" }

// Version is the name of a version of a service; 0 is the default one.
func (r Routes) Version(version int) string {
	if version == 0 {
		return route.DefaultVersion
	}
	return "feature-" + strconv.Itoa(version)
}

// Backend is the address that a version is at, counted from 0.
func (r Routes) Backend(service, version int) int { return (service*5 + version) % Backends }

// Baggage is the header that asks for a version, among members of others.
func Baggage(version string) string {
	return "tenant=t-1;ttl=60," + route.DefaultBaggageKey + "=" + version + ",user=u-1"
}

// each calls f for every route.
func (r Routes) each(f func(host, version string, backend int)) {
	for s := range r.Services {
		for v := range r.Versions {
			f(r.Host(s), r.Version(v), r.Backend(s, v))
		}
	}
}

// Spec is the set as Layover has it.
func (r Routes) Spec(b *Backend) route.Spec {
	spec := route.Spec{Revision: 1, Environment: "bench", Services: make([]route.Service, r.Services)}
	for s := range spec.Services {
		service := route.Service{
			Name: "service-" + strconv.Itoa(s), Hosts: []string{r.Host(s)},
			Protocol: r.spoken(), Versions: make([]route.Version, r.Versions),
		}
		for v := range service.Versions {
			service.Versions[v] = ready(r.Version(v), fmt.Sprintf("i-%d-%d", s, v), b.Address(r.Protocol, r.Backend(s, v)))
		}
		spec.Services[s] = service
	}
	return spec
}

// spoken is the protocol as proxies know it.
func (r Routes) spoken() route.Protocol {
	switch r.Protocol {
	case GRPC, BulkH2C:
		return route.H2C
	case Bulk:
		return route.HTTP1
	}
	return r.Protocol
}

func ready(name, instance, address string) route.Version {
	return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{{ID: instance, Address: address}}}
}

// Added is a version that a proxy learns while it runs.
type Added struct {
	Service int
	Name    string
	Backend int
}

// want is one route in use.
type want struct {
	host, version string
	backend       int
}

// inUse picks so many routes from anywhere in the set; 0 or more than there are picks all.
func (r Routes) inUse(n int, seed uint64) []want {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // for load, not for secrets
	var picked []want
	add := func(s, v int) { picked = append(picked, want{r.Host(s), r.Version(v), r.Backend(s, v)}) }
	if n <= 0 || n >= r.Len() {
		for s := range r.Services {
			for v := range r.Versions {
				add(s, v)
			}
		}
		return picked
	}
	for range n {
		add(random.IntN(r.Services), random.IntN(r.Versions))
	}
	return picked
}

// backendIP is the loopback address of a backend.
func backendIP(backend int) string { return net.IPv4(127, 0, 0, byte(2+backend)).String() } //nolint:gosec // there are few
