package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestParseCurl(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want curlOptions
		says string
	}{
		"curl's own are left alone": {
			args: []string{"-sS", "-H", "A: b=c", "http://x", "-d", "a=b", "--", "-x"},
			want: curlOptions{rest: []string{"-sS", "-H", "A: b=c", "http://x", "-d", "a=b", "--", "-x"}},
		},
		"route in front":       {args: []string{"--route", "a", "http://x"}, want: curlOptions{route: "a", rest: []string{"http://x"}}},
		"route at the end":     {args: []string{"http://x", "--route=a=b"}, want: curlOptions{route: "a=b", rest: []string{"http://x"}}},
		"server":               {args: []string{"--server", "http://s", "http://x"}, want: curlOptions{server: "http://s", rest: []string{"http://x"}}},
		"help":                 {args: []string{"--help"}, want: curlOptions{help: true}},
		"no value":             {args: []string{"http://x", "--route"}, says: "--route needs a value"},
		"empty route":          {args: []string{"--route", "", "http://x"}, says: "--route is given, and empty"},
		"empty server":         {args: []string{"--server=", "http://x"}, says: "--server is given, and empty"},
		"no URL":               {args: []string{"--route", "a"}, says: "a URL is missing"},
		"begins like our flag": {args: []string{"--routes", "a"}, want: curlOptions{rest: []string{"--routes", "a"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseCurl(test.args)
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				require.Equal(t, exitUsage, exitCode(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestConnectTo(t *testing.T) {
	c := newTerminal(t)
	require.NoError(t, c.PutService(t.Context(), api.Service{Name: "shop", Hosts: []string{"shop", "*.shop.test"}}))
	client, err := c.app.Client()
	require.NoError(t, err)
	ours, err := ownHosts(t.Context(), client, api.Environment{})
	require.NoError(t, err)
	for name, test := range map[string]struct {
		proxy string
		args  []string
		want  []string
	}{
		"host of the environment": {"http://127.0.0.1:9", []string{"http://cart.localhost/"}, []string{"--connect-to", "cart.localhost:80:127.0.0.1:9"}},
		"with a port":             {"http://[::1]:9", []string{"-s", "cart.localhost:8080/a?b"}, []string{"--connect-to", "cart.localhost:8080:[::1]:9"}},
		"several":                 {"http://p:9", []string{"http://cart.localhost", "http://shop:1"}, []string{"--connect-to", "cart.localhost:80:p:9", "--connect-to", "shop:1:p:9"}},
		"host without a dot":      {"http://p:9", []string{"http://shop/"}, []string{"--connect-to", "shop:80:p:9"}},
		"host with a star":        {"http://p:9", []string{"http://a.shop.test/"}, []string{"--connect-to", "a.shop.test:80:p:9"}},
		"preview hosts": {"http://p:9", []string{"http://pr-88--cart.localhost", "pr-88.shop"}, []string{
			"--connect-to", "pr-88--cart.localhost:80:p:9", "--connect-to", "pr-88.shop:80:p:9",
		}},
		"mistyped below the domain": {"http://p:9", []string{"http://carrt.localhost."}, []string{"--connect-to", "carrt.localhost.:80:p:9"}},
		"somebody else's":           {"http://p:9", []string{"http://example.com/", "http://shops/"}, nil},
		"TLS is not ours":           {"http://p:9", []string{"https://cart.localhost/"}, nil},
		"an address is meant so":    {"http://p:9", []string{"http://127.0.0.1:8080/"}, nil},
		"no proxy":                  {"", []string{"http://cart.localhost/"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, connectTo(test.proxy, ours, test.args))
		})
	}
}

func TestTakeBaggage(t *testing.T) {
	for name, test := range map[string]struct {
		args, lines, rest []string
	}{
		"none":             {args: []string{"-s", "-H", "A: b", "http://x"}, rest: []string{"-s", "-H", "A: b", "http://x"}},
		"apart":            {args: []string{"-H", "Baggage: a=b", "http://x"}, lines: []string{"a=b"}, rest: []string{"http://x"}},
		"long":             {args: []string{"--header", "baggage:a=b"}, lines: []string{"a=b"}},
		"joined":           {args: []string{"-Hbaggage: a=b"}, lines: []string{"a=b"}},
		"behind switches":  {args: []string{"-sSH", "baggage: a=b", "-iHbaggage: c"}, lines: []string{"a=b", "c"}, rest: []string{"-sS", "-i"}},
		"several":          {args: []string{"-H", "baggage: a=b", "-H", "A: b", "-H", "baggage: c=d"}, lines: []string{"a=b", "c=d"}, rest: []string{"-H", "A: b"}},
		"removed":          {args: []string{"-H", "baggage:"}, lines: []string{""}},
		"value of another": {args: []string{"-dH", "baggage: a=b", "-oH"}, rest: []string{"-dH", "baggage: a=b", "-oH"}},
		"no value":         {args: []string{"-H"}, rest: []string{"-H"}},
		"file":             {args: []string{"-H", "@headers"}, rest: []string{"-H", "@headers"}},
	} {
		t.Run(name, func(t *testing.T) {
			lines, rest := takeBaggage(test.args)
			require.Equal(t, test.lines, lines)
			require.Equal(t, test.rest, rest)
		})
	}
}

func TestNoCurl(t *testing.T) {
	c := newTerminal(t)
	t.Setenv("PATH", t.TempDir())
	require.Equal(t, exitFailed, c.run(t.Context(), "curl", "--route", "pr-88", "http://cart.localhost/"))
	require.Contains(t, c.err.String(), "error: there is no curl on this machine\n")
	require.Contains(t, c.err.String(), "send the header yourself: baggage: x_route=pr-88\n", "the key of this environment")
}

func TestWithoutProxies(t *testing.T) {
	require.Equal(t, []string{"PATH=/bin", "HTTPS_PROXY=x", "NO_PROXY=y"},
		withoutProxies([]string{"PATH=/bin", "http_proxy=a", "HTTP_PROXY=b", "HTTPS_PROXY=x", "ALL_PROXY=c", "NO_PROXY=y"}))
}
