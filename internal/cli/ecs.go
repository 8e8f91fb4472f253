package cli

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/runtime/ecs"
)

func newECSCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ecs",
		GroupID: groupRun,
		Short:   "Amazon ECS: is all there that a deployment needs, and what the server must be allowed to do",
		Long: `Services of layover.yaml whose run block is ecs run as tasks of Amazon ECS. These commands read
layover.yaml and ask AWS directly, with the credentials they find as every AWS tool does: run
them where the server runs, as its user. They need no server.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newECSCheckCmd(app), newECSPolicyCmd(app))
	return cmd
}

// openECS reads the file, and opens the runtime of its environment. The names of what it makes are those of nobody else.
func openECS(app *App, name string) (*config.File, *ecs.Runtime, error) {
	file, err := loadFile(app, name)
	if err != nil {
		return nil, nil, err
	}
	runtime, err := ecs.New(ecs.Options{
		Environment: file.Environment + "-check", Region: file.ECS.Region, Role: file.ECS.Role, Cluster: file.ECS.Cluster, Events: file.ECS.Events,
		Poll: time.Second, CallsPerSecond: file.ECS.CallsPerSecond, Logger: slog.New(slog.NewTextHandler(app.Err, nil)),
	})
	return file, runtime, err
}

func newECSCheckCmd(app *App) *cobra.Command {
	var opts struct {
		file        string
		run, asJSON bool
	}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Prove that credentials, template, network and log are right, before the first deployment",
		Long: `Look at everything that a deployment of each service needs: the credentials, the cluster, the
template, where its tasks run, its log group, and whether this machine reaches a task that runs
already. Nothing is changed.

With --run it also runs a task of each service, from its template, connects to it, reads its log
and stops it: then every permission was used once. It exits with 1 where something is not right.`,
		Example: "  layover ecs check\n  layover ecs check --run\n  layover ecs check --json | jq '.[] | select(.ok | not)'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, runtime, err := openECS(app, opts.file)
			if err != nil {
				return err
			}
			defer func() { _ = runtime.Close() }()
			return runECSCheck(cmd.Context(), app, runtime, file.Services(), opts.run, opts.asJSON)
		},
	}
	cmd.Flags().StringVarP(&opts.file, "file", "f", config.FileName, "configuration file")
	cmd.Flags().BoolVar(&opts.run, "run", false, "also run a task of each service, and stop it")
	cmd.Flags().BoolVar(&opts.asJSON, "json", false, "print JSON")
	return cmd
}

func runECSCheck(ctx context.Context, app *App, runtime *ecs.Runtime, services []api.Service, run, asJSON bool) error {
	services = onECS(services)
	if len(services) == 0 {
		return usagef("give a service a run block with ecs: layover.yaml says run: {ecs: {service: cart}}", "no service of the file runs on ECS")
	}
	all, bad := []ecs.Finding{}, 0
	runtime.Check(ctx, services, run, func(f ecs.Finding) {
		all = append(all, f)
		if !f.OK {
			bad++
		}
		if !asJSON {
			tellFinding(app, f)
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if asJSON {
		if err := app.json(all); err != nil {
			return err
		}
	}
	if bad > 0 {
		return &silentError{code: exitFailed}
	}
	return nil
}

// onECS returns the services that run on ECS.
func onECS(all []api.Service) []api.Service {
	var out []api.Service
	for _, s := range all {
		if s.Run.ECS != nil {
			out = append(out, s)
		}
	}
	return out
}

func tellFinding(app *App, f ecs.Finding) {
	mark := app.green("✓")
	switch {
	case f.Left:
		mark = app.faint("-")
	case !f.OK:
		mark = app.red("✗")
	}
	what := f.Step
	if f.Service != "" {
		what = f.Service + ": " + f.Step
	}
	app.printf("%s %s: %s\n", mark, what, terminalText(f.Text))
	if f.Hint != "" {
		app.printf("  %s %s\n", app.faint("hint:"), f.Hint)
	}
}

func newECSPolicyCmd(app *App) *cobra.Command {
	var opts struct {
		file string
		ecs.PolicyInput
	}
	cmd := &cobra.Command{
		Use:   "iam-policy",
		Short: "The IAM policy that the server needs, and nothing more",
		Long: `Print the IAM policy with which the server can run the versions of layover.yaml on ECS. Templates
are read to name the roles and log groups that they have; with --offline AWS is asked nothing,
and the policy has to allow every role and log group of the account.

Services of other accounts have a role that the server takes on: the policy of the server allows
that, and --role prints the policy of such a role.`,
		Example: `  layover ecs iam-policy > policy.json
  layover ecs iam-policy --offline --account 111122223333
  layover ecs iam-policy --role arn:aws:iam::444455556666:role/layover`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, runtime, err := openECS(app, opts.file)
			if err != nil {
				return err
			}
			defer func() { _ = runtime.Close() }()
			opts.Environment, opts.Services = file.Environment, file.Services()
			policy, notes, err := runtime.Policy(cmd.Context(), opts.PolicyInput)
			if err != nil {
				return err
			}
			for _, note := range notes {
				app.say("%s %s\n", app.faint("note:"), note)
			}
			return app.json(policy)
		},
	}
	cmd.Flags().StringVarP(&opts.file, "file", "f", config.FileName, "configuration file")
	cmd.Flags().StringVar(&opts.Role, "role", "", "ARN of a role that is taken on, whose policy is wanted")
	cmd.Flags().StringVar(&opts.Account, "account", "", "account, 12 digits (default: asked of AWS, or that of --role)")
	cmd.Flags().BoolVar(&opts.Offline, "offline", false, "ask AWS nothing")
	return cmd
}
