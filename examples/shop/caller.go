package shop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/layover-dev/layover/examples/shop/inventorypb"
)

const (
	// servedByHeader says on each response which version the proxy chose.
	servedByHeader = "Layover-Served-By"

	// callTimeout leaves room for the proxy to hold a call while a version starts.
	callTimeout = 40 * time.Second

	// maxAnswer bounds what is read of another service's answer, in bytes.
	maxAnswer = 1 << 20
)

// caller calls the other services, through the proxy.
type caller struct {
	transport *http.Transport
	http      *http.Client
	conn      *grpc.ClientConn
	inventory inventorypb.InventoryClient
}

// newCaller prepares the clients. No connection is made before the first call.
func newCaller(cfg config, otel *telemetry) (*caller, error) {
	transport := &http.Transport{Proxy: cfg.httpProxy, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second}
	traced := otelhttp.NewTransport(transport,
		otelhttp.WithTracerProvider(otel.provider), otelhttp.WithPropagators(otel.outgoing))
	conn, err := dialInventory(cfg, otel)
	if err != nil {
		return nil, err
	}
	return &caller{
		transport: transport,
		http:      &http.Client{Transport: traced, Timeout: callTimeout},
		conn:      conn,
		inventory: inventorypb.NewInventoryClient(conn),
	}, nil
}

// dialInventory connects to the inventory. HTTP_PROXY is of no use here: grpc-go
// would ask the proxy for a CONNECT tunnel, in which no call can be routed. So
// where the proxy has to be named, LAYOVER_PROXY names it: the connection goes
// there, and the authority of each call still names the inventory. Elsewhere the
// name of the inventory resolves to the proxy.
func dialInventory(cfg config, otel *telemetry) (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(cfg.inventoryAddr)
	if err != nil {
		return nil, fmt.Errorf("read INVENTORY_ADDR: %w", err)
	}
	target := "dns:///" + cfg.inventoryAddr
	if cfg.layoverProxy != "" {
		target = "dns:///" + cfg.layoverProxy
	}
	retry := backoff.DefaultConfig
	retry.MaxDelay = time.Second // a proxy that restarts is back soon
	conn, err := grpc.NewClient(target,
		grpc.WithAuthority(host),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 5 * time.Second}),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(otel.provider), otelgrpc.WithPropagators(otel.outgoing))))
	if err != nil {
		return nil, fmt.Errorf("prepare calls to %s: %w", target, err)
	}
	return conn, nil
}

// close ends all connections.
func (c *caller) close() {
	c.transport.CloseIdleConnections()
	_ = c.conn.Close() // fails only where it is closed already
}

// get calls an HTTP service. Where the service itself answers that it could not
// finish, that answer comes with the error, so that the tree shows where it broke.
func (c *caller) get(ctx context.Context, url string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return Answer{}, fmt.Errorf("call %s: %w", url, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("call: %w", err) // it names the method and the URL
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Answer{}, fmt.Errorf("read answer of %s: %w", url, err)
	}
	var answer Answer
	err = json.Unmarshal(body, &answer)
	answer.Routed = resp.Header.Get(servedByHeader)
	switch {
	case resp.StatusCode != http.StatusOK && answer.ServedBy != "":
		return answer, fmt.Errorf("%s: %s", answer.ServedBy, answer.Error)
	case resp.StatusCode != http.StatusOK:
		return Answer{}, fmt.Errorf("call %s: %s%s", url, resp.Status, detail(body))
	case err != nil || answer.ServedBy == "":
		return Answer{}, fmt.Errorf("call %s: the answer is not the JSON of a shop service", url)
	}
	return answer, nil
}

// stock asks the inventory for the stock of all products, by product id.
func (c *caller) stock(ctx context.Context) (map[string]int, Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := &inventorypb.GetStockRequest{}
	for _, p := range catalog() {
		req.ProductIds = append(req.ProductIds, p.ID)
	}
	var header metadata.MD
	resp, err := c.inventory.GetStock(ctx, req, grpc.Header(&header))
	if err != nil {
		return nil, Answer{}, fmt.Errorf("call inventory: %w", err)
	}
	stock := make(map[string]int, len(resp.GetLevels()))
	for _, level := range resp.GetLevels() {
		stock[level.GetProductId()] = int(level.GetQuantity())
	}
	answer := Answer{ServedBy: resp.GetServedBy(), TraceID: resp.GetTraceId()}
	if routed := header.Get(servedByHeader); len(routed) > 0 {
		answer.Routed = routed[0]
	}
	return stock, answer, nil
}

// detail returns what a problem document (RFC 9457) says, in the form ": detail".
func detail(body []byte) string {
	var problem struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) != nil {
		return ""
	}
	for _, text := range []string{problem.Detail, problem.Title} {
		if text != "" {
			return ": " + text
		}
	}
	return ""
}
