package server

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func TestRouteRequest(t *testing.T) {
	tests := map[string]struct {
		in   api.ExplainRequest
		want route.Request
	}{
		"a URL":             {api.ExplainRequest{URL: "http://cart.localhost:8080/items?a=b"}, route.Request{Host: "cart.localhost:8080"}},
		"no scheme":         {api.ExplainRequest{URL: "cart.localhost:8080/items"}, route.Request{Host: "cart.localhost:8080"}},
		"a host":            {api.ExplainRequest{URL: "cart"}, route.Request{Host: "cart"}},
		"two slashes":       {api.ExplainRequest{URL: "//cart/x"}, route.Request{Host: "cart"}},
		"a URL in the path": {api.ExplainRequest{URL: "https://cart/go?to=http://x"}, route.Request{Host: "cart"}},
		"an IPv6 address":   {api.ExplainRequest{URL: "[::1]:80"}, route.Request{Host: "[::1]:80"}},
		"web socket":        {api.ExplainRequest{URL: "ws://cart/live"}, route.Request{Host: "cart"}},
		"Host wins":         {api.ExplainRequest{URL: "http://127.0.0.1:8080", Headers: []string{"Host: cart.localhost"}}, route.Request{Host: "cart.localhost"}},
		"headers": {
			api.ExplainRequest{URL: "cart", Headers: []string{"baggage: a=b", "BAGGAGE:c=d", "Cookie: layover_route=x", "X-Route: y", "Accept: */*"}},
			route.Request{Host: "cart", Baggage: []string{"a=b", "c=d"}, Cookie: []string{"layover_route=x"}, Header: []string{"y"}},
		},
		"a route": {
			api.ExplainRequest{URL: "cart", Route: "feature-1"},
			route.Request{Host: "cart", Baggage: []string{"dynamic_route=feature-1"}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := routeRequest(tt.in, "dynamic_route", "x-route")
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestRouteRequestRouteComesFirst(t *testing.T) {
	got, err := routeRequest(api.ExplainRequest{
		URL: "cart", Route: "cart@pr-88~feature-1!", Headers: []string{"baggage: user=ada"},
	}, "dynamic_route", "")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(strings.Join(got.Baggage, ","), "dynamic_route="), got.Baggage)
	require.Contains(t, strings.Join(got.Baggage, ","), "user=ada")
}

func TestRouteRequestRefusesAllAtOnce(t *testing.T) {
	_, err := routeRequest(api.ExplainRequest{
		URL: "mailto://", Headers: []string{"no colon", "bad name: x", "ok: yes", "nul: a\x00b", strings.Repeat("x", 1000)},
	}, "dynamic_route", "")
	var p problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, 422, p.Status)
	require.Len(t, p.Errors, 5)
	for _, text := range p.Errors {
		require.Less(t, len(text), 200)
		require.NotContains(t, text, "\x00")
	}
}

// Whatever is described, the answer is a request with a host, or a problem that can be shown.
func FuzzRouteRequest(f *testing.F) {
	f.Add("http://cart.localhost:8080/x", "feature-1", "baggage: a=b")
	f.Add("cart", "cart@pr-88~main!", "Host: x\r\ny: z")
	f.Add("//[::1%25eth0]:80", "\x00", ":")
	f.Add("http://user:pw@cart:99999999", "%zz", "cookie:\xff")
	f.Fuzz(func(t *testing.T, url, routeText, header string) {
		in := api.ExplainRequest{URL: url, Route: routeText, Headers: []string{header}}
		got, err := routeRequest(in, "dynamic_route", "x-route")
		if err != nil {
			var p problem
			require.ErrorAs(t, err, &p)
			require.Equal(t, 422, p.Status)
			require.NotEmpty(t, p.Detail)
			return
		}
		hasHost := strings.EqualFold(strings.TrimSpace(strings.SplitN(header, ":", 2)[0]), "host")
		require.True(t, got.Host != "" || hasHost, "%q", url)
		require.NotContains(t, got.Host, "/")
		for _, lines := range [][]string{got.Baggage, got.Header, got.Cookie} {
			for _, line := range lines {
				require.NotContains(t, line, "\n")
			}
		}
		route.EmptyTable().Explain(&got) // must not panic
	})
}
