package proxy

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func prefixes(networks ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, network := range networks {
		all = append(all, netip.MustParsePrefix(network))
	}
	return all
}

func TestNetworks(t *testing.T) {
	n := newNetworks(prefixes("10.1.2.3/8", "fd00::/8", "::ffff:192.0.2.0/120"))
	for address, want := range map[string]bool{
		"10.255.0.1:1":            true,
		"11.0.0.1:1":              false,
		"[::ffff:10.0.0.1]:1":     true, // a listener for both families shows IPv4 so
		"[fd00::1]:1":             true,
		"[fd00::1%eth0]:1":        true,
		"[fe80::1%eth0]:1":        false,
		"192.0.2.200:1":           true,
		"[2001:db8::1]:1":         false,
		"10.0.0.1":                false, // no address of a connection
		"":                        false,
		"@":                       false,
		"[::ffff:10.0.0.1%x]:123": true,
	} {
		require.Equal(t, want, n.contains(address), address)
	}
	require.False(t, networks(nil).contains("10.0.0.1:1"))
	require.Zero(t, testing.AllocsPerRun(100, func() { n.contains("10.255.0.1:1") }))
}

func TestTrust_OnlyOfNetworks(t *testing.T) {
	var got http.Header
	cart := func() string {
		return instance(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
	}()
	fields := []string{"X-Forwarded-For", "192.0.2.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.test", "Forwarded", "for=192.0.2.9"}
	for name, c := range map[string]struct {
		from string
		want string
	}{
		"in":  {"127.0.0.0/8", "192.0.2.9, 127.0.0.1"},
		"out": {"10.0.0.0/8", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{TrustForwarded: prefixes(c.from)}, service("cart", ready("main", cart)))
			w.get(t, "cart.localhost", "/", fields...)
			require.Equal(t, c.want, got.Get("X-Forwarded-For"))
			if name == "in" {
				require.Equal(t, "https", got.Get("X-Forwarded-Proto"))
				require.Equal(t, "shop.test", got.Get("X-Forwarded-Host"))
				require.Equal(t, "for=192.0.2.9, for=127.0.0.1;host=cart.localhost;proto=http", got.Get("Forwarded"))
			} else {
				require.Equal(t, "http", got.Get("X-Forwarded-Proto"))
				require.Equal(t, "cart.localhost", got.Get("X-Forwarded-Host"))
				require.NotContains(t, got.Get("Forwarded"), "192.0.2.9")
			}
		})
	}
}
