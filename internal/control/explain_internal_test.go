package control

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExplainPorts(t *testing.T) {
	t.Parallel()
	at := func(addresses ...string) (all []netip.AddrPort) {
		for _, a := range addresses {
			all = append(all, netip.MustParseAddrPort(a))
		}
		return all
	}
	for name, c := range map[string]struct {
		facts Facts
		want  string
	}{
		"right":                 {Facts{Port: 8080, Known: true, Listens: at("0.0.0.0:8080")}, ""},
		"right, loopback":       {Facts{Port: 8080, Known: true, Listens: at("127.0.0.1:8080")}, ""},
		"loopback, apart":       {Facts{Port: 8080, Known: true, Apart: true, Listens: at("127.0.0.1:8080")}, "it listens on 127.0.0.1:8080 only, inside its container, where nobody outside reaches it"},
		"other":                 {Facts{Port: 8080, Known: true, Listens: at("[::]:3000", "0.0.0.0:3000", "127.0.0.1:9229")}, "it was told to listen on port 8080, and listens on ports 3000, 9229"},
		"none":                  {Facts{Port: 8080, Known: true}, "it listens on no port; it was told to listen on port 8080"},
		"not known":             {Facts{Port: 8080}, ""},
		"declared by its image": {Facts{Port: 8080, Declared: []int{3000}}, "it was told to listen on port 8080, and nothing answers there; its image declares port 3000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			why, hint := explainPorts(c.facts)
			require.Equal(t, c.want, why)
			require.Equal(t, why == "", hint == "")
		})
	}
}
