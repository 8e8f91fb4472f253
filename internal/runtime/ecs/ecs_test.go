package ecs

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// quick runs tasks as HTTP servers of this process that say which image they are.
func quick() *ecstest.HTTPRunner {
	return ecstest.NewHTTPRunner(func(_ ecstest.TaskSpec, c ecstest.ContainerSpec) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(c.Image)) })
	})
}

func workload(id string, e api.ECS) control.Workload {
	return control.Workload{
		ID: id, Service: "cart", Version: "pr-1", Generation: 7, Owner: "ana <ana@example.com>", Run: api.Run{ECS: &e}, Grace: 3 * time.Second,
		Env: map[string]string{"COLOR": "green", "WHO": id, "TOKEN": "plain"},
	}
}

// started starts an instance of the cart's ECS service with another image.
func started(t *testing.T, r *Runtime, id, image string) control.Status {
	t.Helper()
	status, err := r.Start(t.Context(), workload(id, api.ECS{Service: "cart", Image: image}), nil)
	require.NoError(t, err)
	return status
}

// TestCopyDefinition_LeavesNothingOut fails where a new version of the SDK brings a field that can be registered.
func TestCopyDefinition_LeavesNothingOut(t *testing.T) {
	in, from := reflect.TypeFor[ecs.RegisterTaskDefinitionInput](), reflect.TypeFor[types.TaskDefinition]()
	for field := range in.Fields() {
		switch field.Name {
		case "Family", "Tags", "noSmithyDocumentSerde", "InferenceAccelerators": // its own; and what AWS has given up
			continue
		}
		_, ok := from.FieldByName(field.Name)
		require.True(t, ok, "%s is in no definition", field.Name)
		d := types.TaskDefinition{}
		value := reflect.ValueOf(&d).Elem().FieldByName(field.Name)
		value.Set(filled(value.Type()))
		out, err := copyDefinition(&d)
		require.NoError(t, err)
		require.Equal(t, value.Interface(), reflect.ValueOf(out).Elem().FieldByName(field.Name).Interface(), field.Name)
	}
}

// filled returns a value of a type that is not zero.
func filled(of reflect.Type) reflect.Value {
	value := reflect.New(of).Elem()
	switch of.Kind() { //nolint:exhaustive // what definitions have
	case reflect.Pointer:
		value.Set(reflect.New(of.Elem()))
	case reflect.Slice:
		value.Set(reflect.MakeSlice(of, 1, 1))
	case reflect.String:
		value.SetString("x")
	}
	return value
}

func TestStart_CopiesTheTemplate(t *testing.T) {
	c := newCloud(t, quick())
	c.AddSecret("arn:aws:secretsmanager:eu-central-1:111122223333:secret:db", "s3cret")
	text := strings.ReplaceAll(cartDefinition("cart:main"), `"Environment": [`,
		`"Secrets": [{"Name": "DB", "ValueFrom": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:db"},
			{"Name": "TOKEN", "ValueFrom": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:db"}], "Environment": [`)
	createService(t, "cart", register(t, text), 1)
	r := newRuntime(t, Options{Environment: "dev-1"})
	status := started(t, r, "cart--pr-1--7", "cart:pr-1")
	require.True(t, status.Running)
	require.Len(t, status.Addresses, 1)

	task := c.Tasks(testCluster)
	i := 0
	for task[i].Tags[TagInstance] == "" {
		i++
	}
	require.Equal(t, "layover-dev-1--cart--pr-1", task[i].Family)
	require.Len(t, task[i].Tags[tagWorkload], 32)
	delete(task[i].Tags, tagWorkload)
	require.Equal(t, map[string]string{
		TagEnvironment: "dev-1", TagService: "cart", TagVersion: "pr-1", TagGeneration: "7", TagInstance: "cart--pr-1--7",
		TagOwner: "ana -ana@example.com-", tagContainer: "app", tagPort: "8080", tagOrigin: "service cart", tagBase: "cart:1",
	}, task[i].Tags)
	out, err := sdk(t).DescribeTaskDefinition(t.Context(), &ecs.DescribeTaskDefinitionInput{TaskDefinition: &task[i].Family})
	require.NoError(t, err)
	copied := out.TaskDefinition.ContainerDefinitions[0]
	require.Equal(t, "cart:pr-1", aws.ToString(copied.Image))
	require.Equal(t, int32(3), aws.ToInt32(copied.StopTimeout))
	require.Equal(t, "0123abc", copied.DockerLabels["org.opencontainers.image.revision"], "labels are kept")
	require.Equal(t, "false", copied.DockerLabels["traefik.enable"], "but Traefik's own provider takes it for no main")
	env := map[string]string{}
	for _, v := range copied.Environment {
		env[aws.ToString(v.Name)] = aws.ToString(v.Value)
	}
	require.Equal(t, map[string]string{"FROM_TEMPLATE": "yes", "COLOR": "green", "TOKEN": "plain", "PORT": "8080"}, env, "what one instance alone has is no part of it")
	require.Len(t, copied.Secrets, 1, "a variable of the version takes the place of a secret")
	require.Equal(t, "ecs-execution", shortARN(aws.ToString(out.TaskDefinition.ExecutionRoleArn)))
}

