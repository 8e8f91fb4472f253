package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// TraefikConfig returns the dynamic configuration for Traefik, as its HTTP provider reads it.
func (c *Client) TraefikConfig(ctx context.Context) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"gateway", "traefik"}, root: true, limit: maxTable}, &out)
	return out, err
}

// TraefikReport says what becomes of requests that come through Traefik.
func (c *Client) TraefikReport(ctx context.Context) (GatewayReport, error) {
	var out GatewayReport
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"gateway", "traefik"}}, &out)
	return out, err
}

// Forges returns the forges of the configuration. With check the server asks each, and says what is wrong.
func (c *Client) Forges(ctx context.Context, check bool) ([]Forge, error) {
	query := url.Values{}
	if check {
		query.Set("check", "true")
	}
	var out List[Forge]
	return out.Items, c.do(ctx, call{method: http.MethodGet, path: []string{"forges"}, query: query}, &out)
}
