package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestColonInPlainTextOfAFlow(t *testing.T) {
	file, err := Parse("layover.yaml", []byte(`proxy: {listen: [127.0.0.1:8081, docker:8080, "[::1]:8080"]}
services:
  cart: {run: {docker: {image: registry.example.com:5000/cart:main}}}
  pricing: {run: {external: {url: http://pricing.internal:8080}}, hosts: [pricing]}
`))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:8081", "docker:8080", "[::1]:8080"}, file.Proxy.Listen)
	services := file.Services()
	require.Equal(t, "registry.example.com:5000/cart:main", services[0].Run.Docker.Image)
	require.Equal(t, "http://pricing.internal:8080", services[1].Run.External.URL)
}
