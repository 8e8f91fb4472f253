package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// Limits are what the proxy takes from clients at most.
type Limits struct {
	Connections          int          `yaml:"connections,omitempty" env:"LAYOVER_PROXY_CONNECTIONS" default:"10240" minimum:"0" doc:"Connections of all clients; 0 for no limit"`
	ConnectionsPerClient int          `yaml:"connections_per_client,omitempty" env:"LAYOVER_PROXY_CONNECTIONS_PER_CLIENT" default:"2048" minimum:"0" doc:"Connections of one client address (of IPv6, the first 64 bits); 0 for no limit. It does not hold for trusted listeners and loopback addresses"`
	RequestsPerVersion   int          `yaml:"requests_per_version,omitempty" env:"LAYOVER_PROXY_REQUESTS_PER_VERSION" default:"4096" minimum:"0" doc:"Requests that a version works on at a time, streams and WebSockets included; 0 for no limit"`
	Queue                int          `yaml:"queue,omitempty" env:"LAYOVER_PROXY_QUEUE" default:"128" minimum:"0" doc:"Further requests to a version that wait for one of those to end, before others are answered with 503"`
	QueueWait            api.Duration `yaml:"queue_wait,omitempty" env:"LAYOVER_PROXY_QUEUE_WAIT" default:"1s" doc:"How long they wait, before they are answered with 503"`
	HeaderBytes          int          `yaml:"header_bytes,omitempty" env:"LAYOVER_PROXY_HEADER_BYTES" default:"262144" minimum:"8192" doc:"Bytes of the header of a request or answer, before it is refused with 431 or 502"`
	HeaderFields         int          `yaml:"header_fields,omitempty" env:"LAYOVER_PROXY_HEADER_FIELDS" default:"200" minimum:"10" doc:"Fields of such a header, in HTTP/1.1"`
	HeaderMemory         int          `yaml:"header_memory,omitempty" env:"LAYOVER_PROXY_HEADER_MEMORY" default:"67108864" minimum:"0" doc:"Bytes that all headers of requests over 16 KiB may take together, before one more is refused with 503; 0 for no limit"`
	HeaderTimeout        api.Duration `yaml:"header_timeout,omitempty" env:"LAYOVER_PROXY_HEADER_TIMEOUT" default:"15s" doc:"How long a client may take to send the header of a request"`
	IdleTimeout          api.Duration `yaml:"idle_timeout,omitempty" env:"LAYOVER_PROXY_IDLE_TIMEOUT" default:"3m" doc:"How long a connection may be idle between two requests"`
	BodyRate             int          `yaml:"body_rate,omitempty" env:"LAYOVER_PROXY_BODY_RATE" default:"100" minimum:"0" doc:"Bytes per second that a client has to send of a body with Content-Length; 0 for no limit. Bodies of unknown length and gRPC are streams, and have none"`
	BodyGrace            api.Duration `yaml:"body_grace,omitempty" env:"LAYOVER_PROXY_BODY_GRACE" default:"30s" doc:"How far a client may fall behind body_rate, before it is answered with 408"`
}

// PassiveHealth says when the proxy takes an instance out because of what requests meet.
type PassiveHealth struct {
	ConnectFailures int          `yaml:"connect_failures,omitempty" env:"LAYOVER_PROXY_CONNECT_FAILURES" default:"3" minimum:"0" doc:"Failed connects in a row; 0 for never"`
	ServerErrors    int          `yaml:"server_errors,omitempty" env:"LAYOVER_PROXY_SERVER_ERRORS" default:"0" minimum:"0" doc:"Answers of 500 to 599 in a row; 0 for never"`
	FirstPause      api.Duration `yaml:"first_pause,omitempty" env:"LAYOVER_PROXY_FIRST_PAUSE" default:"5s" doc:"How long the instance gets no requests. Each pause is twice as long as the one before, until an answer comes"`
	LongestPause    api.Duration `yaml:"longest_pause,omitempty" env:"LAYOVER_PROXY_LONGEST_PAUSE" default:"5m" doc:"How long a pause becomes at most"`
}