func TestStart_RegistersOnlyWhatDiffers(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	r := newRuntime(t, Options{Environment: "dev-1"})
	before := c.Calls()["ecs:RegisterTaskDefinition"]
	started(t, r, "cart--pr-1--7", "cart:a")
	started(t, r, "cart--pr-1--7.2", "cart:a")
	require.Equal(t, 1, c.Calls()["ecs:RegisterTaskDefinition"]-before, "two instances have one definition")
	again := newRuntime(t, Options{Environment: "dev-1"})
	started(t, again, "cart--pr-1--7.3", "cart:a")
	require.Equal(t, 1, c.Calls()["ecs:RegisterTaskDefinition"]-before, "also for another server")
	started(t, again, "cart--pr-1--8", "cart:b")
	require.Equal(t, 2, c.Calls()["ecs:RegisterTaskDefinition"]-before)
	for _, id := range []string{"cart--pr-1--7", "cart--pr-1--7.2", "cart--pr-1--7.3"} {
		require.NoError(t, again.Stop(t.Context(), id, 0))
	}
	require.Contains(t, c.Leftovers("layover-dev-1--"), "definition layover-dev-1--cart--pr-1:2")
	require.NotContains(t, c.Leftovers("layover-dev-1--"), "definition layover-dev-1--cart--pr-1:1", "nothing runs from it any more")
	require.NoError(t, again.Stop(t.Context(), "cart--pr-1--8", 0))
	require.Empty(t, c.Leftovers("layover-"))
}

func TestStart_NamesOfTheTemplateStay(t *testing.T) {
	newCloud(t, quick())
	createService(t, "cart", register(t, strings.ReplaceAll(cartDefinition("cart:main"), `"Environment": [`,
		`"Environment": [{"Name": "DD_SERVICE", "Value": "shop-cart"}, {"Name": "DD_VERSION", "Value": "1.0"}, `)), 0)
	r := newRuntime(t, Options{Environment: "dev-1"})
	w := workload("cart--pr-1--7", api.ECS{Service: "cart", Image: "cart:a"})
	w.Env["DD_SERVICE"], w.Env["DD_ENV"], w.Env["DD_VERSION"], w.Yields = "cart", "dev", "pr-1", []string{"DD_ENV", "DD_SERVICE"}
	_, err := r.Start(t.Context(), w, nil)
	require.NoError(t, err)
	out, err := sdk(t).DescribeTaskDefinition(t.Context(), &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("layover-dev-1--cart--pr-1")})
	require.NoError(t, err)
	got := map[string]string{}
	for _, v := range out.TaskDefinition.ContainerDefinitions[0].Environment {
		got[aws.ToString(v.Name)] = aws.ToString(v.Value)
	}
	require.Equal(t, "shop-cart", got["DD_SERVICE"])
	require.Equal(t, "dev", got["DD_ENV"])
	require.Equal(t, "pr-1", got["DD_VERSION"])
}

