package shop

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestMain(m *testing.M) {
	if os.Getenv("SHOP_TEST_MAIN") != "" { // see process_test.go
		os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

func decode(t *testing.T, body string) Answer {
	t.Helper()
	var a Answer
	require.NoError(t, json.Unmarshal([]byte(body), &a), body)
	return a
}

func TestStorefront_AnswersWithTheWholeTree(t *testing.T) {
	f := newForwarder(t)
	f.startShop(t, nil)

	for _, path := range []string{"/", "/api/products"} {
		resp, body := f.get(t, path)
		require.Equal(t, http.StatusOK, resp.StatusCode, body)
		require.Equal(t, "application/json", resp.Header.Get("Content-Type"))

		a := decode(t, body)
		require.Equal(t, []string{
			"storefront@main", "cart@main", "pricing@main", "inventory@main", "recommendations@main", "inventory@main",
		}, a.Hops())
		require.True(t, a.Served("pricing@main"))
		require.False(t, a.Served("pricing@feature-1"))
		require.Len(t, a.Products, len(catalog()))
		require.Equal(t, Product{ID: "espresso", Name: "Terminal Espresso", Price: 350, Stock: 120, Quantity: 2}, a.Products[0])
		require.Equal(t, 2*350+8_900, a.Total)
		require.Equal(t, []string{"Terminal Espresso", "Postcard of the Runway"}, a.Recommended)

		// What the proxy said about each call, over HTTP and over gRPC.
		require.Equal(t, "cart@main", a.Calls[0].Routed)
		require.Equal(t, "pricing@main", a.Calls[0].Calls[0].Routed)
		require.Equal(t, "inventory@main", a.Calls[0].Calls[0].Calls[0].Routed)
		require.Equal(t, "recommendations@main", a.Calls[1].Routed)
	}
}

func TestRoute_SelectsAVersionInTheMiddleOfTheChain(t *testing.T) {
	f := newForwarder(t)
	f.startShop(t, nil)
	f.start(t, Pricing, "feature-1", map[string]string{"PRICING_DISCOUNT": "20"})

	_, body := f.get(t, "/", "baggage: "+testRoute)
	a := decode(t, body)
	require.Equal(t, []string{
		"storefront@main", "cart@main", "pricing@feature-1", "inventory@main", "recommendations@main", "inventory@main",
	}, a.Hops())
	require.Equal(t,
		Product{ID: "espresso", Name: "Terminal Espresso", Price: 280, Was: 350, Badge: "20 % off", Stock: 120, Quantity: 2},
		a.Products[0])

	_, page := f.get(t, "/", "baggage: "+testRoute, "Accept: text/html")
	require.Contains(t, page, "$2.80")
	require.Contains(t, page, "20 % off")
	require.Contains(t, page, "pricing@feature-1")

	_, page = f.get(t, "/", "Accept: text/html")
	require.Contains(t, page, "$3.50")
	require.NotContains(t, page, "% off")
	require.Contains(t, page, "pricing@main")
}

func TestPropagation_ReachesTheLastHop(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	f := newForwarder(t)
	f.startShop(t, nil)

	_, body := f.get(t, "/",
		"traceparent: 00-"+trace+"-00f067aa0ba902b7-01",
		"baggage: "+testRoute, "baggage: who=Ren%C3%A9%20X")
	for _, service := range Services() {
		require.Contains(t, f.header(service).Get("Traceparent"), trace, service)
		b := f.baggage(t, service)
		require.Equal(t, "feature-1", b.Member("dynamic_route").Value(), service)
		require.Equal(t, "René X", b.Member("who").Value(), service)
	}
	a := decode(t, body)
	require.Equal(t, trace, a.TraceID)
	require.Equal(t, trace, a.Calls[0].Calls[0].Calls[0].TraceID, "of the inventory, over gRPC")
}

func TestDropBaggage(t *testing.T) {
	cases := map[string]struct{ lost []string }{
		Storefront:      {lost: []string{Cart, Pricing, Inventory, Recommendations}},
		Cart:            {lost: []string{Pricing}},
		Pricing:         {}, // the inventory's last call is the one from recommendations
		Recommendations: {lost: []string{Inventory}},
	}
	for service, tc := range cases {
		t.Run(service, func(t *testing.T) {
			f := newForwarder(t)
			f.startShop(t, map[string]map[string]string{service: {"SHOP_DROP_BAGGAGE": "1"}})
			_, body := f.get(t, "/", "baggage: "+testRoute)
			trace := decode(t, body).TraceID
			for _, other := range Services() {
				want := "feature-1"
				if slices.Contains(tc.lost, other) {
					want = ""
				}
				require.Equal(t, want, f.baggage(t, other).Member("dynamic_route").Value(), other)
				if other != Storefront { // the test itself sent none
					require.Contains(t, f.header(other).Get("Traceparent"), trace, other)
				}
			}
		})
	}
}

func TestPage_Escapes(t *testing.T) {
	const evil = `<script>alert("1")</script>`
	f := newForwarder(t)
	f.startShop(t, map[string]map[string]string{
		Pricing: {"PRICING_DISCOUNT": "5", "PRICING_BADGE": evil},
		Cart:    {"LAYOVER_VERSION": evil},
	})
	resp, page := f.get(t, "/", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "Accept", resp.Header.Get("Vary"))
	require.NotContains(t, page, "<script")
	require.Equal(t, 1, strings.Count(page, "cart@&lt;script&gt;"), page)
	require.Equal(t, len(catalog()), strings.Count(page, `class="badge">&lt;script&gt;`), page)
}

func TestStorefront_ShowsWhereTheChainBroke(t *testing.T) {
	f := newForwarder(t)
	for _, service := range []string{Storefront, Cart, Recommendations, Inventory} {
		f.start(t, service, "main", nil)
	}
	resp, body := f.get(t, "/")
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	a := decode(t, body)
	require.Equal(t, []string{"storefront@main", "cart@main"}, a.Hops())
	require.Equal(t,
		"cart@main: call http://pricing.localhost:8080/prices: 503 Service Unavailable: no version of pricing answers", a.Error)

	resp, page := f.get(t, "/", "Accept: text/html")
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	require.Contains(t, page, "no version of pricing answers")
}

func TestPricing_SaysThatInventoryIsAway(t *testing.T) {
	f := newForwarder(t)
	for _, service := range []string{Storefront, Cart, Pricing} {
		f.start(t, service, "main", nil)
	}
	resp, body := f.get(t, "/")
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	a := decode(t, body)
	require.Equal(t, []string{"storefront@main", "cart@main", "pricing@main"}, a.Hops())
	require.Contains(t, a.Error, "call inventory: ")
}

func TestCaller_RefusesWhatIsNoAnswer(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	t.Cleanup(other.Close)
	f := newForwarder(t)
	f.start(t, Storefront, "main", nil)
	f.backends["cart@main"] = other.Listener.Addr().String()

	resp, body := f.get(t, "/")
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	require.Equal(t, "call http://cart.localhost:8080/cart: the answer is not the JSON of a shop service", decode(t, body).Error)
}

func TestServe_LetsCallsInFlightEnd(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, `{"served_by":"pricing@slow"}`)
	}))
	t.Cleanup(slow.Close)
	f := newForwarder(t)
	f.startShop(t, nil)
	stop := f.start(t, Cart, "main", nil) // takes the place of the first
	f.mu.Lock()
	f.backends["pricing@main"] = slow.Listener.Addr().String()
	addr := f.backends["cart@main"]
	f.mu.Unlock()

	stopped := make(chan error, 1)
	go func() {
		<-arrived
		go func() { stopped <- stop() }()
		for { // the end has begun where no new connection is accepted
			conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				break
			}
			_ = conn.Close()
			time.Sleep(time.Millisecond)
		}
		close(release)
	}()
	resp, body := f.get(t, "/")
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	require.True(t, decode(t, body).Served("pricing@slow"))
	require.NoError(t, <-stopped)
}

func TestHealth(t *testing.T) {
	f := newForwarder(t)
	f.startShop(t, nil)
	for _, service := range Services() {
		addr := f.backends[service+"@main"]
		if service == Inventory {
			conn, err := grpc.NewClient(addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			health, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			require.NoError(t, err)
			require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, health.GetStatus())
			continue
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/healthz", http.NoBody)
		require.NoError(t, err)
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusNoContent, resp.StatusCode, service)
	}
}

func TestTelemetry_SendsSpansWhereAnEndpointIsSet(t *testing.T) {
	spans := make(chan []byte, 16)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && r.URL.Path == "/v1/traces" {
			spans <- body
		}
	}))
	t.Cleanup(collector.Close)
	// OpenTelemetry's exporter and resource read the environment of the process themselves.
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_SERVICE_NAME", "named-by-otel")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "layover.version=feature-9")

	f := newForwarder(t)
	stop := f.start(t, Cart, "main", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	f.start(t, Storefront, "main", nil)
	f.get(t, "/")
	require.NoError(t, stop())

	sent := <-spans // the batch that the end of the service sends
	require.Contains(t, string(sent), "named-by-otel")
	require.Contains(t, string(sent), "feature-9")
}
