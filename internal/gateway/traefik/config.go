package traefik

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Config is a dynamic configuration, as far as it is needed here. Traefik refuses one with an element that is
// there and empty.
type Config struct {
	HTTP HTTP `json:"http,omitzero"`
}

// HTTP has routers, services and middlewares by their names.
type HTTP struct {
	Routers     map[string]*Router     `json:"routers,omitempty"`
	Services    map[string]*Service    `json:"services,omitempty"`
	Middlewares map[string]*Middleware `json:"middlewares,omitempty"`
}

// IsZero says whether there is nothing in it.
func (h HTTP) IsZero() bool { return len(h.Routers)+len(h.Services)+len(h.Middlewares) == 0 }

// Router leads the requests that its rule is true of to a service.
type Router struct {
	EntryPoints []string   `json:"entryPoints,omitempty"`
	Middlewares []string   `json:"middlewares,omitempty"`
	Service     string     `json:"service"`
	Rule        string     `json:"rule"`
	Priority    int        `json:"priority"`
	TLS         *RouterTLS `json:"tls,omitempty"`
}

// RouterTLS makes a router one for TLS.
type RouterTLS struct {
	CertResolver string `json:"certResolver,omitempty"`
}

// Service is a set of servers.
type Service struct {
	LoadBalancer *LoadBalancer `json:"loadBalancer"`
}

// LoadBalancer sends requests to its servers in turn.
type LoadBalancer struct {
	Servers []Server `json:"servers"`
}

// Server is one of them.
type Server struct {
	URL string `json:"url"`
}

// Middleware changes answers on their way.
type Middleware struct {
	Headers *Headers `json:"headers"`
}

// Headers sets header fields of the answer.
type Headers struct {
	Response map[string]string `json:"customResponseHeaders"`
}

func newConfig() *Config {
	return &Config{HTTP: HTTP{Routers: map[string]*Router{}, Services: map[string]*Service{}, Middlewares: map[string]*Middleware{}}}
}

// JSON is the configuration as Traefik's HTTP provider reads it. Equal configurations have equal texts.
func (c *Config) JSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("write the configuration of Traefik: %w", err)
	}
	return b.Bytes(), nil
}

// Proxies are the addresses, as host:port, of Layover's proxies in it.
func (c *Config) Proxies() (addresses []string) {
	for name, s := range c.HTTP.Services {
		if !isProxy(name) {
			continue
		}
		for _, server := range s.LoadBalancer.Servers {
			if _, address, ok := strings.Cut(server.URL, "://"); ok {
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// Parse reads what [Config.JSON] wrote.
func Parse(data []byte) (*Config, error) {
	c := newConfig()
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("read the configuration of Traefik: %w", err)
	}
	return c, nil
}
