package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestApplyEnv(t *testing.T) {
	file, err := Parse("layover.yaml", []byte("proxy:\n  listen: [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n"))
	require.NoError(t, err)
	require.NoError(t, file.ApplyEnv([]string{
		"LAYOVER_DOMAIN=shop.test", "LAYOVER_HOLD=5s", "LAYOVER_PROXY_TRUST_FORWARDED=10.0.0.0/8",
		"LAYOVER_PROXY_LISTEN=127.0.0.1:9090, docker:9090", "LAYOVER_ENVIRONMENT=", "LAYOVER_SERVER=http://127.0.0.1:1", "HOME",
	}))
	require.NoError(t, file.Validate())
	require.Equal(t, "shop.test", file.Domain)
	require.Equal(t, "local", file.Environment, "an empty variable is not set")
	require.Equal(t, api.Duration(5*time.Second), file.Hold)
	require.Equal(t, []string{"127.0.0.1:9090", "docker:9090"}, file.Proxy.Listen)
	require.Equal(t, []string{"10.0.0.0/8"}, file.Proxy.TrustForwarded)
}

func TestApplyEnvReportsEveryProblem(t *testing.T) {
	file := Default()
	err := file.ApplyEnv([]string{"LAYOVER_HOLD=soon", "LAYOVER_DOMAIN=shop.test"})
	require.EqualError(t, err, `LAYOVER_HOLD: hold: "soon" is not a duration such as 500ms, 30s or 2m`)
}

func TestListenersProblems(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no certificate": {"listen_tls: 127.0.0.1:1", `proxy.listen_tls: there is no certificate to listen with`},
		"no listener":    {"tls: {cert_file: a, key_file: b}", `proxy.tls: nothing listens with these certificates`},
		"no key":         {"tls: [{cert_file: a}]\n  listen_tls: 127.0.0.1:1", `proxy.tls.0 has no key_file`},
		"twice":          {"listen: 127.0.0.1:1\n  listen_tls: 127.0.0.1:1\n  tls: {cert_file: a, key_file: b}", `proxy.listen_tls.0: "127.0.0.1:1" is there twice`},
		"no network":     {"trust_forwarded: [10.0.0.0/33]", `proxy.trust_forwarded.0: "10.0.0.0/33" is not a network`},
		"with true":      {"trust_forwarded: true", `0.0.0.0/0 and ::/0 are everybody`},
		"no balancer":    {"proxy_protocol_from: [lb.test]", `proxy.proxy_protocol_from.0: "lb.test" is not a network`},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := Parse("layover.yaml", []byte("proxy:\n  "+c.text+"\n"))
			if err == nil {
				err = file.Validate()
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	file := Default()
	require.NoError(t, file.ApplyEnv([]string{"LAYOVER_PROXY_TRUST_FORWARDED=true"}))
	require.EqualError(t, file.Validate(), `LAYOVER_PROXY_TRUST_FORWARDED: proxy.trust_forwarded.0: "true" is not a network
    hint: name the networks of the proxies in front, such as 10.0.0.0/8; 0.0.0.0/0 and ::/0 are everybody`)
}

// TestValidateNamesTheOrigin holds that a value from outside is not blamed on the file.
func TestValidateNamesTheOrigin(t *testing.T) {
	file, err := Parse("layover.yaml", []byte("domain: a.test\nproxy:\n  listen: 127.0.0.1:1\n"))
	require.NoError(t, err)
	require.NoError(t, file.Set("domain", "Bad Domain", "--domain"))
	require.NoError(t, file.ApplyEnv([]string{"LAYOVER_PROXY_LISTEN=127.0.0.1:5,nonsense"}))
	require.EqualError(t, file.Validate(), `--domain: domain: the host "Bad Domain" is not in lower case
    hint: write "bad domain"

LAYOVER_PROXY_LISTEN: proxy.listen.1: "nonsense" is not an address
    hint: write host:port such as 127.0.0.1:8080`)
}

func TestSetRefusesOtherKeys(t *testing.T) {
	for _, key := range []string{"", "nothing", "services", "proxy", "domain.x", "defaults.timeout"} {
		require.Error(t, Default().Set(key, "x", "--x"), key)
	}
}

func TestListenersTrust(t *testing.T) {
	file := Default()
	file.Proxy.Listen = []string{"127.0.0.1:1", "[::1]:2", "localhost:3", "docker:4", ":5", "192.0.2.1:6"}
	trusted := map[string]bool{}
	for _, l := range file.Listeners() {
		trusted[l.Entry] = l.Trusted
	}
	require.Equal(t, map[string]bool{
		"127.0.0.1:1": true, "[::1]:2": true, "localhost:3": true, "docker:4": true, ":5": false, "192.0.2.1:6": false,
	}, trusted)
	file.Proxy.TrustedListen = []string{":5"}
	for _, l := range file.Listeners() {
		require.Equal(t, l.Entry == ":5", l.Trusted, l.Entry)
	}
}

func TestDidYouMean(t *testing.T) {
	keys := []string{"environment", "domain", "hold"}
	tests := map[string]struct{ word, want string }{
		"swapped":   {"hodl", `did you mean "hold"?`},
		"missing":   {"enviroment", `did you mean "environment"?`},
		"case":      {"Domain", `did you mean "domain"?`},
		"far":       {"zzzzzz", "known here: domain, environment, hold"},
		"empty":     {"", "known here: domain, environment, hold"},
		"very long": {string(make([]byte, 10000)), "known here: domain, environment, hold"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, didYouMean(test.word, keys))
		})
	}
}

func TestProxyLimitsAreChecked(t *testing.T) {
	_, err := Parse("layover.yaml", []byte(`proxy:
  limits: {queue: -1, header_timeout: 0s, header_bytes: 50000000}
  passive_health: {first_pause: 1m, longest_pause: 30s}
  access_log: {format: xml, sample: 2, file: logs/}
`))
	for _, part := range []string{
		"proxy.limits.queue: -1 is below 0", "proxy.limits.header_timeout: 0s is no time to wait",
		"proxy.limits.header_memory: it is less than twice header_bytes",
		"proxy.passive_health.longest_pause: it is shorter than first_pause", `proxy.access_log.format: "xml" is not one of json, logfmt`,
		"proxy.access_log.sample: 2 is above 1", `proxy.access_log.file: "logs/" is a folder`,
	} {
		require.ErrorContains(t, err, part)
	}
}

func TestAccessLogFile(t *testing.T) {
	file, err := Load("testdata/full.yaml")
	require.NoError(t, err)
	require.Equal(t, Stdout, file.AccessLogFile())
	file.Proxy.AccessLog.File = "logs/access.log"
	require.Equal(t, file.Dir()+"/logs/access.log", file.AccessLogFile())
	require.Empty(t, Default().AccessLogFile())
}
