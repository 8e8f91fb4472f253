package cli

import (
	"log/slog"
	"os"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/proxy"
)

// proxyOptions are the settings of the file for a proxy.
func proxyOptions(file *config.File, log *slog.Logger) proxy.Options {
	limits, health := file.Proxy.Limits, file.Proxy.PassiveHealth
	return proxy.Options{
		TrustForwarded:    config.Networks(file.Proxy.TrustForwarded),
		ProxyProtocolFrom: config.Networks(file.Proxy.ProxyProtocolFrom),
		Logger:            log,
		HeaderTimeout:     time.Duration(limits.HeaderTimeout),
		IdleTimeout:       time.Duration(limits.IdleTimeout),
		Header:            proxy.HeaderLimits{Bytes: limits.HeaderBytes, Fields: limits.HeaderFields, Memory: orNone(limits.HeaderMemory)},
		Health: proxy.Health{
			ConnectFailures: orNone(health.ConnectFailures),
			ServerErrors:    orNone(health.ServerErrors),
			FirstPause:      time.Duration(health.FirstPause),
			LongestPause:    time.Duration(health.LongestPause),
		},
		Healing: proxy.Healing{Traces: orNone(file.Proxy.LostRoutes.Traces), TTL: time.Duration(file.Proxy.LostRoutes.For)},
		Concurrency: proxy.Concurrency{
			PerVersion: orNone(limits.RequestsPerVersion),
			Queue:      orNone(limits.Queue),
			Wait:       time.Duration(limits.QueueWait),
		},
		Connections: proxy.Connections{
			All:       orNone(limits.Connections),
			PerClient: orNone(limits.ConnectionsPerClient),
		},
		BodyRate: proxy.BodyRate{
			BytesPerSecond: orNone(limits.BodyRate),
			Grace:          time.Duration(limits.BodyGrace),
		},
	}
}

// orNone turns the 0 of the file, which is no limit, into that of the proxy, where 0 is
// the default.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// loadCertificates reads the certificates of proxy.tls; nil where there are none.
func loadCertificates(file *config.File, log *slog.Logger) (*proxy.Certificates, error) {
	var pairs []proxy.KeyPair
	for _, pair := range file.KeyPairs() {
		pairs = append(pairs, proxy.KeyPair{CertFile: pair.CertFile, KeyFile: pair.KeyFile})
	}
	if len(pairs) == 0 {
		return nil, nil //nolint:nilnil // nil is what nobody asked for
	}
	certs, err := proxy.LoadCertificates(pairs, log)
	if err != nil {
		return nil, &control.Error{
			Code:    api.CodeInvalid,
			Message: err.Error(),
			Hint:    "the proxy does not start without the certificates of proxy.tls",
			Err:     err,
		}
	}
	return certs, nil
}

// openAccessLog opens the access log that the file asks for; nil where it asks for none.
func openAccessLog(file *config.File, log *slog.Logger) (*proxy.AccessLog, error) {
	options := proxy.AccessLogOptions{
		Format: proxy.LineFormat(file.Proxy.AccessLog.Format),
		Sample: file.Proxy.AccessLog.Sample,
		Logger: log,
	}
	switch name := file.AccessLogFile(); name {
	case "":
		return nil, nil //nolint:nilnil // nil is the log that nobody wants
	case config.Stdout:
		options.Writer = os.Stdout
	case config.Stderr:
		options.Writer = os.Stderr
	default:
		options.Path = name
	}
	return proxy.OpenAccessLog(options)
}

// recorders calls all that are there for each request.
func recorders(all ...func(*proxy.Record)) func(*proxy.Record) {
	return func(r *proxy.Record) {
		for _, record := range all {
			record(r)
		}
	}
}
