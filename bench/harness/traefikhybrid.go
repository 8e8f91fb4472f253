package harness

import (
	"context"
	"errors"

	gateway "github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
)

// TraefikHybrid is Traefik in front of Layover's proxy: it has the configuration that Layover's server gives it in
// the mode hybrid. Its process is Traefik's, and so are the figures of it.
type TraefikHybrid struct{}

// Name is "traefik-hybrid".
func (TraefikHybrid) Name() string { return "traefik-hybrid" }

// Install builds both.
func (TraefikHybrid) Install(ctx context.Context) error {
	return errors.Join(traefik{}.Install(ctx), Layover{}.Install(ctx))
}

// Start runs both.
func (TraefikHybrid) Start(ctx context.Context, s Setup) (*Running, error) {
	binary, err := traefikBinary()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	table, err := route.Compile(s.Routes.Spec(s.Backend))
	if err != nil {
		return nil, err
	}
	behind, err := Layover{}.Start(ctx, s)
	if err != nil {
		return nil, err
	}
	p, err := s.startHybrid(binary, address, table, behind.Address)
	if err != nil {
		behind.Process.Stop()
		behind.beside()
		return nil, err
	}
	return &Running{Process: p, Address: address, beside: func() {
		behind.Process.Stop()
		behind.beside()
	}}, nil
}

func (s Setup) startHybrid(binary, address string, table *route.Table, proxy string) (*Process, error) {
	config, err := gateway.Build(table, gateway.Settings{Mode: gateway.Hybrid, Proxies: []string{"http://" + proxy}})
	if err != nil {
		return nil, err
	}
	text, err := config.JSON()
	if err != nil {
		return nil, err
	}
	file, err := s.writeFile("traefik.yaml", string(text))
	if err != nil {
		return nil, err
	}
	return startTraefik(binary, address, ProxyCPU, "--providers.file.filename="+file)
}
