package shop

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// config is what the environment says about one instance.
type config struct {
	kind    string // which of the services this is
	service string // what it calls itself
	version string
	build   string // what the answer says of the program, "" for nothing
	host    string // address to listen on
	port    string

	cartURL            string
	pricingURL         string
	recommendationsURL string
	inventoryAddr      string // host:port; its host is also the authority of the calls
	layoverProxy       string // host:port of the proxy, or "" where inventoryAddr leads there by itself
	httpProxy          func(*http.Request) (*url.URL, error)

	discount    int    // percent off every price
	badge       string // text beside a reduced price
	dropBaggage bool
	crash       bool
	startDelay  time.Duration
	stopDelay   time.Duration // how long it serves on after SIGTERM
	export      bool          // send spans to the collector named by the OTEL_EXPORTER_OTLP_ variables
}

// readConfig reads the settings of service, and reports every problem at once.
func readConfig(service string, getenv func(string) string) (config, error) {
	env := reader{getenv: getenv}
	cfg := config{
		kind:    service,
		service: env.text("LAYOVER_SERVICE", service),
		version: env.text("LAYOVER_VERSION", "main"),
		build:   getenv("SHOP_BUILD"),
		host:    env.text("HOST", "127.0.0.1"),
		port:    env.text("PORT", "8080"),

		cartURL:            env.url("CART_URL", "http://cart.localhost:8080"),
		pricingURL:         env.url("PRICING_URL", "http://pricing.localhost:8080"),
		recommendationsURL: env.url("RECOMMENDATIONS_URL", "http://recommendations.localhost:8080"),
		inventoryAddr:      env.address("INVENTORY_ADDR", "inventory.localhost:8080"),
		layoverProxy:       env.address("LAYOVER_PROXY", ""),
		httpProxy:          http.ProxyFromEnvironment,

		discount:    env.percent("PRICING_DISCOUNT"),
		badge:       getenv("PRICING_BADGE"),
		dropBaggage: env.flag("SHOP_DROP_BAGGAGE"),
		crash:       env.flag("SHOP_CRASH"),
		startDelay:  env.duration("SHOP_START_DELAY"),
		stopDelay:   env.duration("SHOP_STOP_DELAY"),
		export:      getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "",
	}
	if cfg.badge == "" && cfg.discount > 0 {
		cfg.badge = fmt.Sprintf("%d %% off", cfg.discount)
	}
	return cfg, errors.Join(env.problems...)
}

// id returns service@version.
func (c config) id() string { return c.service + "@" + c.version }

// reader reads typed settings and collects what is wrong with them.
type reader struct {
	getenv   func(string) string
	problems []error
}

func (r *reader) problem(name, want string) {
	r.problems = append(r.problems, fmt.Errorf("%s is %q: want %s", name, r.getenv(name), want))
}

func (r *reader) text(name, fallback string) string {
	if v := r.getenv(name); v != "" {
		return v
	}
	return fallback
}

func (r *reader) flag(name string) bool {
	switch r.getenv(name) {
	case "", "0", "false":
		return false
	case "1", "true":
		return true
	}
	r.problem(name, "1 or 0")
	return false
}

func (r *reader) percent(name string) int {
	n, err := strconv.Atoi(r.text(name, "0"))
	if err != nil || n < 0 || n > 100 {
		r.problem(name, "a whole number from 0 to 100")
	}
	return n
}

func (r *reader) duration(name string) time.Duration {
	d, err := time.ParseDuration(r.text(name, "0s"))
	if err != nil || d < 0 {
		r.problem(name, "a duration such as 500ms")
	}
	return d
}

func (r *reader) url(name, fallback string) string {
	v := r.text(name, fallback)
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		r.problem(name, "a URL such as "+fallback)
	}
	return strings.TrimSuffix(v, "/")
}

func (r *reader) address(name, fallback string) string {
	v := r.text(name, fallback)
	if v == "" {
		return v
	}
	if host, port, err := net.SplitHostPort(v); err != nil || host == "" || port == "" {
		r.problem(name, "host:port")
	}
	return v
}
