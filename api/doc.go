// Package api has the wire types of Layover's HTTP API, /api/v1, and a client for it.
//
// The types are the vocabulary of the whole system: the configuration file, the
// store and the console use the same ones.
package api

import "github.com/layover-dev/layover/internal/route"

// Table is what the data plane decides from, with its revision.
type Table = route.Spec

// NamedRoute is a route stored under a name.
type NamedRoute = route.NamedRoute
