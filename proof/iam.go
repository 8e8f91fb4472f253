package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/layover-dev/layover/api"
	ecsruntime "github.com/layover-dev/layover/internal/runtime/ecs"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// proveIAM has the policy of `layover ecs iam-policy` made for services that run in every way there is, and runs `layover
// ecs check --run` with it, and with each of its actions taken away.
func proveIAM(ctx context.Context) (result, error) {
	dir, err := os.MkdirTemp("", "layover-proof-")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	app, err := buildTestApp(ctx, dir)
	if err != nil {
		return result{}, err
	}
	p := &permissions{app: app}
	whole, err := p.policies(ctx)
	if err != nil {
		return result{}, err
	}
	failed, err := p.check(ctx, whole)
	if err != nil {
		return result{}, err
	}
	for _, f := range failed {
		fmt.Printf("  with the whole policy: %s %s: %s\n", f.Service, f.Step, f.Text)
	}
	sufficient, actions, unneeded := len(failed) == 0, 0, 0
	for _, whose := range []string{serverPolicy, rolePolicy} {
		for _, action := range whole[whose].actions() {
			actions++
			failed, err := p.check(ctx, whole.without(whose, action))
			if err != nil {
				return result{}, err
			}
			if len(failed) == 0 {
				unneeded++
				fmt.Printf("  %-6s without %-34s nothing fails\n", whose, action)
				continue
			}
			fmt.Printf("  %-6s without %-34s %s %s: %s\n", whose, action, failed[0].Service, failed[0].Step, firstLine(failed[0].Text))
		}
	}
	return result{
		figure: fmt.Sprintf("the policies suffice: %v; %d actions, of which %d can be taken away without a step that fails", sufficient, actions, unneeded),
		bar:    "true; 0",
		ok:     sufficient && unneeded == 0 && actions > 20,
	}, nil
}

// permissions is the environment that the policies are for.
type permissions struct{ app ecstest.Program }

// The two policies: of the server, and of the role that it takes on for another account.
const (
	serverPolicy = "server"
	rolePolicy   = "role"
)

type policy struct{ ecsruntime.Policy }

type policies map[string]policy

func (p policy) actions() []string {
	var out []string
	for _, s := range p.Statement {
		out = append(out, s.Action...)
	}
	return out
}

// without returns the policies but for one action of one of them.
func (p policies) without(whose, action string) policies {
	out := policies{}
	for name, all := range p {
		kept := policy{ecsruntime.Policy{Version: all.Version}}
		for _, s := range all.Statement {
			if name == whose {
				s.Action = slices.DeleteFunc(slices.Clone(s.Action), func(a string) bool { return a == action })
			}
			if len(s.Action) > 0 {
				kept.Statement = append(kept.Statement, s)
			}
		}
		out[name] = kept
	}
	return out
}

func (p policy) json() string {
	text, _ := json.Marshal(p.Policy) // it has nothing that cannot be written
	return string(text)
}

const otherRole = "arn:aws:iam::111122223333:role/layover"

// services run in every way: as tasks, as ECS services, on machines, and by a role.
func (permissions) services() []api.Service {
	short := api.Duration(4 * time.Second)
	return []api.Service{
		{Name: "cart", Default: "main", Timeout: short, Run: api.Run{ECS: &api.ECS{Service: "cart"}}},
		{Name: "orders", Default: "main", Timeout: short, Run: api.Run{ECS: &api.ECS{Service: "orders", Mode: api.ECSService}}},
		{Name: "legacy", Default: "main", Timeout: short, Run: api.Run{ECS: &api.ECS{TaskDefinition: "legacy", LaunchType: "EC2"}}},
		{Name: "other", Default: "main", Timeout: short, Run: api.Run{ECS: &api.ECS{Service: "other", Cluster: "other", Role: otherRole}}},
	}
}

