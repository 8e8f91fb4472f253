package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpproxy"

	"github.com/layover-dev/layover/internal/forward"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/testrun"
)

// The exit codes of a command that could not be run, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

func newExecCmd(app *App) *cobra.Command {
	var value, run string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "exec --route ROUTE -- COMMAND [ARGS...]",
		GroupID: groupTests,
		Short:   "Run any command with a route in its hands",
		Long: `Run a command whose requests carry a route, without a change to it. It gets

  HTTP_PROXY, HTTPS_PROXY     a private proxy, which puts the route and the ID of the run into the
                              baggage of requests to hosts of the environment, and leads them to
                              Layover's proxy, whatever DNS says; others pass as they are
  NO_PROXY                    what it was, without hosts of the environment
  SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, GIT_SSL_CAINFO, NODE_EXTRA_CA_CERTS
                              certificates that cover https:// hosts of the environment, by an
                              authority that ends with the command; LAYOVER_CA_FILE is its own alone
  NODE_OPTIONS, JAVA_TOOL_OPTIONS
                              what makes Node and the JVM use that proxy
  BAGGAGE                     the value of the header, for programs that send it themselves
  LAYOVER_ROUTE, LAYOVER_RUN  the route, and the ID of the run
  LAYOVER_URL_CART            where each service is, here cart
  LAYOVER_PREVIEW_URL_CART    where its version of the route is without a header, if it has one

Signals are passed on to it. The exit code is the command's; 127 where it is not found, 126 where
it cannot be run. Without a route the requests carry the ID of the run alone. layover requests
--run ID shows them.`,
		Example: `  layover exec --route feature-2981 -- npm test
  layover exec --route 'cart@pr-88~feature-2981' --run ci-8812 -- pytest e2e
  layover exec --route feature-2981 -- sh -c 'curl -fsS "$LAYOVER_URL_CART/items"'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("for example: layover exec --route feature-2981 -- npm test", "there is no command to run")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExec(cmd.Context(), app, cmp.Or(value, app.env("LAYOVER_ROUTE")), run, args, quiet)
		},
	}
	f := cmd.Flags()
	f.StringVar(&value, "route", "", "route that requests carry (default: LAYOVER_ROUTE)")
	f.StringVar(&run, "run", "", "ID of the run, for receipts (default: one is made)")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not say at the end how many requests there were")
	f.SetInterspersed(false)
	completeFlag(cmd, "route", completeRoutes(app))
	return cmd
}

func runExec(ctx context.Context, app *App, value, run string, command []string, quiet bool) error {
	if value != "" {
		if _, err := route.ParseRoute(value); err != nil {
			return usagef("", "--route: %s", err)
		}
	}
	if run == "" {
		run = cmp.Or(app.env("LAYOVER_RUN"), testrun.NewID())
	}
	if err := route.CheckName("run", run); err != nil {
		return usagef("", "--run: %s", err)
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	a, err := aimAt(ctx, client, value)
	if err != nil {
		return err
	}
	if err := a.checkRoute(app); err != nil {
		return err
	}
	exit, requests, err := runWithRoute(ctx, app, a, routed{Route: value, Run: run, Command: command, Stdin: app.In, Stdout: app.Out, Stderr: app.Err})
	if err != nil {
		return err
	}
	if !quiet {
		sayRequests(app, run, requests)
	}
	if exit == exitOK {
		return nil
	}
	return &silentError{exit}
}

// sayRequests says what went through the private proxy.
func sayRequests(app *App, run string, requests map[string]int) {
	if len(requests) == 0 {
		app.say("layover exec: no request went to the environment; does the command honour HTTP_PROXY?\n")
		return
	}
	n := 0
	var hosts []string
	for host, of := range requests {
		n += of
		hosts = append(hosts, fmt.Sprintf("%s %d", host, of))
	}
	slices.Sort(hosts)
	app.say("layover exec: %d %s (%s); see: layover requests --run %s\n", n, plural(n, "request", "requests"), strings.Join(hosts, ", "), run)
}

// checkRoute refuses a strict route that names what is not there, and warns of another one that means nothing anywhere.
func (a *aim) checkRoute(app *App) error {
	unknown, hint := a.unknown()
	r, err := route.ParseRoute(a.route)
	switch {
	case a.route == "":
		return nil
	case err != nil:
		return err
	case len(unknown) == 0 || !r.Strict && len(unknown) < len(r.Selectors):
		return nil
	case r.Strict:
		return usagef(hint, "the route %s is strict, and nothing is called %s", a.route, selectorsText(unknown))
	}
	app.say("warning: nothing in the environment is called %s: the default versions answer (%s)\n", selectorsText(unknown), hint)
	return nil
}

// unknown are the selectors of the route that match nothing in the environment, and what to do about them.
func (a *aim) unknown() (unknown []route.Selector, hint string) {
	r, err := route.ParseRoute(a.route)
	if err != nil {
		return nil, ""
	}
	for _, s := range r.Selectors {
		if !a.knows(s) {
			unknown = append(unknown, s)
		}
	}
	hint = "layover ls shows what is there"
	if len(unknown) > 0 {
		if near := a.table.DidYouMean(unknown[0].String(), 3); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, ", ") + "?"
		}
	}
	return unknown, hint
}

func selectorsText(all []route.Selector) string {
	var names []string
	for _, s := range all {
		names = append(names, s.String())
	}
	return strings.Join(names, " or ")
}

// knows says whether a selector matches something.
func (a *aim) knows(s route.Selector) bool {
	for service := range a.table.Services() {
		if (s.Service == "" || s.Service == service.Name) && service.Version(s.Version) != nil {
			return true
		}
	}
	return s.Service == "" && slices.ContainsFunc(a.table.NamedRoutes(), func(n route.NamedRoute) bool { return n.Name == s.Version })
}

// routed is a command that is run with a route.
type routed struct {
	Route   string
	Run     string
	Command []string
	Dir     string   // "" for this one
	Env     []string // besides the program's own
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Apart   bool // in a process group of its own, all of which ends with ctx; else it gets the signals that this program gets
}

// runWithRoute runs a command whose requests carry a route. It returns its exit code, 127 where it was not found and 126
// where it could not be run, and how many requests went to each host of the environment.
func runWithRoute(ctx context.Context, app *App, a *aim, r routed) (exit int, requests map[string]int, err error) {
	address, err := a.proxyAddress()
	if err != nil {
		return 0, nil, err
	}
	outer := outerProxies(app)
	p, err := forward.Start(forward.Options{
		Route: r.Route, Run: r.Run, BaggageKey: a.env.BaggageKey, Proxy: address, Ours: a.isOurs, Hosts: a.hosts(), Upstream: outer,
	})
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = p.Close() }()
	dir, err := os.MkdirTemp("", "layover-exec-*") // 0700
	if err != nil {
		return 0, nil, fmt.Errorf("make a folder for the command: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	environ, err := p.Environ(append(slices.Clone(app.Environ), r.Env...), dir)
	if err != nil {
		return 0, nil, err
	}
	if !r.Apart {
		ctx = context.WithoutCancel(ctx) // it gets the signals, and ends by itself
	}
	cmd := exec.CommandContext(ctx, r.Command[0], r.Command[1:]...)
	cmd.Path, cmd.Err = lookUp(r.Command[0], r.Dir, environ)
	cmd.Dir, cmd.Env = r.Dir, append(environ, a.variables(r.Route, r.Run)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.Stdin, r.Stdout, r.Stderr
	cmd.WaitDelay = 10 * time.Second
	if r.Apart {
		endGently(cmd)
		err = cmd.Run()
	} else {
		err = runWithSignals(cmd)
	}
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		if exit = ended.ExitCode(); exit < 0 {
			exit = exitOfSignal(ended)
		}
		return exit, p.Counts(), nil
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return exitOK, p.Counts(), nil
	case ctx.Err() != nil:
		return exitInterrupted, p.Counts(), nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		app.say("%s: not found\n", r.Command[0])
		return exitNotFound, nil, nil
	case errors.Is(err, fs.ErrPermission):
		app.say("%s: cannot be run: %s\n", r.Command[0], err)
		return exitNotExecutable, nil, nil
	}
	return exitNotExecutable, nil, fmt.Errorf("run %s: %w", r.Command[0], err)
}

// lookUp finds a program: relative to dir where its name has a slash, else in PATH.
func lookUp(name, dir string, environ []string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		if !filepath.IsAbs(name) && dir != "" {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	path := ""
	for _, e := range environ {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			path = value
		}
	}
	for _, folder := range filepath.SplitList(path) {
		if folder == "" {
			continue
		}
		full := filepath.Join(folder, name)
		if info, err := os.Stat(full); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return filepath.Abs(full)
		}
	}
	return exec.LookPath(name)
}

// outerProxies are those of the program's own environment, for hosts that are none of ours. A program that was itself started
// by layover exec has ours there: then it is that one.
func outerProxies(app *App) func(*http.Request) (*url.URL, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if value := app.env(name); value != "" {
				return value
			}
		}
		return ""
	}
	config := httpproxy.Config{
		HTTPProxy: first("HTTP_PROXY", "http_proxy"), HTTPSProxy: first("HTTPS_PROXY", "https_proxy"), NoProxy: first("NO_PROXY", "no_proxy"),
	}
	if config.HTTPProxy == "" && config.HTTPSProxy == "" {
		return nil
	}
	find := config.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return find(r.URL) }
}

// variables are those of a command that say what it is aimed at.
func (a *aim) variables(value, run string) []string {
	lines := route.PrependMember(nil, route.RunKey, run)
	if value != "" {
		lines = route.PrependMember(lines, a.env.BaggageKey, value)
	}
	out := append(a.urls(), "BAGGAGE="+strings.Join(lines, ","), "LAYOVER_ROUTE="+value, "LAYOVER_RUN="+run)
	if value == "" {
		return out
	}
	for service := range a.table.Services() {
		if name := a.versionOf(service); name != "" && name != service.Definition().Default {
			if preview := a.previewURL(service, name); preview != "" {
				out = append(out, "LAYOVER_PREVIEW_URL_"+variableName(service.Name)+"="+preview)
			}
		}
	}
	return out
}

// previewURL is where a version of a service is reached without a header.
func (a *aim) previewURL(service *route.ServiceEntry, version string) string {
	v := service.Version(version)
	address, err := a.proxyAddress()
	if v == nil || err != nil {
		return ""
	}
	_, port, _ := net.SplitHostPort(address)
	host := v.PreviewHost()
	if port != "" && port != "80" {
		host += ":" + port
	}
	return "http://" + host
}
