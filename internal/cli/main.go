// Package cli is the command line of Layover: one file per command, and the
// wiring of everything that runs in one process.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
)

// The exit codes of the program.
const (
	exitOK          = 0
	exitFailed      = 1   // it was understood, and did not work
	exitUsage       = 2   // bad input: flags, names, configuration
	exitUnreachable = 3   // no server answers
	exitUnproved    = 4   // of layover test: no test fails a run, and it is not proved what it reached
	exitInterrupted = 130 // ended before it was done, by Ctrl-C for example
)

//go:generate go test . -run TestReference -update

// Main runs the command line and returns the exit code of the process.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	return execute(ctx, newApp(stdin, stdout, stderr, os.Environ()), args)
}

func execute(ctx context.Context, app *App, args []string) int {
	root := newRootCmd(app)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	printError(app, err)
	return exitCode(err)
}

// usageError is bad input that the command line itself found.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(hint, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), hint: hint}
}

// silentError ends the program with a code and without a word: all has been said.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// exitCode decides, in one place, what an error means to the caller.
func exitCode(err error) int {
	if e, ok := errors.AsType[*silentError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*api.UnreachableError](err); ok {
		return exitUnreachable
	}
	if _, ok := errors.AsType[*config.Problems](err); ok {
		return exitUsage
	}
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return codeExit(p.Code)
	}
	return codeExit(control.CodeOf(err))
}

func codeExit(code api.Code) int {
	if code == api.CodeInvalid || code == api.CodeNotFound {
		return exitUsage
	}
	return exitFailed
}

// printError says what happened and, on a line of its own, what to do next.
func printError(app *App, err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			printError(app, err)
		}
		return
	}
	if _, ok := errors.AsType[*silentError](err); ok {
		return
	}
	message, hint := describeError(err)
	_, _ = fmt.Fprintln(app.Err, app.red("error:"), message)
	if hint != "" {
		_, _ = fmt.Fprintln(app.Err, app.faint("hint: "), hint)
	}
}

// describeError returns what to say about err, and what to do next, which may be "".
func describeError(err error) (message, hint string) {
	if e, ok := errors.AsType[*api.UnreachableError](err); ok {
		return e.Error(), "start one with `layover up` or `layover demo`, or name it with --server or LAYOVER_SERVER"
	}
	if e, ok := errors.AsType[*api.Problem](err); ok {
		message = e.Detail
		if len(e.Errors) > 1 || len(e.Errors) == 1 && e.Errors[0] != e.Detail {
			message += "\n  " + strings.Join(e.Errors, "\n  ")
		}
		return message, e.Hint
	}
	if e, ok := errors.AsType[*api.DeployError](err); ok {
		return describeDeployError(e)
	}
	if e, ok := errors.AsType[*usageError](err); ok {
		return err.Error(), e.hint
	}
	if e, ok := errors.AsType[*control.Error](err); ok {
		message = strings.Join(append([]string{err.Error()}, e.Details...), "\n  ")
		return message, e.Hint
	}
	return err.Error(), ""
}

func newRootCmd(app *App) *cobra.Command {
	root := &cobra.Command{
		Use:   "layover",
		Short: "Every version of every service, side by side in one environment",
		Long: `Layover runs many versions of many services in one shared environment. A request
names the version it wants in W3C Baggage; services that have it answer with it,
all others answer with main.

  layover demo                                     try it: a small shop, two versions of one service
  layover up                                       run the environment that layover.yaml describes
  layover deploy cart@feature-1 --command ./cart   add a version, in seconds
  layover curl --route feature-1 http://cart.localhost:8080/`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// For every command: none has one of its own.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return checkGiven(cmd.Flags()) },
	}
	root.SetIn(app.In)
	root.SetOut(app.Out)
	root.SetErr(app.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("see: "+cmd.CommandPath()+" --help", "%s", err)
	})
	root.PersistentFlags().StringVar(&app.Server, "server", app.Server, "URL of the Layover server (LAYOVER_SERVER)")
	root.PersistentFlags().BoolVar(&app.NoColor, "no-color", app.NoColor, "no colours (NO_COLOR)")
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run an environment:"},
		&cobra.Group{ID: groupVersions, Title: "Versions:"},
		&cobra.Group{ID: groupRoutes, Title: "Routes and requests:"},
		&cobra.Group{ID: groupTests, Title: "Tests:"},
	)
	root.AddCommand(
		newUpCmd(app), newServerCmd(app), newProxyCmd(app), newDemoCmd(app), newInitCmd(app), newValidateCmd(app), newStoreCmd(app),
		newDeployCmd(app), newStartCmd(app), newStopCmd(app), newRestartCmd(app), newRemoveCmd(app),
		newRollbackCmd(app), newHistoryCmd(app), newScaleCmd(app), newGCCmd(app),
		newSleepCmd(app), newWakeCmd(app), newExtendCmd(app),
		newListCmd(app), newStatusCmd(app), newLogsCmd(app), newEventsCmd(app), newWebhookCmd(app), newServiceCmd(app),
		newRouteCmd(app), newExplainCmd(app), newCurlCmd(app), newReceiptCmd(app), newRequestsCmd(app), newXRayCmd(app), newGatewayCmd(app), newECSCmd(app),
		newExecCmd(app), newTestCmd(app), newRunsCmd(app), newRunCmd(app), newSuiteCmd(app), newCICmd(app), newForgeCmd(app),
		newVersionCmd(app), newShopCmd(app),
	)
	root.SetHelpCommandGroupID("")
	usageArgs(root)
	return root
}

// checkGiven refuses a flag that is given without a text. In a script that is a variable
// that is not set, and what would happen without the flag is not what was asked for.
func checkGiven(flags *pflag.FlagSet) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && err == nil {
			err = emptyFlag("--" + f.Name)
		}
	})
	return err
}

func emptyFlag(name string) error {
	return usagef("is a variable not set? For what holds without it, leave "+name+" out", "%s is given, and empty", name)
}

// The groups of commands in the help.
const (
	groupRun      = "run"
	groupVersions = "versions"
	groupRoutes   = "routes"
	groupTests    = "tests"
)

// usageArgs makes wrong arguments of every command bad input, with a way to its help.
func usageArgs(cmd *cobra.Command) {
	check := cmd.Args
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		err := check(cmd, args)
		if err == nil {
			return nil
		}
		if cmd.HasSubCommands() && len(args) > 0 {
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usagef("did you mean: "+cmd.CommandPath()+" "+strings.Join(near, ", "), "%s", err)
			}
		}
		return usagef("see: "+cmd.CommandPath()+" --help", "%s", err)
	}
	for _, sub := range cmd.Commands() {
		usageArgs(sub)
	}
}
