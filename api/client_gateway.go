package api

import (
	"context"
	"encoding/json"
	"net/http"
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