func TestStart_InstancesOfADeploymentAreOfOneKind(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	r := newRuntime(t, Options{Environment: "dev-1"})
	started(t, r, "cart--pr-1--7", "cart:a")
	moved := register(t, strings.ReplaceAll(cartDefinition("cart:main"), `"Environment": [`, `"Environment": [{"Name": "NEW", "Value": "1"}, `))
	require.NoError(t, c.UpdateService(testCluster, "cart", 0, moved))

	r = newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &api.ECS{Service: "cart"}}} }}) // which knows no template
	_, err := r.List(t.Context())
	require.NoError(t, err)
	before := c.Calls()
	started(t, r, "cart--pr-1--7.2", "cart:a")
	started(t, r, "cart--pr-1--7.3", "cart:a")
	after := c.Calls()
	require.Equal(t, before["ecs:RegisterTaskDefinition"], after["ecs:RegisterTaskDefinition"], "the template of the deployment counts")
	require.Equal(t, 1, after["ecs:DescribeServices"]-before["ecs:DescribeServices"], "the network of the template is read once")

	started(t, newRuntime(t, Options{Environment: "dev-1"}), "cart--pr-1--8", "cart:a")
	require.Equal(t, before["ecs:RegisterTaskDefinition"]+1, c.Calls()["ecs:RegisterTaskDefinition"], "another deployment takes the newest")
}

// ECS answers a call that it knows with the task that it ran by then.
func TestStart_IsNotGivenATaskThatHasEnded(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	options := Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &api.ECS{Service: "cart"}}} }}
	r := newRuntime(t, options)
	started(t, r, "cart--pr-1--7.2", "cart:a") // keeps the definition
	for range 3 {
		started(t, r, "cart--pr-1--7", "cart:a")
		require.NoError(t, r.Stop(t.Context(), "cart--pr-1--7", 0))
	}
	for _, looks := range []bool{true, false} { // one that sees what has ended, and one that does not
		r = newRuntime(t, options)
		if looks {
			_, err := r.List(t.Context())
			require.NoError(t, err)
		}
		before := c.Calls()["ecs:RunTask"]
		status := started(t, r, "cart--pr-1--7", "cart:a")
		require.True(t, status.Running)
		require.NotEmpty(t, status.Addresses)
		require.LessOrEqual(t, c.Calls()["ecs:RunTask"]-before, 5)
		require.NoError(t, r.Stop(t.Context(), "cart--pr-1--7", 0))
	}
}

func TestStart_SaysWhyATaskDidNotRun(t *testing.T) {
	for name, about := range map[string]struct {
		break_ func(t *testing.T, c *ecstest.Cloud) api.ECS
		says   string
	}{
		"image": {func(t *testing.T, _ *ecstest.Cloud) api.ECS {
			t.Helper()
			return api.ECS{Service: "cart", Image: "absent:v1"}
		}, "image absent:v1 not found: was it pushed, and is the tag right?"},
		"secret": {func(t *testing.T, _ *ecstest.Cloud) api.ECS {
			t.Helper()
			register(t, strings.Replace(cartDefinition("cart:main"), `"Essential": true,`,
				`"Essential": true, "Secrets": [{"Name": "DB", "ValueFrom": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:none"}],`, 1))
			return api.ECS{Service: "cart", TaskDefinition: "cart"}
		}, "secret arn:aws:secretsmanager:eu-central-1:111122223333:secret:none missing"},
		"log group": {func(t *testing.T, _ *ecstest.Cloud) api.ECS {
			t.Helper()
			register(t, strings.Replace(cartDefinition("cart:main"), "/ecs/cart", "/ecs/none", 1))
			return api.ECS{Service: "cart", TaskDefinition: "cart"}
		}, "its log group cannot be written to: create it"},
		"capacity": {func(t *testing.T, c *ecstest.Cloud) api.ECS {
			t.Helper()
			createService(t, "other", "cart", 1)
			eventually(t, "the only place to be taken", func() bool { return len(c.Tasks(testCluster)) == 1 })
			c.SetCapacity(testCluster, 1)
			return api.ECS{Service: "cart"}
		}, "no capacity: no container instance of the cluster has enough memory left"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, ecstest.NewProcessRunner(map[string]ecstest.Program{"cart:main": {Path: "/bin/sleep", Args: []string{"60"}}}))
			createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
			e := about.break_(t, c)
			r := newRuntime(t, Options{Environment: "dev-1"})
			_, err := r.Start(t.Context(), workload("cart--pr-1--7", e), nil)
			require.ErrorContains(t, err, about.says)
			var told *control.Error
			require.ErrorAs(t, err, &told)
			require.NotEmpty(t, told.Hint)
			require.Empty(t, c.Leftovers("layover-"))
		})
	}
}

