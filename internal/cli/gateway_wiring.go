package cli

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/gateway/redis"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server"
)

// openGateway makes what other data planes get their configuration from, where the file asks for any.
func (e *environment) openGateway(ctx context.Context) server.Gateway {
	t := e.file.Gateway.Traefik
	if t.Mode == config.TraefikOff {
		return server.Gateway{}
	}
	source := traefik.NewSource(e.traefikSettings)
	e.traefik = source
	if t.Redis.Address != "" {
		e.redis = redis.New(e.redisOptions(ctx, source))
	}
	return server.Gateway{Traefik: source, Redis: e.redis, Address: t.Redis.Address}
}

// traefikSettings are those of the file, with what is known of proxies and leases at the moment.
func (e *environment) traefikSettings() traefik.Settings {
	t := e.file.Gateway.Traefik
	s := traefik.Settings{
		Mode: traefik.Mode(t.Mode), Proxies: t.Proxy, EntryPoints: t.EntryPoints, Priority: t.Priority, TLS: t.TLS, CertResolver: t.CertResolver,
	}
	if len(s.Proxies) == 0 {
		s.Proxies = e.knownProxies()
	}
	if s.Mode == traefik.Full {
		s.Leased = e.control.Leased()
	}
	return s
}

// knownProxies are the URLs of the proxies whose address can be connected to from elsewhere: of a stand-alone one that
// reports the first, which is one without TLS, else of the one in this process.
func (e *environment) knownProxies() (urls []string) {
	if !e.apart {
		return []string{e.proxyURL()}
	}
	proxies, err := e.control.Proxies(context.Background())
	if err != nil {
		return nil
	}
	for _, p := range proxies {
		if len(p.Addresses) > 0 && isReachable(p.Addresses[0]) {
			urls = append(urls, "http://"+p.Addresses[0])
		}
	}
	if address := e.file.Proxy.Address; len(urls) == 0 && address != "" {
		urls = []string{"http://" + address}
	}
	return urls
}

// isReachable says whether an address to listen on names one to connect to.
func isReachable(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && host != "" && (ip == nil || !ip.IsUnspecified())
}

// redisStamp is the key of what was written last. It is not below the root key: Traefik need not look at it.
func redisStamp(environment string) string { return "layover--" + environment + "--traefik" }

func (e *environment) redisOptions(ctx context.Context, source *traefik.Source) redis.Options {
	r := e.file.Gateway.Traefik.Redis
	options := redis.Options{
		Address: r.Address, Username: r.Username, Database: r.Database, TLS: r.TLS,
		Own: traefik.Kinds(r.Prefix, e.file.Environment), Stamp: redisStamp(e.file.Environment),
		Fence: e.store.WaitProof, Told: e.redisTold(ctx), Logger: e.log,
		Tell: func(ctx context.Context, err error) { e.control.Tell(ctx, redisEvent(r.Address, err)) },
	}
	if file := e.file.RedisPasswordFile(); file != "" {
		options.Password = func() (string, error) {
			secret, err := readSecret(file)
			return string(secret), err
		}
	}
	var seen route.Position // Wanted and Wait are called in turn
	options.Wanted = func(ctx context.Context) (string, func() map[string]string, error) {
		table, err := e.firstTable(ctx)
		if err != nil {
			return "", nil, err
		}
		seen = table.Position()
		snapshot, err := source.Of(table)
		if err != nil {
			return "", nil, err
		}
		return snapshot.ETag, func() map[string]string { return snapshot.Config.Pairs(r.Prefix) }, nil
	}
	options.Wait = func(ctx context.Context) {
		_, _ = e.control.WaitTable(ctx, seen)
	}
	return options
}

// redisEvent tells that Traefik's configuration cannot be written to Redis, or, without an error, that it is again.
func redisEvent(address string, err error) api.Event {
	if err == nil {
		return api.Event{Type: api.EventGatewayMended, Message: "the configuration of Traefik is written to Redis at " + address + " again"}
	}
	return api.Event{Type: api.EventGatewayBroken, Message: "the configuration of Traefik cannot be written to Redis at " + address + ": " + err.Error() +
		"; Traefik goes on with the one it has (see: layover gateway check)"}
}

// redisTold says whether the last that was told of Redis is that it does not work: by a server before this one.
func (e *environment) redisTold(ctx context.Context) (told bool) {
	last, err := e.control.LastEvent(ctx)
	if err != nil {
		return false
	}
	events, err := e.control.Events(ctx, max(0, last-gatewayEvents), gatewayEvents)
	if err != nil {
		return false // it is told once more then
	}
	for _, event := range events {
		switch event.Type {
		case api.EventGatewayBroken:
			told = true
		case api.EventGatewayMended:
			told = false
		}
	}
	return told
}

// gatewayEvents is how many events are looked through for what was told last.
const gatewayEvents = 5000

// firstTable returns the table in force once what runs has been found again.
func (e *environment) firstTable(ctx context.Context) (*route.Table, error) {
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	table, err := e.control.WaitTable(wait, route.Position{})
	if err != nil && ctx.Err() == nil {
		err = errors.New("the server has not yet found again what runs")
	}
	return table, err
}
