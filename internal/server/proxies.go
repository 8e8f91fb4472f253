package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

func (s *Server) registerProxies() {
	register(s, operation{
		id: "list-proxies", tag: tagProxies, method: http.MethodGet, path: "/api/v1/proxies",
		summary: "List the stand-alone proxies",
		description: "Returns every proxy that reported within the last 30 s, ordered by ID, with how many revisions its table is behind and for how long. " +
			"The proxy inside of `layover up` is none of them: it always has the newest table.",
	}, func(ctx context.Context, _ *struct{}) (*answer[api.List[api.Proxy]], error) {
		proxies, err := s.control.Proxies(ctx)
		return listOf(proxies), err
	})

	register(s, operation{
		id: "report-proxy", tag: tagProxies, method: http.MethodPost, path: "/api/v1/proxies/{proxy}",
		summary: "Report a stand-alone proxy",
		description: "Takes in what a proxy says of itself: when it took up a table, when an instance that left its table has gone idle, and every few seconds. " +
			"Instances are ended only when every proxy has let go of them; one that reported nothing for 10 s is not waited for. " +
			"Of `requests` those versions may be left out whose number is as in the report before.",
		errors: []int{http.StatusServiceUnavailable},
		body:   true,
	}, func(ctx context.Context, in *reportProxyInput) (*struct{}, error) {
		if in.Body.ID != in.Proxy {
			return nil, invalidf("the path and the body name the same proxy", "the path names proxy %s, and the body %s", quote(in.Proxy), quote(in.Body.ID))
		}
		return nil, s.control.ReportProxy(ctx, in.Body)
	})
}

type reportProxyInput struct {
	Proxy string `path:"proxy" maxLength:"128" doc:"The proxy's ID" example:"edge-1"`
	Body  api.ProxyReport
}
