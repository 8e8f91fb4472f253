package telemetry

import "strings"

// Sampler says which share of the traces of a route is recorded.
type Sampler struct {
	Plain  float64 // of those without a route
	Routed float64 // of those with one that is not among Routes
	Routes []RouteShare
}

// RouteShare is the share of a route, or with a star at its end of all that begin so.
type RouteShare struct {
	Route string
	Share float64
}

// Share returns the share of a route's traces, from 0 to 1; the route is "" for those without.
func (s *Sampler) Share(route string) float64 {
	if route == "" {
		return s.Plain
	}
	for i := range s.Routes {
		name, share := s.Routes[i].Route, s.Routes[i].Share
		if beginning, many := strings.CutSuffix(name, "*"); name == route || many && strings.HasPrefix(route, beginning) {
			return share
		}
	}
	return s.Routed
}
