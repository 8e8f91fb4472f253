// Package live asks a running Traefik by its API what it does with the configuration that Layover gives it, and says
// what has to be put right. It changes nothing.
package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// State is what a Traefik says of itself at one moment.
type State struct {
	Version     string   // "" where it does not say
	Providers   []string // as Traefik names them: Docker, HTTP, Redis
	EntryPoints []string
	Routers     []Router
	Services    []Service
}

// Router is a router of HTTP as Traefik runs it.
type Router struct {
	Name        string    `json:"name"` // with "@" and its provider
	Provider    string    `json:"provider"`
	EntryPoints []string  `json:"entryPoints"`
	Service     string    `json:"service"`
	Rule        string    `json:"rule"`
	Priority    int       `json:"priority"`
	TLS         *struct{} `json:"tls"`
	Status      string    `json:"status"`
	Errors      []string  `json:"error"`
}

// Service is a service of HTTP as Traefik runs it.
type Service struct {
	Name         string   `json:"name"`
	Provider     string   `json:"provider"`
	Status       string   `json:"status"`
	Errors       []string `json:"error"`
	LoadBalancer *struct {
		Servers []struct {
			URL string `json:"url"`
		} `json:"servers"`
	} `json:"loadBalancer"`
	ServerStatus map[string]string `json:"serverStatus"` // UP or DOWN, by URL
}

// statusEnabled is that of what Traefik uses without an objection.
const statusEnabled = "enabled"

const (
	perPage   = 500
	maxPages  = 1000
	maxBody   = 32 << 20
	maxSaid   = 200 // bytes of an answer that is no JSON
	askWithin = 20 * time.Second
)

// Client asks one Traefik.
type Client struct {
	base           *url.URL
	user, password string
	auth           bool
	http           *http.Client
}

// ErrURL says that a URL is none of an API.
var ErrURL = errors.New("it should look like http://traefik.internal:8080, with user:password@ where it wants them")

// New makes a client for Traefik's API at a URL, which may have a user and a password, and the path that the API is below. The
// password is in no error.
func New(address string) (*Client, error) {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrURL
	}
	c := &Client{base: u, http: &http.Client{
		Timeout:       askWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if u.User != nil {
		c.auth, c.user = true, u.User.Username()
		c.password, _ = u.User.Password()
		u.User = nil
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	for _, end := range []string{"/dashboard", "/api"} { // what people have in front of them
		u.Path = strings.TrimSuffix(u.Path, end)
	}
	u.RawPath = ""
	return c, nil
}

// URL is where it asks, without user and password.
func (c *Client) URL() string { return c.base.String() }

// State asks. Of services only those whose name has search in it are asked for.
func (c *Client) State(ctx context.Context, search string) (*State, error) {
	defer c.http.CloseIdleConnections()
	s := &State{}
	var version struct {
		Version string `json:"Version"`
	}
	var overview struct {
		Providers []string `json:"providers"`
	}
	if _, err := c.get(ctx, "/api/version", nil, &version); err != nil {
		return nil, err
	}
	if _, err := c.get(ctx, "/api/overview", nil, &overview); err != nil {
		return nil, err
	}
	s.Version, s.Providers = version.Version, overview.Providers
	points, err := all[struct {
		Name string `json:"name"`
	}](ctx, c, "/api/entrypoints", "")
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		s.EntryPoints = append(s.EntryPoints, p.Name)
	}
	if s.Routers, err = all[Router](ctx, c, "/api/http/routers", ""); err != nil {
		return nil, err
	}
	s.Services, err = all[Service](ctx, c, "/api/http/services", search)
	return s, err
}

// all reads a list page by page.
func all[T any](ctx context.Context, c *Client, path, search string) (list []T, err error) {
	for page := 1; page <= maxPages; {
		query := url.Values{"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(perPage)}}
		if search != "" {
			query.Set("search", search)
		}
		var items []T
		header, err := c.get(ctx, path, query, &items)
		if err != nil {
			return nil, err
		}
		list = append(list, items...)
		next, err := strconv.Atoi(header.Get("X-Next-Page"))
		if err != nil || next <= page { // 1 behind the last
			return list, nil
		}
		page = next
	}
	return nil, fmt.Errorf("%s%s has more than %d pages", c.URL(), path, maxPages)
}

// get asks for one path, and returns the header of the answer.
func (c *Client) get(ctx context.Context, path string, query url.Values, out any) (http.Header, error) {
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if c.auth {
		req.SetBasicAuth(c.user, c.password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("there is no answer of Traefik's API at %s: %w", c.URL(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := c.refusal(resp, path); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read %s%s: %w", c.URL(), path, err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("the answer of %s%s is longer than %d MiB", c.URL(), path, maxBody>>20)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("%s%s answers with something else than Traefik's API does: %q", c.URL(), path, clip(string(body)))
	}
	return resp.Header, nil
}

// refusal says what an answer without content means, and what to do.
func (c *Client) refusal(resp *http.Response, path string) error {
	switch at := c.URL() + path; {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s lets nobody in without the right user and password (%d): set LAYOVER_TRAEFIK to http://user:password@host:port", at, resp.StatusCode)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("there is no API of Traefik at %s (404): set api: {} in Traefik's static configuration, and give the URL of the router or entry point that leads to it", at)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		where := "elsewhere"
		if to, err := resp.Location(); err == nil {
			where = "to " + to.Scheme + "://" + to.Host
		}
		return fmt.Errorf("%s sends on %s (%d): give the URL that it is at", at, where, resp.StatusCode)
	default:
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxSaid)) // what there is of it
		return fmt.Errorf("%s answers %d: %q", at, resp.StatusCode, clip(string(said)))
	}
}

func clip(text string) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) > maxSaid {
		return strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	return text
}
