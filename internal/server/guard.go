package server

import (
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
)

// guard decides which requests are let in at all.
type guard struct {
	hosts   map[string]bool
	origins map[string]bool
}

func newGuard(hosts, origins []string) (guard, error) {
	g := guard{hosts: map[string]bool{}, origins: map[string]bool{}}
	for _, h := range hosts {
		name := hostname(h)
		if name == "" {
			return guard{}, fmt.Errorf("allowed host %q is not a host name", h)
		}
		g.hosts[name] = true
	}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Path != "" || u.RawQuery != "" {
			return guard{}, fmt.Errorf("allowed origin %q is not of the form https://host:port", o)
		}
		g.origins[strings.ToLower(o)] = true
	}
	return g, nil
}

// guarding lets only those requests through that a program, or a page of this
// server, may have sent.
func (s *Server) guarding(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")

		if !s.guard.hostAllowed(r) {
			writeProblem(w, newProblem(http.StatusForbidden, api.CodeForbidden,
				"use a loopback address, or add the name to the server's allowed hosts",
				"this server does not answer for the host %q", r.Host))
			return
		}
		origin := r.Header.Get("Origin")
		if !s.guard.pageAllowed(r) {
			writeProblem(w, newProblem(http.StatusForbidden, api.CodeForbidden,
				"add the page's origin to the server's allowed origins",
				"requests from web pages of another origin are refused"))
			return
		}
		if origin != "" && s.guard.origins[strings.ToLower(origin)] {
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Vary", "Origin")
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				h.Set("Access-Control-Allow-Methods", "GET, PUT, POST, DELETE")
				h.Set("Access-Control-Allow-Headers", "Content-Type, Last-Event-ID, If-None-Match, "+api.HeaderActor)
				h.Set("Access-Control-Max-Age", "600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		if !contentTypeAllowed(r) {
			writeProblem(w, newProblem(http.StatusUnsupportedMediaType, api.CodeInvalid,
				"send the header Content-Type: application/json",
				"a body must be JSON, and say so"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed says whether the request is addressed to a name that is ours. An IP
// address is ours where the connection came in at it.
func (g guard) hostAllowed(r *http.Request) bool {
	name := hostname(r.Host)
	if name == "localhost" || g.hosts[name] {
		return true
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	if addr.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	return err == nil && at.Addr().Unmap().WithZone("") == addr.WithZone("")
}

// pageAllowed says whether the request comes from no web page, from one of this
// server, or from one of an allowed origin. Following a link to here is allowed.
func (g guard) pageAllowed(r *http.Request) bool {
	if origin := strings.ToLower(r.Header.Get("Origin")); origin != "" {
		return g.origins[origin] || origin == ownOrigin(r)
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return true
	}
	return slices.Contains([]string{http.MethodGet, http.MethodHead}, r.Method) &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

func ownOrigin(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + strings.ToLower(r.Host)
}

// contentTypeAllowed refuses bodies that are not declared as JSON: a page can
// send others without asking first.
func contentTypeAllowed(r *http.Request) bool {
	if r.ContentLength == 0 {
		return true
	}
	mt, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mt != "application/json" {
		return false
	}
	charset, ok := params["charset"]
	return !ok || strings.EqualFold(charset, "utf-8")
}

// hostname returns the host of "host", "host:port", "[ip]" or "[ip]:port" in
// lower case, without a trailing dot.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
