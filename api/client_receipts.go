package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// SendHops tells the server what a proxy saw. A batch may have 1 MiB as JSON.
func (c *Client) SendHops(ctx context.Context, b HopBatch) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"records"}, body: b}, nil)
}

// Receipt returns the receipt of a trace: 32 hex digits.
func (c *Client) Receipt(ctx context.Context, trace string) (Receipt, error) {
	var out Receipt
	return out, c.do(ctx, call{method: http.MethodGet, path: []string{"receipts", trace}}, &out)
}

// Requests returns the newest requests that a filter selects, oldest first, behind the one with the number after; 0 for all.
func (c *Client) Requests(ctx context.Context, f HopFilter, after uint64) (HopList, error) {
	query := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			query.Set(name, value)
		}
	}
	set("service", f.Service)
	set("version", f.Version)
	set("status", f.Status)
	set("run", f.Run)
	set("limit", strconv.Itoa(f.Limit))
	set("after", strconv.FormatUint(after, 10))
	if f.Lost {
		query.Set("lost", "true")
	}
	var out HopList
	return out, c.do(ctx, call{method: http.MethodGet, path: []string{"requests"}, query: query}, &out)
}

// XRay returns which services lose the route.
func (c *Client) XRay(ctx context.Context) (XRay, error) {
	var out XRay
	return out, c.do(ctx, call{method: http.MethodGet, path: []string{"xray"}}, &out)
}

// maxPicture bounds a picture, in bytes.
const maxPicture = 16 << 20

// XRayPicture returns the X-ray as a picture (SVG).
func (c *Client) XRayPicture(ctx context.Context) ([]byte, error) {
	res, err := c.send(ctx, call{method: http.MethodGet, path: []string{"xray.svg"}, header: http.Header{"Accept": {"image/svg+xml"}}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	return io.ReadAll(io.LimitReader(res.Body, maxPicture))
}

// Reached returns what the requests of a test run reached. One of which nothing is known reached nothing.
func (c *Client) Reached(ctx context.Context, run string) (Reached, error) {
	var out Reached
	return out, c.do(ctx, call{method: http.MethodGet, path: []string{"runs", run, "reached"}}, &out)
}

// Endpoints returns what was asked of versions, of a service or of all.
func (c *Client) Endpoints(ctx context.Context, f VersionFilter) ([]Endpoint, error) {
	query := url.Values{}
	if f.Service != "" {
		query.Set("service", f.Service)
	}
	if f.Version != "" {
		query.Set("version", f.Version)
	}
	var out List[Endpoint]
	return out.Items, c.do(ctx, call{method: http.MethodGet, path: []string{"endpoints"}, query: query}, &out)
}