// LostRoutes bounds what the proxy remembers of routes that may get lost.
type LostRoutes struct {
	Traces int          `yaml:"traces,omitempty" env:"LAYOVER_PROXY_LOST_ROUTES_TRACES" default:"100000" minimum:"0" maximum:"10000000" doc:"Traces whose route is remembered, about 100 bytes each; the newest count. 0 for none"`
	For    api.Duration `yaml:"for,omitempty" env:"LAYOVER_PROXY_LOST_ROUTES_FOR" default:"10m" doc:"How long the route of a trace is remembered behind its last request"`
}

// AccessLog is the log of the proxy's requests.
type AccessLog struct {
	Format string  `yaml:"format,omitempty" env:"LAYOVER_PROXY_ACCESS_LOG_FORMAT" default:"json" enum:"json,logfmt" doc:"Form of the lines"`
	File   string  `yaml:"file,omitempty" env:"LAYOVER_PROXY_ACCESS_LOG_FILE" doc:"Where to write: stdout, stderr, or a file, relative to the folder of this one. A file that is moved away is made anew within a second. Default: none, and no access log" example:"stdout"`
	Sample float64 `yaml:"sample,omitempty" env:"LAYOVER_PROXY_ACCESS_LOG_SAMPLE" default:"1" minimum:"0" maximum:"1" doc:"Share of the requests that is written. Errors always are"`
}

// The words that AccessLog.File may be instead of the name of a file.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

func defaultProxy() Proxy {
	return Proxy{
		Listen: []string{"127.0.0.1:8080"},
		Limits: Limits{
			Connections: 10_240, ConnectionsPerClient: 2048,
			RequestsPerVersion: 4096, Queue: 128, QueueWait: api.Duration(time.Second),
			HeaderBytes: 256 << 10, HeaderFields: 200, HeaderMemory: 64 << 20,
			HeaderTimeout: api.Duration(15 * time.Second), IdleTimeout: api.Duration(3 * time.Minute),
			BodyRate: 100, BodyGrace: api.Duration(30 * time.Second),
		},
		PassiveHealth: PassiveHealth{
			ConnectFailures: 3, FirstPause: api.Duration(5 * time.Second), LongestPause: api.Duration(5 * time.Minute),
		},
		LostRoutes: LostRoutes{Traces: 100_000, For: api.Duration(10 * time.Minute)},
		AccessLog:  AccessLog{Format: "json", Sample: 1},
	}
}

// AccessLogFile is where the access log goes: Stdout, Stderr, an absolute path, or "" for
// no log.
func (f *File) AccessLogFile() string {
	file := f.Proxy.AccessLog.File
	if file == "" || file == Stdout || file == Stderr {
		return file
	}
	return f.absolute(filepath.Clean(file))
}

func (k checker) proxy() {
	p, proxy := path{"proxy"}, k.file.Proxy
	for _, d := range []struct {
		at    path
		value api.Duration
	}{
		{p.with("limits", "queue_wait"), proxy.Limits.QueueWait},
		{p.with("limits", "header_timeout"), proxy.Limits.HeaderTimeout},
		{p.with("limits", "idle_timeout"), proxy.Limits.IdleTimeout},
		{p.with("limits", "body_grace"), proxy.Limits.BodyGrace},
		{p.with("passive_health", "first_pause"), proxy.PassiveHealth.FirstPause},
		{p.with("passive_health", "longest_pause"), proxy.PassiveHealth.LongestPause},
		{p.with("lost_routes", "for"), proxy.LostRoutes.For},
	} {
		if d.value <= 0 {
			k.value(d.at, "write a duration above zero, such as 30s", "%s is no time to wait", time.Duration(d.value))
		}
	}
	if l := proxy.Limits; l.HeaderMemory > 0 && l.HeaderMemory < 2*l.HeaderBytes {
		k.value(p.with("limits", "header_memory"), fmt.Sprintf("write at least %d, or 0 for no limit", 2*l.HeaderBytes), "it is less than twice header_bytes, so that a header of that size could find no room")
	}
	if h := proxy.PassiveHealth; h.LongestPause < h.FirstPause {
		k.value(p.with("passive_health", "longest_pause"), "write at least "+time.Duration(h.FirstPause).String(), "it is shorter than first_pause")
	}
	if file := proxy.AccessLog.File; strings.HasSuffix(file, "/") {
		k.value(p.with("access_log", "file"), "name a file in it, such as "+file+"access.log", "%q is a folder", clip(file))
	}
}