func TestWhyStopped(t *testing.T) {
	container := func(code int32, reason string) []types.Container {
		return []types.Container{
			{Name: aws.String("app"), Image: aws.String("cart:1"), ExitCode: &code, Reason: &reason},
			{Name: aws.String("sidecar"), Image: aws.String("proxy:1"), ExitCode: aws.Int32(3)},
		}
	}
	for want, about := range map[string]types.Task{
		"killed: out of memory (container app, limit of the task 512 MiB)": {
			Memory: aws.String("512"), Containers: container(137, "OutOfMemoryError: Container killed due to memory usage"), StopCode: types.TaskStopCodeEssentialContainerExited,
		},
		"killed (exit code 137): out of memory, or it did not end within its stop timeout": {
			Containers: container(137, ""), StopCode: types.TaskStopCodeEssentialContainerExited,
		},
		"its essential container sidecar exited with code 3, which ends the whole task": {
			Containers: container(0, ""), StopCode: types.TaskStopCodeEssentialContainerExited,
		},
		"AWS took the capacity back (Fargate Spot)": {StopCode: types.TaskStopCodeSpotInterruption},
		"somebody stopped the task: for lunch":      {StopCode: types.TaskStopCodeUserInitiated, StoppedReason: aws.String("for lunch")},
		"":                                          {Containers: container(4, ""), StopCode: types.TaskStopCodeEssentialContainerExited},
	} {
		_, reason := whyStopped(&about, "app")
		require.Equal(t, want, reason)
	}
}

func TestAdopt_ChangesNothing(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 2)
	adopted := api.ECS{Service: "cart", Adopt: true}
	r := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &adopted}} }})
	before := c.Calls()
	_, err := r.Start(t.Context(), workload("cart--main--1", adopted), nil)
	require.NoError(t, err)
	addresses := func() []control.Address {
		all, err := r.List(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0].Addresses
	}
	eventually(t, "both tasks to be there", func() bool { return len(addresses()) == 2 })
	require.NoError(t, c.UpdateService(testCluster, "cart", 3, ""))
	eventually(t, "a third", func() bool { return len(addresses()) == 3 })
	require.NoError(t, r.Stop(t.Context(), "cart--main--1", 0))
	all, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	require.Len(t, c.Tasks(testCluster), 3, "they go on")
	for action, n := range c.Calls() {
		if before[action] != n {
			require.True(t, strings.HasPrefix(action, "ecs:List") || strings.HasPrefix(action, "ecs:Describe"), "%s changes something", action)
		}
	}
}

// TestList_TroubleTakesNothingAway throttles, fails and shortens answers.
func TestList_TroubleTakesNothingAway(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	run := api.Run{ECS: &api.ECS{Service: "cart"}}
	r := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{run} }})
	ids := []string{"cart--pr-1--7", "cart--pr-1--7.2", "cart--pr-1--7.3"}
	for _, id := range ids {
		started(t, r, id, "cart:a")
	}
	c.SetFaults(ecstest.Faults{Throttle: 0.3, Fail: 0.2, Partial: 0.5})
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for _, cl := range r.clusters {
			require.NoError(t, cl.fresh(ctx, time.Now()))
		}
		cancel()
		all := r.snapshot()
		require.Len(t, all, len(ids))
		for _, status := range all {
			require.True(t, status.Running)
			require.Len(t, status.Addresses, 1)
		}
	}
	require.NotZero(t, c.Throttled()["ecs:ListTasks"])
	c.SetFaults(ecstest.Faults{Throttle: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, cl := range r.clusters {
		require.Error(t, cl.fresh(ctx, time.Now()), "what cannot be looked at is told")
	}
	require.Len(t, r.snapshot(), len(ids))
	c.SetFaults(ecstest.Faults{})
}

func TestAsk_ConnectionsBreakOff(t *testing.T) {
	c := newCloud(t, quick())
	r := newRuntime(t, Options{Environment: "dev-1"})
	cl, err := r.cluster(t.Context(), api.ECS{})
	require.NoError(t, err)
	c.SetFaults(ecstest.Faults{Break: asked - 1})
	require.NoError(t, cl.fresh(t.Context(), time.Now()), "it is asked again")
	c.SetFaults(ecstest.Faults{Break: 2 * asked})
	require.ErrorContains(t, cl.fresh(t.Context(), time.Now()), "list the tasks of cluster dev")
	c.SetFaults(ecstest.Faults{})
}

func TestStart_AnswersGetLost(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	for mode, actions := range map[string][]string{
		"":             {"RunTask", "StopTask", "DeregisterTaskDefinition", "DeleteTaskDefinitions"},
		api.ECSService: {"CreateService", "UpdateService", "DeleteService"},
	} {
		for _, action := range actions {
			t.Run(action, func(t *testing.T) {
				e := api.ECS{Service: "cart", Mode: mode, Image: "cart:a"}
				r := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &e}} }})
				c.SetFaults(ecstest.Faults{Lose: action})
				_, err := r.Start(t.Context(), workload("cart--pr-1--7", e), nil)
				require.NoError(t, err)
				tasks := 0
				for _, task := range c.Tasks(testCluster) {
					if task.Status == "RUNNING" {
						tasks++
					}
				}
				require.Equal(t, 1, tasks)
				require.NoError(t, r.Stop(t.Context(), "cart--pr-1--7", time.Second))
				eventually(t, "nothing is left", func() bool { return len(c.Leftovers("layover-")) == 0 })
			})
		}
	}
	c.SetFaults(ecstest.Faults{})
}

