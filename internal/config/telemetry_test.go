package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTelemetry(t *testing.T) {
	f, err := Parse("/etc/layover/layover.yaml", []byte(`telemetry:
  otlp: {endpoint: "https://api.example.com:443", headers_file: otlp.headers, ca_file: /ca.pem, signals: traces}
  traces:
    sample: 0.001
    routes: {route: load-*, sample: 0}
    baggage: tenant
`))
	require.NoError(t, err)
	require.Equal(t, "/etc/layover/otlp.headers", f.OTLPHeadersFile())
	require.Equal(t, "/ca.pem", f.OTLPCAFile())
	require.True(t, f.Telemetry.Sends(SignalTraces))
	require.False(t, f.Telemetry.Sends(SignalLogs))
	require.Equal(t, Traces{Sample: 0.001, SampleRouted: 1, Routes: []TracedRoute{{"load-*", 0}}, Baggage: []string{"tenant"}}, f.Telemetry.Traces)

	f = Default()
	require.False(t, f.Telemetry.Sends(SignalTraces), "nothing is sent where there is no endpoint")
	require.NoError(t, f.ApplyEnv([]string{"LAYOVER_TELEMETRY_OTLP_ENDPOINT=http://127.0.0.1:4317", "LAYOVER_TELEMETRY_TRACES_SAMPLE=1"}))
	require.NoError(t, f.Validate())
	require.True(t, f.Telemetry.Sends(SignalTraces))
}

func TestTelemetryRefused(t *testing.T) {
	for text, says := range map[string]string{
		"otlp: {endpoint: 'collector:4317'}":                        "no URL of a receiver",
		"otlp: {endpoint: 'http://key@collector:4317'}":             "headers_file",
		"otlp: {endpoint: 'http://collector:4317/v1/traces'}":       "protocol: http",
		"otlp: {endpoint: 'http://collector', protocol: udp}":       "grpc, http",
		"otlp: {headers_file: a, headers_env: B}":                   "exclude each other",
		"otlp: {signals: [profiles]}":                               "nothing that can be sent",
		"metrics: {every: 10ms}":                                    "too often",
		"metrics: {versions: 0}":                                    "below 1",
		"receiver: {listen: '127.0.0.1:4318'}":                      "nobody to pass on",
		"receiver: {address: ':4318'}":                              "not an address to connect to",
		"{otlp: {endpoint: 'http://a:1'}, receiver: {listen: 'x'}}": "not an address",
		"traces: {sample: 2}":                                       "above 1",
		"traces: {routes: [{route: 'a*b', sample: 1}]}":             "a*b",
		"traces: {routes: [{route: '', sample: 1}]}":                "route",
		"traces: {routes: [{sample: 1}]}":                           "route",
		"traces: {baggage: ['a b']}":                                "baggage member",
	} {
		_, err := Parse("layover.yaml", []byte("telemetry:\n  "+text+"\n"))
		require.ErrorContains(t, err, says, text)
	}
}
