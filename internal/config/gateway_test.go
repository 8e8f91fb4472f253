package config_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/config"
)

func TestGateway(t *testing.T) {
	dir := t.TempDir()
	file, err := config.Parse(filepath.Join(dir, "layover.yaml"), []byte(`
gateway:
  traefik:
    mode: full
    proxy: http://10.0.0.7:8080
    entry_points: [web, websecure]
    tls: true
    cert_resolver: letsencrypt
    redis: {address: "10.0.0.9:6379", password_file: redis.secret, prefix: edge/traefik}
`))
	require.NoError(t, err)
	got := file.Gateway.Traefik
	require.Equal(t, []string{"http://10.0.0.7:8080"}, got.Proxy)
	require.Equal(t, 1_000_000, got.Priority)
	require.Equal(t, filepath.Join(dir, "redis.secret"), file.RedisPasswordFile())

	file, err = config.Parse("layover.yaml", []byte("environment: x\n"))
	require.NoError(t, err)
	require.Equal(t, "off", file.Gateway.Traefik.Mode)
	require.NoError(t, file.ApplyEnv([]string{"LAYOVER_GATEWAY_TRAEFIK_MODE=hybrid", "LAYOVER_GATEWAY_TRAEFIK_PROXY=http://a:1,http://b:2"}))
	require.NoError(t, file.Validate())
	require.Equal(t, "hybrid", file.Gateway.Traefik.Mode)
	require.Equal(t, []string{"http://a:1", "http://b:2"}, file.Gateway.Traefik.Proxy)
}

func TestGatewayRefused(t *testing.T) {
	for text, says := range map[string]string{
		"mode: both":                                            "off, hybrid, full",
		"proxy: 10.0.0.7:8080":                                  "is not an http or https URL",
		"proxy: http://10.0.0.7":                                "has no port",
		"proxy: http://u:p@10.0.0.7:1":                          "more than an address",
		"proxy: http://10.0.0.7:80/x":                           "more than an address",
		"priority: 0":                                           "which Traefik takes for none",
		"priority: -1299":                                       "which Traefik takes for none",
		"priority: -1000000001":                                 "below -1000000000",
		"entry_points: [a b]":                                   "entry_points",
		"cert_resolver: le":                                     "add tls: true",
		"redis: {address: nowhere}":                             "not an address to connect to",
		"redis: {address: 'a:1'}":                               "nothing is written with mode off",
		"redis: {password_file: x}":                             "no Redis to log in to",
		"{mode: full, redis: {address: 'a:1', prefix: 'a*'}}":   "cannot be a root key",
		"{mode: full, redis: {address: 'a:1', prefix: 'a//b'}}": "cannot be a root key",
		"redis: {db: 1}":                                        "unknown key",
	} {
		_, err := config.Parse("layover.yaml", []byte("gateway:\n  traefik:\n    "+text+"\n"))
		require.ErrorContains(t, err, says, text)
	}
}
