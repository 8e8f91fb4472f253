package traefik

import (
	"strings"

	"github.com/layover-dev/layover/internal/route"
)

// names makes the names of routers, services and middlewares of one environment. No name of a service, version or
// route has "--" in it, so that no two of these are equal; nor has any what Traefik's key-value stores or its own
// references give a meaning: "/", "@", or nothing but digits.
type names struct{ environment string }

// Prefix is how all names of an environment begin, and those of no other.
func Prefix(environment string) string { return join("layover", environment) + "--" }

func (n names) unrouted(service, group string) string { return n.of(service, "default", group) }
func (n names) routed(service, group string) string   { return n.of(service, "routed", group) }

func (n names) version(service, version, group string) string {
	return n.of(service, "version", version, group)
}

func (n names) route(service, name, group string) string {
	return n.of(service, "route", name, group)
}

// Of names that belong to no service, the part where its name would be is empty.
func (n names) previews(p route.Protocol) string { return n.of("", "previews", string(p)) }
func (n names) proxy(p route.Protocol) string    { return n.of("", "proxy", string(p)) }

func (n names) instances(service, version string) string { return n.of(service, "instances", version) }

func (n names) of(service string, parts ...string) string {
	name := Prefix(n.environment) + service
	for _, part := range parts {
		if part != "" {
			name = join(name, part)
		}
	}
	return name
}

func join(parts ...string) string { return strings.Join(parts, "--") }
