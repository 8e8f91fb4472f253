package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/gateway/redis"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
)

// Gateway is what the server needs to know of other data planes.
type Gateway struct {
	Traefik *traefik.Source // nil where none is configured
	Redis   *redis.Writer   // that the configuration is written by; nil where it is not
	Address string          // of Redis
}

func (s *Server) registerGateway() {
	register(s, operation{
		id: "get-traefik-configuration", tag: tagGateway, method: http.MethodGet, path: "/gateway/traefik",
		summary: "Get the configuration for Traefik",
		description: "Returns the routing table as dynamic configuration of Traefik 3, for its HTTP provider. The ETag is that of the content: with If-None-Match, " +
			"a configuration that is still the same is answered with 304 and no body. A server that was just started answers when it has found again what runs, or with 503.",
		response: &huma.Response{
			Description: "The configuration",
			Headers:     map[string]*huma.Param{"ETag": {Description: "Of the content", Schema: &huma.Schema{Type: huma.TypeString}}},
			Content:     map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}}},
		},
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, s.getTraefik)

	register(s, operation{
		id: "check-traefik", tag: tagGateway, method: http.MethodGet, path: "/api/v1/gateway/traefik",
		summary: "Check what becomes of requests through Traefik",
		description: "Says for each kind of request whether Traefik answers it by itself or leaves it to Layover's proxy, in what the two differ, and what has to be put right. " +
			"The server connects to each of Layover's proxies, from where it is.",
		errors: []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*answer[api.GatewayReport], error) {
		report, err := s.traefikReport(ctx)
		return reply(report), err
	})
}

type getTraefikInput struct {
	IfNoneMatch []string `header:"If-None-Match" doc:"ETags of configurations that the client has"`

	from string // address of a Traefik; "" of anybody else
}

// Resolve sees who asks. Traefik's provider says of nothing what it accepts; browsers, curl and `layover gateway show` do.
func (in *getTraefikInput) Resolve(ctx huma.Context) []error {
	if ctx.Header("Accept") != "" {
		return nil
	}
	if host, _, err := net.SplitHostPort(ctx.RemoteAddr()); err == nil {
		in.from = host
	}
	return nil
}

// gatewayWait is how long Traefik waits for an answer, and a little less.
const gatewayWait = 4 * time.Second

func (s *Server) getTraefik(ctx context.Context, in *getTraefikInput) (*huma.StreamResponse, error) {
	_, snapshot, err := s.traefik(ctx)
	if source := s.opts.Gateway.Traefik; source != nil && in.from != "" {
		source.Askers.Asked(in.from, time.Now(), err == nil)
	}
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("ETag", snapshot.ETag)
		ctx.SetHeader("Cache-Control", "no-cache") // keep it, but ask
		if matches(in.IfNoneMatch, snapshot.ETag) {
			ctx.SetStatus(http.StatusNotModified)
			return
		}
		ctx.SetHeader("Content-Type", "application/json")
		ctx.SetStatus(http.StatusOK)
		_, _ = ctx.BodyWriter().Write(snapshot.JSON) // the client may be gone
	}}, nil
}

// traefik returns the configuration of the table in force, which a server that was just started has not yet.
func (s *Server) traefik(ctx context.Context) (*route.Table, *traefik.Snapshot, error) {
	source := s.opts.Gateway.Traefik
	if source == nil {
		return nil, nil, notFoundf("set gateway.traefik.mode to hybrid or full", "this server has no configuration for Traefik")
	}
	wait, cancel := context.WithTimeout(ctx, gatewayWait)
	defer cancel()
	table, err := s.control.WaitTable(wait, route.Position{})
	if err != nil {
		return nil, nil, newProblem(http.StatusServiceUnavailable, api.CodeUnavailable,
			"try again: it is ready within seconds", "the server has not yet found again what runs")
	}
	snapshot, err := source.Of(table)
	if errors.Is(err, traefik.ErrNoProxy) {
		return table, nil, newProblem(http.StatusConflict, api.CodeConflict, noProxyHint, "%s: Traefik would have nowhere to send what it cannot decide", err)
	}
	return table, snapshot, err
}

const noProxyHint = "set gateway.traefik.proxy to the URLs at which Traefik reaches Layover's proxies"