// TestStart_Events starts what nothing but events tells of in time.
func TestStart_Events(t *testing.T) {
	for name, e := range map[string]api.ECS{
		"a task": {Service: "cart"}, "an ECS service": {Service: "cart", Mode: api.ECSService}, "a task on a machine": {TaskDefinition: "cart-bridge", LaunchType: "EC2"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, quick())
			c.AddContainerInstance(testCluster, "i-0a1b2c3d", "127.0.0.1")
			createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
			register(t, bridgeDefinition("cart:main"))
			c.SetStartDelay(1500 * time.Millisecond) // behind the first look
			queue := c.CreateQueue("layover")
			require.NoError(t, c.Forward(queue, `{"source": ["aws.ecs"]}`))
			r := newRuntime(t, Options{Environment: "dev-1", Events: queue, Poll: time.Hour, Runs: func() []api.Run { return []api.Run{{ECS: &e}} }})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Watch(ctx, func(control.Status) {}) }()
			t.Cleanup(func() {
				cancel()
				require.NoError(t, <-ended)
			})
			starting, enough := context.WithTimeout(t.Context(), 20*time.Second)
			defer enough()
			status, err := r.Start(starting, workload("cart--pr-1--7", e), nil)
			require.NoError(t, err)
			require.Len(t, status.Addresses, 1)
		})
	}
}

// TestWatch_Events loses, repeats, delays and reorders what the queue has: the queue makes it fast, and the next look makes it right.
func TestWatch_Events(t *testing.T) {
	for name, faults := range map[string]ecstest.Faults{
		"as they come": {}, "twice and in any order": {RepeatEvents: 0.5, ReorderEvents: 0.5}, "half of them lost": {LoseEvents: 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, quick())
			createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
			queue := c.CreateQueue("layover")
			require.NoError(t, c.Forward(queue, `{"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}`))
			c.SetFaults(faults)
			run := api.Run{ECS: &api.ECS{Service: "cart"}}
			r := newRuntime(t, Options{Environment: "dev-1", Events: queue, Poll: 100 * time.Millisecond, Runs: func() []api.Run { return []api.Run{run} }})
			ctx, cancel := context.WithCancel(t.Context())
			reported, ended := make(chan control.Status, 100), make(chan error, 1)
			go func() { ended <- r.Watch(ctx, func(s control.Status) { reported <- s }) }()
			t.Cleanup(func() {
				cancel()
				require.NoError(t, <-ended)
			})
			started(t, r, "cart--pr-1--7", "cart:a")
			c.KillTask(c.Tasks(testCluster)[0].ARN, 9)
			for status := range reported {
				if !status.Running {
					require.Equal(t, 9, status.ExitCode)
					break
				}
			}
		})
	}
}
