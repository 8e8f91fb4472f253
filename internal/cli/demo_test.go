package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/config"
)

// What a person has set for an environment of their own is not for the shop.
func TestDemoIsAnEnvironmentOfItsOwn(t *testing.T) {
	plain, err := demoConfig(&App{}, false)
	require.NoError(t, err)
	var environ []string
	for _, v := range config.Variables() {
		if !slices.Contains(demoVariables(), v.Name) {
			environ = append(environ, v.Name+"=9")
		}
	}
	got, err := demoConfig(&App{Environ: environ}, false)
	require.NoError(t, err)
	require.Equal(t, plain, got)

	got, err = demoConfig(&App{Environ: []string{
		"LAYOVER_PROXY_LISTEN=127.0.0.1:9090", "LAYOVER_SERVER_LISTEN=127.0.0.1:9091", "LAYOVER_BAGGAGE_KEY=x_route",
	}}, false)
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:9090"}, got.Proxy.Listen)
	require.Equal(t, "127.0.0.1:9091", got.Server.Listen)
	require.Equal(t, "x_route", got.BaggageKey)
	_, err = demoConfig(&App{Environ: []string{"LAYOVER_BAGGAGE_KEY=a key"}}, false)
	require.Equal(t, exitUsage, exitCode(err))
}

func TestSelfCommandNamesAServerThatIsNotTheOneMeant(t *testing.T) {
	for server, names := range map[string]bool{defaultServer: false, "http://layover.internal:1": true} {
		command := selfCommand(&App{Server: server}, defaultServer)
		require.Equal(t, names, strings.HasPrefix(command, "LAYOVER_SERVER="+defaultServer+" "), "%s: %s", server, command)
	}
}
