package traefik_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route/routetest"
)

func TestReadHosts(t *testing.T) {
	for rule, want := range map[string]struct {
		covers, not string
		samples     []string
	}{
		"Host(`Cart.test.`)":                                         {"cart.test cart.test.", "a.test", []string{"cart.test"}},
		"Host(`a.test`, `b.test`) && Method(`GET`)":                  {"a.test b.test", "c.test", []string{"a.test", "b.test"}},
		"HostHeader(\"a.test\") || PathPrefix(`/x`)":                 {"a.test b.test", "", []string{"a.test"}},
		"!Host(`a.test`)":                                            {"b.test", "a.test", nil},
		"!(Host(`a.test`) && Path(`/`))":                             {"a.test b.test", "", []string{"a.test"}},
		"PathPrefix(`/api`)":                                         {"a.test", "", nil},
		"hostregexp(`^[a-z]+\\.test$`) && !Host(`a.test`)":           {"b.test", "a.test b.c.test", []string{"x.test"}},
		"HostRegexp(`^(?:pr|v)-[0-9]{2}\\.test$`)":                   {"v-12.test", "v-1.test", []string{"pr-00.test"}},
		"HostRegexp(`.+`)":                                           {"a.test", "", []string{"x"}},
		"HostRegexp(`{sub:[a-z]+}.test`)":                            {"a.test a.example", "", nil},
		"HostRegexp(`^[a-z]{2}.test$`)":                              {"ab.test", "a.test", []string{"xxxtest"}},
		"HostRegexp(`(`)":                                            {"a.test", "", nil},
		"ClientIP(`10.0.0.0/8`)\n  &&\n  ( Host (`a.test`) )":        {"a.test", "b.test", []string{"a.test"}},
		"Host(`a.test`) && (Path(`/a`) || !Query(`k`, `v`))":         {"a.test", "b.test", []string{"a.test"}},
		"Host(`a.test`) && Host(`b.test`) || Host(`c.test`)":         {"c.test", "a.test b.test", []string{"c.test"}},
		"HostRegexp(`^b\\.test$`) || (Path(`/`) && Host(`a.test`) )": {"a.test b.test", "c.test", []string{"a.test", "b.test"}},
	} {
		r, err := traefik.ReadHosts(rule)
		require.NoError(t, err, rule)
		for host := range strings.FieldsSeq(want.covers) {
			require.True(t, r.MayCover(host), "%s %s", rule, host)
		}
		for host := range strings.FieldsSeq(want.not) {
			require.False(t, r.MayCover(host), "%s %s", rule, host)
		}
		require.ElementsMatch(t, want.samples, r.Samples(), rule)
	}
	for _, bad := range []string{"", "Host", "Host(", "Host(`a`", "Host(`a`) Host(`b`)", "(Host(`a`)", "Host(a)", strings.Repeat("!", 200) + "Host(`a`)"} {
		_, err := traefik.ReadHosts(bad)
		require.Error(t, err, bad)
	}
}

// Each rule that is written here says of which hosts it is, previews and those under a suffix included.
func TestReadHosts_OfOwnRules(t *testing.T) {
	for name, router := range built(t, compiled(t, routetest.Shop()), traefik.Settings{Mode: traefik.Full}).HTTP.Routers {
		r, err := traefik.ReadHosts(router.Rule)
		require.NoError(t, err, name)
		require.NotEmpty(t, r.Samples(), "%s: %s", name, router.Rule)
		require.False(t, r.MayCover("elsewhere.example"), name)
	}
}

func FuzzReadHosts(f *testing.F) {
	f.Add("Host(`a.test`) && !(Path(`/x`) || HostRegexp(`^[a-z]{2,3}\\.test$`))", "a.test")
	f.Fuzz(func(t *testing.T, rule, host string) {
		if r, err := traefik.ReadHosts(rule); err == nil {
			r.MayCover(host)
			for _, sample := range r.Samples() {
				require.True(t, r.MayCover(sample), "%q", rule)
			}
		}
	})
}
