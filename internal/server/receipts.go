package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/receipt"
)

// Receipts keeps what proxies saw of requests. Implementations are safe for concurrent use.
type Receipts interface {
	Add(batch api.HopBatch)
	Receipt(trace string) (api.Receipt, bool)
	Hops(f api.HopFilter, after uint64) (hops []api.Hop, last uint64, news <-chan struct{})
	XRay() api.XRay
	Reached(run string) (api.Reached, bool)
	Endpoints(f api.VersionFilter) []api.Endpoint
}

type recordsInput struct {
	Body api.HopBatch
}

type receiptInput struct {
	Trace string `path:"trace" pattern:"^[0-9a-f]{32}$" doc:"Trace id, 32 hex digits" example:"4bf92f3577b34da6a3ce929d0e0e4736"`
}

type requestsInput struct {
	VersionQuery
	Status string `query:"status" pattern:"^[1-5]([0-9][0-9]|xx)$" doc:"Only those that were answered so: a status, or a class" example:"5xx"`
	Lost   bool   `query:"lost" doc:"Only those whose route a service before them lost, where healing looks for that"`
	Run    string `query:"run" maxLength:"63" doc:"Only those of this test run" example:"ci-8812"`
	After  uint64 `query:"after" doc:"Only those that came behind the one with this number: last of an earlier answer"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"How many at most, the newest; 0 means 100"`
}

type pictureOutput struct {
	ContentType string `header:"Content-Type"`
	Policy      string `header:"Content-Security-Policy"`
	Body        []byte
}

func (s *Server) registerReceipts() {
	register(s, operation{
		id: "add-records", tag: tagRequests, method: http.MethodPost, path: "/api/v1/records",
		summary:     "Tell of requests",
		description: "Takes in what a proxy saw of requests since it last told of them. What it could not tell of it counts.",
		body:        true,
	}, func(_ context.Context, in *recordsInput) (*struct{}, error) {
		s.receipts.Add(in.Body)
		return nil, nil //nolint:nilnil // an empty answer
	})

	register(s, operation{
		id: "get-receipt", tag: tagRequests, method: http.MethodGet, path: "/api/v1/receipts/{trace}",
		summary: "Read a receipt",
		description: "Returns through which versions the requests of a trace really passed, as a tree. Calls are joined by their trace and by the instance that made them. " +
			"Recent requests are known, the newest of each version, as long as there is room.",
	}, func(_ context.Context, in *receiptInput) (*answer[api.Receipt], error) {
		out, ok := s.receipts.Receipt(in.Trace)
		if !ok {
			return nil, notFoundf("proxies tell of a request within a second of its end; GET /api/v1/requests lists the newest", "no request with trace %s is known", in.Trace)
		}
		return reply(out), nil
	})

	register(s, operation{
		id: "list-requests", tag: tagRequests, method: http.MethodGet, path: "/api/v1/requests",
		summary:     "List requests",
		description: "Returns the newest requests that proxies told of, oldest first. To follow them, ask again with `after`.",
	}, func(_ context.Context, in *requestsInput) (*answer[api.HopList], error) {
		hops, last, _ := s.receipts.Hops(api.HopFilter{Service: in.Service, Version: in.Version, Status: in.Status, Lost: in.Lost, Run: in.Run, Limit: in.Limit}, in.After)
		if hops == nil {
			hops = []api.Hop{}
		}
		return reply(api.HopList{Items: hops, Last: last}), nil
	})

	register(s, operation{
		id: "get-reached", tag: tagRequests, method: http.MethodGet, path: "/api/v1/runs/{run}/reached",
		summary: "See what a test run reached",
		description: "Returns which versions the requests of a test run reached, from where and why, and what was asked of each. A request is of the run that its baggage names (`layover_run`), " +
			"or of that of the request it belongs to. " +
			"It counts a few seconds behind its end: `judged` says up to when.",
	}, func(_ context.Context, in *struct {
		Run string `path:"run" maxLength:"63" doc:"ID of the run" example:"ci-8812"`
	},
	) (*answer[api.Reached], error) {
		out, _ := s.receipts.Reached(in.Run)
		return reply(out), nil
	})

	register(s, operation{
		id: "list-endpoints", tag: tagRequests, method: http.MethodGet, path: "/api/v1/endpoints",
		summary:     "List endpoints",
		description: "Returns what was asked of versions lately, by whomever: methods, and paths with {id} for what names one thing among many.",
	}, func(_ context.Context, in *struct{ VersionQuery }) (*answer[api.List[api.Endpoint]], error) {
		return listOf(s.receipts.Endpoints(api.VersionFilter{Service: in.Service, Version: in.Version})), nil
	})

	register(s, operation{
		id: "get-xray", tag: tagRequests, method: http.MethodGet, path: "/api/v1/xray",
		summary: "Read the propagation X-ray",
		description: "Returns for each version that calls a service how many of its calls should have carried a route and how many did, with a verdict. " +
			"A call counts a few seconds behind its end, and only where it is known what it belongs to.",
	}, func(context.Context, *struct{}) (*answer[api.XRay], error) { return reply(s.receipts.XRay()), nil })

	register(s, operation{
		id: "get-xray-picture", tag: tagRequests, method: http.MethodGet, path: "/api/v1/xray.svg",
		summary:     "See the propagation X-ray",
		description: "Returns the services and who calls whom as a picture, with the edges that lose the route in red.",
		response:    &huma.Response{Description: "The picture", Content: map[string]*huma.MediaType{"image/svg+xml": {}}},
	}, func(context.Context, *struct{}) (*pictureOutput, error) {
		var b strings.Builder
		receipt.Draw(&b, s.receipts.XRay())
		return &pictureOutput{ContentType: "image/svg+xml", Policy: "default-src 'none'; style-src 'unsafe-inline'", Body: []byte(b.String())}, nil
	})
}

// noReceipts keeps nothing.
type noReceipts struct{}

func (noReceipts) Add(api.HopBatch)                           {}
func (noReceipts) Receipt(string) (api.Receipt, bool)         { return api.Receipt{}, false }
func (noReceipts) Reached(string) (api.Reached, bool)         { return api.Reached{}, false }
func (noReceipts) Endpoints(api.VersionFilter) []api.Endpoint { return nil }
func (noReceipts) XRay() api.XRay                             { return api.XRay{Edges: []api.XRayEdge{}} }

func (noReceipts) Hops(api.HopFilter, uint64) ([]api.Hop, uint64, <-chan struct{}) {
	return nil, 0, nil
}
