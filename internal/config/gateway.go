package config

import (
	"net/url"
	"strconv"
	"strings"
)

// Gateway are the data planes other than Layover's own proxy.
type Gateway struct {
	Traefik Traefik `yaml:"traefik,omitempty" doc:"Traefik 3, which reads its dynamic configuration at /gateway/traefik of the server, or in Redis"`
}

// Traefik says what Traefik answers itself, and where it finds Layover's proxies.
type Traefik struct {
	Mode         string   `yaml:"mode,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_MODE" default:"off" enum:"off,hybrid,full" doc:"What Traefik answers itself. off: there is no configuration for it. hybrid: requests without a route, and all others go to Layover's proxy. full: also requests that name one version; a router for each. With either, instances that leave get their whole drain time"`
	Proxy        []string `yaml:"proxy,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_PROXY" doc:"URLs at which Traefik reaches Layover's proxies. Default: the first address of each stand-alone proxy that reports, or of the proxy inside of layover up" example:"http://10.0.0.7:8080"`
	EntryPoints  []string `yaml:"entry_points,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_ENTRY_POINTS" doc:"Traefik's entry points for the services. Default: Traefik's own default ones" example:"websecure"`
	Priority     int      `yaml:"priority,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_PRIORITY" default:"1000000" minimum:"-1000000000" maximum:"1000000000" doc:"Priority of the routers; they take the next 1,300 too. Routers without one have the length of their rule: the default is above those, and -10000 below all of them"`
	TLS          bool     `yaml:"tls,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_TLS" default:"false" doc:"The routers are for TLS, with the certificates that Traefik has"`
	CertResolver string   `yaml:"cert_resolver,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_CERT_RESOLVER" doc:"Traefik's resolver that gets the certificates. Needs tls" example:"letsencrypt"`
	Redis        Redis    `yaml:"redis,omitempty" doc:"A Redis that the configuration is written to as well, for changes within milliseconds"`
}

// Redis is where Traefik's Redis provider reads.
type Redis struct {
	Address      string `yaml:"address,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_REDIS_ADDRESS" doc:"host:port of Redis. Default: none, and nothing is written" example:"10.0.0.9:6379"`
	Prefix       string `yaml:"prefix,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_REDIS_PREFIX" default:"traefik" doc:"Root key of Traefik's provider. Below it only keys are touched whose names begin with layover-- and the name of the environment"`
	Username     string `yaml:"username,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_REDIS_USERNAME" doc:"User of Redis. Default: its default user" example:"layover"`
	PasswordFile string `yaml:"password_file,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_REDIS_PASSWORD_FILE" doc:"File with the password, relative to the folder of this one. It is read for each connection" example:"redis.secret"`
	Database     int    `yaml:"database,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_REDIS_DATABASE" default:"0" minimum:"0" maximum:"16384" doc:"Number of the database"`
	TLS          bool   `yaml:"tls,omitempty" env:"LAYOVER_GATEWAY_TRAEFIK_REDIS_TLS" default:"false" doc:"Speak TLS to Redis"`
}

// prioritiesTaken is how many priorities the routers take at most.
const prioritiesTaken = 1300

// TraefikOff is the mode without a configuration for Traefik.
const TraefikOff = "off"

func defaultGateway() Gateway {
	return Gateway{Traefik: Traefik{Mode: TraefikOff, Priority: 1_000_000, Redis: Redis{Prefix: "traefik"}}}
}

// RedisPasswordFile returns the path of Redis's password, "" where it has none.
func (f *File) RedisPasswordFile() string {
	if f.Gateway.Traefik.Redis.PasswordFile == "" {
		return ""
	}
	return f.absolute(f.Gateway.Traefik.Redis.PasswordFile)
}

func (k checker) gateway() {
	p, t := path{"gateway", "traefik"}, k.file.Gateway.Traefik
	for i, address := range t.Proxy {
		k.proxyURL(address, p.with("proxy", strconv.Itoa(i)))
	}
	for i, name := range t.EntryPoints {
		if !isToken(name) {
			k.value(p.with("entry_points", strconv.Itoa(i)), "write the name of an entry point such as web", "%q cannot be the name of one", clip(name))
		}
	}
	if t.Priority > -prioritiesTaken && t.Priority <= 0 {
		k.value(p.with("priority"), "write -10000 to run beside what is there, or take it out", "the priorities from %d on would include 0, which Traefik takes for none", t.Priority)
	}
	if t.CertResolver != "" && !t.TLS {
		k.value(p.with("cert_resolver"), "add tls: true", "routers without TLS have no certificate")
	} else if t.CertResolver != "" && !isToken(t.CertResolver) {
		k.value(p.with("cert_resolver"), "write the name of a resolver such as letsencrypt", "%q cannot be the name of one", clip(t.CertResolver))
	}
	k.redis(t, p.with("redis"))
}

func (k checker) redis(t Traefik, p path) {
	if t.Redis.Address == "" {
		if t.Redis.PasswordFile != "" || t.Redis.Username != "" {
			k.key(p, "add address: with host and port", "there is no Redis to log in to")
		}
		return
	}
	k.reachable(t.Redis.Address, p.with("address"))
	if t.Mode == TraefikOff {
		k.value(p.with("address"), "set mode: to hybrid or full", "nothing is written with mode off")
	}
	if !isKey(t.Redis.Prefix) {
		k.value(p.with("prefix"), "use letters, digits, -, _ and / between them, such as traefik", "%q cannot be a root key", clip(t.Redis.Prefix))
	}
}

// isKey says whether s is a key that Redis's patterns take as it is.
func isKey(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || len(s) > 200 || strings.Trim(strings.ToLower(part), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func (k checker) proxyURL(address string, p path) {
	before := len(k.problems)
	k.url(address, p)
	if u, err := url.Parse(address); err == nil && len(k.problems) == before && u.Port() == "" {
		k.value(p, "add the port, such as "+u.Scheme+"://"+u.Hostname()+":8080", "%q has no port", clip(address))
	}
}