func (s *Server) traefikReport(ctx context.Context) (api.GatewayReport, error) {
	report := api.GatewayReport{Proxies: []api.GatewayProxy{}, Lines: []api.GatewayLine{}, Problems: []string{}, Askers: []api.GatewayAsker{}}
	table, snapshot, err := s.traefik(ctx)
	if table == nil {
		return report, err
	}
	settings := s.opts.Gateway.Traefik.Settings()
	report.Environment = table.Environment().Environment
	report.Mode = string(settings.Mode)
	if snapshot == nil {
		var p problem
		if !errors.As(err, &p) {
			return report, err
		}
		report.Problems = append(report.Problems, p.Detail+"; "+p.Hint)
		return report, nil
	}
	report.Age = api.Duration(time.Since(snapshot.Since).Round(time.Millisecond))
	report.Routers, report.Bytes = len(snapshot.Config.HTTP.Routers), len(snapshot.JSON)
	for _, l := range traefik.Report(table, settings, snapshot.Config) {
		report.Lines = append(report.Lines, api.GatewayLine{What: l.What, Where: string(l.Where), Text: l.Text})
	}
	report.Proxies = reach(ctx, settings.Proxies)
	for _, p := range report.Proxies {
		if p.Problem != "" {
			report.Problems = append(report.Problems, "no connection to Layover's proxy at "+p.URL+": "+p.Problem)
		}
	}
	if w := s.opts.Gateway.Redis; w != nil {
		report.Redis = redisReport(s.opts.Gateway.Address, w.Status())
		if report.Redis.Problem != "" {
			report.Problems = append(report.Problems, "the configuration is not written to Redis at "+report.Redis.Address+", for "+
				rounded(time.Duration(report.Redis.Failing))+" now: "+report.Redis.Problem+"; Traefik goes on with the one it has")
		}
	}
	s.reportAskers(&report, time.Now())
	return report, nil
}

func redisReport(address string, status redis.Status) *api.GatewayRedis {
	out := &api.GatewayRedis{Address: address, Written: status.Written}
	if status.Err != nil {
		out.Problem = status.Err.Error()
		out.Failing = api.Duration(time.Since(status.Since).Round(time.Millisecond))
	}
	return out
}

// reportAskers tells who reads the configuration from this server. That nobody does any more has to be put right, unless
// Traefik has it from Redis; that one of several does not may be as it is meant.
func (s *Server) reportAskers(report *api.GatewayReport, now time.Time) {
	askers := s.opts.Gateway.Traefik.Askers.All(now)
	late := 0
	for _, a := range askers {
		report.Askers = append(report.Askers, api.GatewayAsker{
			From: a.From, Ago: api.Duration(now.Sub(a.Last).Round(time.Millisecond)), Every: api.Duration(a.Every.Round(time.Millisecond)), Late: a.Late(now),
		})
		if a.Late(now) {
			late++
		}
	}
	if late == 0 || late < len(askers) || report.Redis != nil && report.Redis.Written {
		return
	}
	last := askers[0]
	before := ""
	if last.Every > 0 {
		before = ", and did every " + rounded(last.Every) + " before"
	}
	report.Problems = append(report.Problems, fmt.Sprintf(
		"Traefik at %s has not asked for the configuration for %s%s: see whether it runs, and in its log whether it can connect to this server; it goes on with the configuration that it has",
		last.From, rounded(now.Sub(last.Last)), before))
}

// rounded is a duration as people say it.
func rounded(d time.Duration) string {
	if d < time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// reachTimeout is how long a proxy may take to accept a connection.
const reachTimeout = 2 * time.Second

// reach connects to each proxy.
func reach(ctx context.Context, urls []string) []api.GatewayProxy {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	out := make([]api.GatewayProxy, len(urls))
	var group errgroup.Group
	group.SetLimit(16)
	for i, text := range urls {
		group.Go(func() error {
			out[i].URL = text
			u, err := url.Parse(text)
			if err == nil {
				var conn net.Conn
				if conn, err = new(net.Dialer).DialContext(ctx, "tcp", u.Host); err == nil {
					_ = conn.Close()
				}
			}
			if err != nil {
				out[i].Problem = err.Error()
			}
			return nil
		})
	}
	_ = group.Wait() // each says for itself
	return out
}
