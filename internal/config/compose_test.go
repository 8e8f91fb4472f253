package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFromCompose(t *testing.T) {
	t.Setenv("TAG", "secret") // the caller's environment must not get in
	text, notes, err := FromCompose("testdata/compose/compose.yaml")
	require.NoError(t, err)
	golden(t, "testdata/compose/layover.yaml", text)
	golden(t, "testdata/compose/notes.txt", []byte(strings.Join(notes, "\n")+"\n"))

	file, err := Parse("layover.yaml", text)
	require.NoError(t, err)
	require.Equal(t, "shop", file.Environment)
	names := []string{}
	for _, s := range file.Services() {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"cart", "pricing_api", "storefront"}, names)
	cart := file.Services()[0]
	require.Equal(t, []string{"cart", "cart.localhost"}, cart.Hosts)
	require.Equal(t, map[string]string{"PRICE": "$5", "GREETING": `say "hi": # now`}, cart.Env)
	require.Equal(t, "registry.example.com/cart:latest", cart.Run.Docker.Image)
}

func TestFromComposeErrors(t *testing.T) {
	tests := map[string]string{
		"not yaml":      "services:\n\tcart:\n",
		"not compose":   "services:\n  cart:\n    imagge: x\n",
		"no such thing": "services:\n  cart:\n    image: x\n    depends_on: [db]\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "compose.yaml")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			_, _, err := FromCompose(file)
			require.ErrorContains(t, err, "compose.yaml")
		})
	}
	_, _, err := FromCompose(filepath.Join(t.TempDir(), "compose.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestFromComposeIsAlwaysValid tries what is awkward to write as YAML.
func TestFromComposeIsAlwaysValid(t *testing.T) {
	tests := map[string]string{
		"nothing":      "services: {}\n",
		"names":        "services:\n  \"1\": {image: a, ports: [\"1\"]}\n  a--b: {image: a, ports: [\"1\"]}\n  A__b: {image: a, ports: [\"2\"]}\n",
		"unset tag":    "services:\n  a: {image: \"a:${TAG}\", ports: [\"1\"]}\n",
		"odd env":      "services:\n  a:\n    image: a\n    ports: [\"1\"]\n    environment: {\"A B\": x, N: null, E: \"\", M: \"a\\nb\\t\\u2028\", T: \"true\", P: \"{x}\"}\n",
		"odd command":  "services:\n  a: {image: a, ports: [\"1\"], command: [\"\", \"{x}\"]}\n",
		"udp only":     "services:\n  a: {image: a, ports: [\"53:53/udp\"]}\n",
		"tiny memory":  "services:\n  a: {image: a, ports: [\"1\"], mem_limit: 10k, cpus: 0.25}\n",
		"profile":      "services:\n  a: {image: a, ports: [\"1\"], profiles: [x]}\n",
		"health paths": "services:\n  a: {image: a, ports: [\"1\"], healthcheck: {test: \"wget http://127.0.0.1:1/a?b=c#d\", timeout: 3s}}\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "compose.yaml")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			out, _, err := FromCompose(file)
			require.NoError(t, err)
			_, err = Parse("layover.yaml", out)
			require.NoError(t, err, string(out))
		})
	}
}
