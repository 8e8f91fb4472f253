package traefik

import (
	"maps"
	"strconv"
)

// Pairs is the configuration as Traefik's key-value providers read it, below a root key such as "traefik".
//
// A server has one key and no other belongs to its service, so that a service of which a reader sees a part
// is none, or lacks an instance: Traefik may read while a change is written.
func (c *Config) Pairs(root string) map[string]string {
	out := map[string]string{}
	for name, r := range c.HTTP.Routers {
		at := root + "/http/routers/" + name
		out[at+"/rule"], out[at+"/service"], out[at+"/priority"] = r.Rule, r.Service, strconv.Itoa(r.Priority)
		putList(out, at+"/entrypoints", r.EntryPoints)
		putList(out, at+"/middlewares", r.Middlewares)
		switch {
		case r.TLS == nil:
		case r.TLS.CertResolver != "":
			out[at+"/tls/certresolver"] = r.TLS.CertResolver
		default:
			out[at+"/tls"] = "true"
		}
	}
	for name, s := range c.HTTP.Services {
		for i, server := range s.LoadBalancer.Servers {
			out[root+"/http/services/"+name+"/loadbalancer/servers/"+strconv.Itoa(i)+"/url"] = server.URL
		}
	}
	for name, m := range c.HTTP.Middlewares {
		for header, value := range m.Headers.Response {
			out[root+"/http/middlewares/"+name+"/headers/customresponseheaders/"+header] = value
		}
	}
	return out
}

// Kinds are the beginnings of the keys of an environment below a root key: it has no others.
func Kinds(root, environment string) []string {
	kinds := []string{root + "/http/routers/", root + "/http/services/", root + "/http/middlewares/"}
	for i := range kinds {
		kinds[i] += Prefix(environment)
	}
	return kinds
}

func putList(out map[string]string, at string, list []string) {
	pairs := make(map[string]string, len(list))
	for i, item := range list {
		pairs[at+"/"+strconv.Itoa(i)] = item
	}
	maps.Copy(out, pairs)
}
