package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/receipt/sender"
	"github.com/layover-dev/layover/internal/telemetry"
	"github.com/layover-dev/layover/internal/telemetry/otlp"
	"github.com/layover-dev/layover/internal/telemetry/receiver"
)

// observer is what learns of the requests of a proxy. What the file does not ask for is nil.
type observer struct {
	file     *config.File
	source   telemetry.Source // of what the proxy tells of itself
	exporter *otlp.Exporter
	proxy    *proxy.Proxy
	access   *proxy.AccessLog
	hops     *sender.Sender
	spans    *telemetry.Spans
	requests *telemetry.Requests
	receiver *receiver.Receiver

	receiverLis  []net.Listener
	receiveFrom  <-chan struct{} // nil: at once
	receiveUntil <-chan struct{} // nil: to the end
}

// hopServer is who learns of requests: the one in this process, or that which a proxy follows.
type hopServer interface {
	SendHops(ctx context.Context, batch api.HopBatch) error
	Receipt(ctx context.Context, trace string) (api.Receipt, error)
}

// observe makes a proxy, and what learns of its requests.
func observe(file *config.File, name string, options proxy.Options, server hopServer, exporter *otlp.Exporter, log *slog.Logger) (*observer, error) {
	o := &observer{file: file, source: tellerOf(file, "layover-proxy", name), exporter: exporter}
	var err error
	if o.access, err = openAccessLog(file, log); err != nil {
		return nil, err
	}
	var record []func(*proxy.Record)
	if n := file.Telemetry.Metrics.Versions; n > 0 {
		o.requests = telemetry.NewRequests(telemetry.RequestOptions{Versions: n, Has: o.has})
		record = append(record, o.requests.Record)
	}
	if o.access != nil {
		record = append(record, o.access.Record)
	}
	if file.Telemetry.Requests {
		o.hops = sender.New(name, server.SendHops, log)
		record = append(record, o.hops.Record)
		options.Receipt = receipts(server.Receipt).list
	}
	if o.spans = openSpans(file, exporter, o.source, &options); o.spans != nil {
		record = append(record, o.spans.Record)
	}
	options.Recorder = recorders(record...)
	receives := len(file.Telemetry.Receiver.Listen) > 0
	options.RememberTraces = receives || file.Telemetry.Sends(config.SignalLogs)
	o.proxy = proxy.New(options)
	if receives {
		o.receiver = receiver.New(receiver.Options{Environment: file.Environment, Proxy: o.proxy, Sink: exporter.Offer(), Memory: receiverMemory(), Logger: log})
	}
	return o, nil
}

// has says whether the table has a version, or with "" the service.
func (o *observer) has(service, version string) bool {
	s := o.proxy.Table().Service(service)
	return s != nil && (version == "" || s.Version(version) != nil)
}

// parts are what has to run beside the proxy, all but what needs the exporter.
func (o *observer) parts() []func(context.Context) error {
	var parts []func(context.Context) error
	if o.requests != nil {
		parts = append(parts, o.requests.Run)
	}
	if o.access != nil {
		parts = append(parts, o.access.Run)
	}
	if o.hops != nil {
		parts = append(parts, o.hops.Run)
	}
	return parts
}

// sent are the parts that need the exporter.
func (o *observer) sent() []func(context.Context) error {
	var parts []func(context.Context) error
	if o.spans != nil {
		parts = append(parts, o.spans.Run)
	}
	if o.receiver != nil {
		parts = append(parts, o.receive)
	}
	return parts
}

// receive takes in what applications send: once there is a table, where a process before this one does so until then, and until
// the next one has taken over.
func (o *observer) receive(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	if o.receiveFrom != nil {
		select {
		case <-o.receiveFrom:
		case <-ctx.Done():
			return nil
		}
	}
	go func() {
		select {
		case <-o.receiveUntil: // never, where it is nil
			end()
		case <-ctx.Done():
		}
	}()
	return o.receiver.Run(ctx, o.receiverLis...)
}

// collectors are the metrics of the proxy. follows is nil where it is in the server's process.
func (o *observer) collectors(follows func() *telemetry.FollowerFigures) []prometheus.Collector {
	all := []prometheus.Collector{telemetry.Proxy(func() telemetry.ProxyFigures {
		f := telemetry.ProxyFigures{
			Revision: o.proxy.Table().Revision(), InFlight: o.proxy.InFlight(), Ejected: o.proxy.Ejected(), Dropped: o.dropped(), Build: build().Version,
		}
		f.Held, f.Wakes = o.proxy.Held()
		f.Open, f.Refused = o.proxy.Connections()
		if o.receiver != nil {
			f.Received, f.Taking = o.receiver.Stats(), o.receiver.Memory()
		}
		if follows != nil {
			f.Follows = follows()
			if o.exporter != nil { // else the server tells of it
				f.OTLP = o.exporter.Stats()
			}
		}
		return f
	})}
	if o.requests != nil {
		all = append(all, o.requests)
	}
	return all
}

// dropped counts the records that were lost, by what they were for.
func (o *observer) dropped() map[string]uint64 {
	lost := map[string]uint64{}
	if o.access != nil {
		lost["access_log"] = o.access.Lost()
	}
	if o.hops != nil {
		lost["requests"] = o.hops.Lost()
	}
	if o.spans != nil {
		lost["spans"] = o.spans.Dropped()
	}
	return lost
}

func (o *observer) close() error {
	if o == nil {
		return nil
	}
	var errs []error
	for _, l := range o.receiverLis {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	if o.access != nil {
		errs = append(errs, o.access.Close())
	}
	return errors.Join(errs...)
}
