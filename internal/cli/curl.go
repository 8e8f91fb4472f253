package cli

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

func newCurlCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "curl --route ROUTE URL [curl's own arguments]",
		GroupID: groupRoutes,
		Short:   "curl with a route: adds the baggage header, and finds the proxy",
		Long: `Run curl with the baggage header that carries a route. Hosts of the environment are reached
through its proxy, whatever DNS says; other hosts as curl reaches them. All other arguments go
to curl as they are, but for its baggage: with --route, a member with the key of the route is
taken out, as in layover explain.`,
		Example: `  layover curl --route feature-2981 http://cart.localhost:8080/items
  layover curl --route 'cart@pr-88~feature-2981' http://storefront.localhost:8080/ -s -i`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := parseCurl(args)
			if err != nil {
				return err
			}
			if opts.help {
				return cmd.Help()
			}
			if opts.server != "" {
				app.Server = opts.server
			}
			return runCurl(cmd.Context(), app, opts)
		},
	}
	// For the help: all flags are parsed by parseCurl.
	cmd.Flags().String("route", "", "route to send, for example feature-2981")
	return cmd
}

type curlOptions struct {
	route  string
	server string
	help   bool
	rest   []string // curl's own
}

// parseCurl takes our own flags out of the arguments; curl gets the others.
func parseCurl(args []string) (curlOptions, error) {
	var o curlOptions
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		switch {
		case name == "--route" || name == "--server":
			if !joined {
				if i++; i == len(args) {
					return o, usagef("see: layover curl --help", "%s needs a value", name)
				}
				value = args[i]
			}
			if value == "" {
				return o, emptyFlag(name)
			}
			if name == "--route" {
				o.route = value
			} else {
				o.server = value
			}
		case args[i] == "-h" || args[i] == "--help":
			o.help = true
		default:
			o.rest = append(o.rest, args[i])
		}
	}
	if !o.help && len(o.rest) == 0 {
		return o, usagef("see: layover curl --help", "a URL is missing")
	}
	return o, nil
}

func runCurl(ctx context.Context, app *App, opts curlOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	env, err := client.Environment(ctx)
	if err != nil {
		return err
	}
	var args []string
	if opts.route != "" {
		if _, err := route.ParseRoute(opts.route); err != nil {
			return usagef("", "--route: %s", err)
		}
		lines, rest := takeBaggage(opts.rest)
		for _, line := range route.PrependMember(lines, env.BaggageKey, opts.route) {
			args = append(args, "-H", "baggage: "+line)
		}
		opts.rest = rest
	}
	path, err := exec.LookPath("curl")
	if err != nil {
		hint := "install curl"
		if opts.route != "" {
			hint += ", or send the header yourself: " + baggageLine(env, opts.route)
		}
		return &control.Error{Code: api.CodeUnavailable, Message: "there is no curl on this machine", Hint: hint, Err: err}
	}
	ours, err := ownHosts(ctx, client, env)
	if err != nil {
		return err
	}
	args = append(args, connectTo(env.ProxyURL, ours, opts.rest)...)
	curl := exec.CommandContext(ctx, path, append(args, opts.rest...)...)
	curl.Stdin, curl.Stdout, curl.Stderr = app.In, app.Out, app.Err
	curl.Env = withoutProxies(app.Environ)
	curl.Cancel = func() error { return curl.Process.Signal(os.Interrupt) }
	err = curl.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return &silentError{code: exit.ExitCode()} // curl has said why
	}
	return err
}

// takeBaggage takes the baggage that curl's own arguments send out of them: --route goes over
// a member with the same key, as in explain, and of two header lines the last would win.
func takeBaggage(args []string) (lines, rest []string) {
	for i := 0; i < len(args); i++ {
		before, header, ok := headerFlag(args[i])
		if !ok {
			rest = append(rest, args[i])
			continue
		}
		apart := header == "" && i+1 < len(args)
		if apart {
			header = args[i+1]
		}
		name, value, _ := strings.Cut(header, ":")
		switch {
		case strings.EqualFold(strings.TrimSpace(name), "baggage"):
			lines = append(lines, strings.TrimSpace(value))
			if before != "" {
				rest = append(rest, before)
			}
		case apart:
			rest = append(rest, args[i], header)
		default:
			rest = append(rest, args[i])
		}
		if apart {
			i++
		}
	}
	return lines, rest
}

// curlSwitches are curl's flags of one letter that take no value, and so may stand in front of -H.
const curlSwitches = "#012346:BGIJLMNORSVZafgijklnpqsv"

// headerFlag says whether arg gives curl a header line, and takes it apart: the switches
// before it, as in -sSH, and the line, which is empty where the next argument is it.
func headerFlag(arg string) (before, header string, ok bool) {
	if arg == "--header" {
		return "", "", true
	}
	letters, isFlag := strings.CutPrefix(arg, "-")
	front, header, found := strings.Cut(letters, "H")
	if !isFlag || !found || strings.Trim(front, curlSwitches) != "" {
		return "", "", false
	}
	if front != "" {
		before = "-" + front
	}
	return before, header, true
}

// ownHosts returns what says whether a host is one of the environment: of a service, a preview,
// or below the domain, where a mistyped one is told what it may have been meant to be.
func ownHosts(ctx context.Context, client *api.Client, env api.Environment) (func(host string) bool, error) {
	services, err := client.Services(ctx)
	if err != nil {
		return nil, err
	}
	spec := route.Spec{Domain: env.Domain}
	for _, s := range services {
		spec.Services = append(spec.Services, route.Service{Name: s.Name, Hosts: s.Hosts})
	}
	table, err := route.Compile(spec)
	if err != nil {
		return nil, err
	}
	below := "." + cmp.Or(env.Domain, route.DefaultDomain)
	return func(host string) bool {
		d := table.Resolve(&route.Request{Host: host})
		return d.Service != nil || strings.HasSuffix(strings.TrimSuffix(strings.ToLower(host), "."), below)
	}, nil
}

// connectTo makes curl connect to the proxy for every plain URL of ours among its arguments.
func connectTo(proxyURL string, ours func(host string) bool, args []string) []string {
	proxy, err := url.Parse(proxyURL)
	if err != nil || proxy.Host == "" {
		return nil
	}
	var out []string
	for _, arg := range args {
		if !strings.Contains(arg, "://") {
			arg = "http://" + arg
		}
		u, err := url.Parse(arg)
		if err != nil || u.Scheme != "http" || u.Hostname() == "" || !ours(u.Hostname()) {
			continue
		}
		port := u.Port()
		if port == "" {
			port = "80"
		}
		out = append(out, "--connect-to", u.Hostname()+":"+port+":"+proxy.Host)
	}
	return out
}

// withoutProxies leaves the proxy settings out: the request goes to Layover's own.
func withoutProxies(environ []string) []string {
	var out []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.EqualFold(name, "http_proxy") && !strings.EqualFold(name, "all_proxy") {
			out = append(out, e)
		}
	}
	return out
}