// cloud makes a cloud with the templates of the services, and returns it with the queue of events.
func (p *permissions) cloud(ctx context.Context) (c *ecstest.Cloud, queue string, err error) {
	c, err = newCloud(ecstest.NewProcessRunner(map[string]ecstest.Program{"app:main": p.app}))
	if err != nil {
		return nil, "", err
	}
	queue = c.CreateQueue("layover")
	c.AddContainerInstance(ecsCluster, "i-0a1b2c3d", "127.0.0.1")
	if err := useCloud(c, ecsRoot); err != nil {
		return c, queue, err
	}
	c.AddCluster("other")
	for name, cluster := range map[string]string{"cart": ecsCluster, "orders": ecsCluster, "other": "other"} {
		if err := ecsTemplate(ctx, cluster, name, "app:main", 0); err != nil {
			return c, queue, err
		}
	}
	client, err := ecsClient(ctx)
	if err != nil {
		return c, queue, err
	}
	in := &ecs.RegisterTaskDefinitionInput{}
	err = json.Unmarshal([]byte(`{"Family": "legacy", "NetworkMode": "bridge", "ContainerDefinitions": [{
		"Name": "app", "Image": "app:main", "Memory": 128, "Essential": true, "PortMappings": [{"ContainerPort": 8080, "HostPort": 8080}]}]}`), in)
	if err == nil {
		_, err = client.RegisterTaskDefinition(ctx, in)
	}
	return c, queue, err
}

func (p *permissions) runtime(queue string) (*ecsruntime.Runtime, error) {
	return ecsruntime.New(ecsruntime.Options{
		Environment: "dev-0a1b2c3d", Cluster: ecsCluster, Events: queue, Poll: 200 * time.Millisecond, CallsPerSecond: 200,
		Logger: slog.New(slog.DiscardHandler),
	})
}

// policies asks for both policies, as somebody who may read the templates.
func (p *permissions) policies(ctx context.Context) (policies, error) {
	c, queue, err := p.cloud(ctx)
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	if err != nil {
		return nil, err
	}
	if _, err := c.AddRole("layover", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}`, "arn:aws:iam::111122223333:root", ""); err != nil {
		return nil, err
	}
	out := policies{}
	for whose, role := range map[string]string{serverPolicy: "", rolePolicy: otherRole} {
		r, err := p.runtime(queue)
		if err != nil {
			return nil, err
		}
		made, notes, err := r.Policy(ctx, ecsruntime.PolicyInput{Environment: "dev", Services: p.services(), Role: role})
		_ = r.Close()
		if err != nil {
			return nil, err
		}
		if len(notes) > 0 {
			return nil, fmt.Errorf("the policy had to guess: %v", notes)
		}
		out[whose] = policy{made}
		fmt.Printf("  %s: %d statements, %d actions, %d characters\n", whose, len(made.Statement), len(policy{made}.actions()), len(policy{made}.json()))
	}
	return out, nil
}

// check runs `layover ecs check --run` with these policies, and returns the steps that failed.
func (p *permissions) check(ctx context.Context, with policies) ([]ecsruntime.Finding, error) {
	c, queue, err := p.cloud(ctx)
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	if err != nil {
		return nil, err
	}
	key, _, err := c.AddUser("server", with[serverPolicy].json())
	if err != nil {
		return nil, err
	}
	role := with[rolePolicy].json()
	if len(with[rolePolicy].Statement) == 0 {
		role = `{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}`
	}
	if _, err := c.AddRole("layover", role, "arn:aws:iam::111122223333:root", ""); err != nil {
		return nil, err
	}
	if err := useCloud(c, key); err != nil {
		return nil, err
	}
	r, err := p.runtime(queue)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	var failed []ecsruntime.Finding
	checking, enough := context.WithCancel(ctx)
	defer enough()
	r.Check(checking, p.services(), true, func(f ecsruntime.Finding) {
		if !f.OK && checking.Err() == nil {
			failed = append(failed, f)
			enough()
		}
	})
	return failed, ctx.Err()
}

func firstLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return text[:min(len(text), 150)]
}
