package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// replacePlan says how much the proof does.
type replacePlan struct {
	noLossPlan
	rounds   int // deployments, good and bad in turn
	replicas int
	sabotage bool // a bad build whose health nobody checks
}

func replaceFull() replacePlan {
	return replacePlan{noLossPlan: noLossFull(), rounds: 20, replicas: 2}
}

func replaceSmall() replacePlan {
	return replacePlan{noLossPlan: noLossSmall(), rounds: 6, replicas: 2}
}

// proveReplace sends requests at a constant rate to a version that is deployed over and over:
// a good build, and one that ends at once, never listens, or is not healthy though it answers.
func proveReplace(plan replacePlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return replace(ctx, plan) }
}

func replace(ctx context.Context, plan replacePlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	r := &replacing{losing: losing{environment: e, plan: plan.noLossPlan}, rounds: plan.rounds}
	health := "/healthz"
	if plan.sabotage {
		health = "tcp"
	}
	total, err := r.underLoad(ctx, fmt.Sprintf("    health: %s\n    replicas: %d\n", health, plan.replicas), r.deployments)
	if err != nil {
		return result{}, err
	}
	figure := fmt.Sprintf("%d requests at %d/s to %d instances, %d good builds served, %d bad ones refused with a reason: %d failed, %d sent twice, %d wrong version",
		total.sent, plan.rate, plan.replicas, r.served, r.refused, total.failed, total.again, total.wrong)
	ok := total.failed+total.again+total.wrong == 0 && r.served+r.refused == plan.rounds
	return result{figure: figure, bar: "0 failed, 0 sent twice, 0 wrong", ok: ok}, nil
}

type replacing struct {
	losing
	rounds          int
	served, refused int
}

// deployments deploys a good build and a bad one in turn, and sees that the one takes over
// and the other does not.
func (r *replacing) deployments(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bad := []badBuild{
		{"sick", []string{"--command", fmt.Sprintf("%s %s %s", self, backendCommand, sick), "--timeout", "3s"}, "answers 500"},
		{"ends", []string{"--command", "sh -c 'echo no database; exit 3'"}, "code 3"},
		{"mute", []string{"--command", "sleep 60", "--timeout", "3s"}, "not healthy after 3s"},
	}
	for round := range r.rounds {
		began := time.Now()
		name := "good"
		if round%2 == 0 {
			if err := r.replace(ctx); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
			r.served++
		} else {
			b := bad[round/2%len(bad)]
			name = b.name
			_, err := r.cli(ctx, append([]string{"deploy", "pricing@x"}, b.flags...)...)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil && strings.Contains(err.Error(), b.reason):
				r.refused++
			default:
				fmt.Printf("  fault: a build that is %s was not refused with %q: %v\n", name, b.reason, err)
			}
		}
		if err := r.asDeployed(ctx); err != nil {
			return err
		}
		total := r.load.total()
		fmt.Printf("  %2d %-5s %5.2f s  %d requests so far, %d failed, %d wrong\n",
			round+1, name, time.Since(began).Seconds(), total.sent, total.failed, total.wrong)
	}
	return pause(ctx, r.plan.quiet)
}

type badBuild struct {
	name   string
	flags  []string
	reason string // is among what the deployment fails with
}

// asDeployed sees that the version runs, and that nothing else is left of it.
func (r *replacing) asDeployed(ctx context.Context) error {
	var last string
	return until(ctx, time.Minute, func() (bool, error) {
		versions, err := r.versions(ctx)
		last = states(versions)
		for _, v := range versions {
			if v.State == api.StateFailed {
				return false, errors.Join(err, fmt.Errorf("%s has failed: %s", v.ID(), v.Reason))
			}
			if v.State != api.StateRunning || len(v.Instances) != v.Healthy {
				return false, err
			}
		}
		return true, err
	}, func() string { return "what was let go of does not end: " + last })
}
