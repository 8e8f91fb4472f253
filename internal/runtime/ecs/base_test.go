package ecs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// movedOn is a later revision of the cart's template.
func movedOn(image string) string {
	return strings.NewReplacer(
		`"Environment": [`, `"Environment": [{"Name": "LOG_LEVEL", "Value": "s3cret"}, `,
		`"Memory": "512"`, `"Memory": "1024"`, "0123abc", "4567def").Replace(cartDefinition(image))
}

// watched has a runtime watch until t ends.
func watched(t *testing.T, r *Runtime) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func(control.Status) {}) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

// statusOf returns what is known of an instance.
func statusOf(t *testing.T, r *Runtime, id string) control.Status {
	t.Helper()
	all, err := r.List(t.Context())
	require.NoError(t, err)
	for _, s := range all {
		if s.ID == id {
			return s
		}
	}
	return control.Status{}
}

func TestAdopt_ShowsWhatReallyRuns(t *testing.T) {
	c := newCloud(t, quick())
	c.PushImage("cart:main", "sha256:aaaa")
	createService(t, "cart", register(t, cartDefinition("cart:main")), 2)
	adopted := api.ECS{Service: "cart", Adopt: true}
	r := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &adopted}} }})
	watched(t, r)
	const id = "cart--main--1"
	_, err := r.Start(t.Context(), workload(id, adopted), nil)
	require.NoError(t, err)
	images := func(want ...api.Image) {
		t.Helper()
		eventually(t, "the images", func() bool {
			s := statusOf(t, r, id)
			require.Nil(t, s.Base, "it is no copy")
			return fmt.Sprint(s.Images) == fmt.Sprint(want)
		})
	}
	old := api.Image{Name: "cart:main", Digest: "sha256:aaaa", Commit: "0123abc", Copies: 2}
	images(old)
	c.PushImage("cart:main", "sha256:bbbb") // the tag moves under the service
	require.NoError(t, c.UpdateService(testCluster, "cart", 3, ""))
	images(old, api.Image{Name: "cart:main", Digest: "sha256:bbbb", Commit: "0123abc", Copies: 1})
	require.NoError(t, c.UpdateService(testCluster, "cart", 3, register(t, movedOn("cart:main"))))
	images(api.Image{Name: "cart:main", Digest: "sha256:bbbb", Commit: "4567def", Copies: 3})
}

func TestBase_FollowsTheTemplate(t *testing.T) {
	for name, e := range map[string]api.ECS{
		"task": {Service: "cart", Image: "cart:pr-1"}, "service": {Service: "cart", Image: "cart:pr-1", Mode: api.ECSService},
		"family": {TaskDefinition: "cart", Image: "cart:pr-1", LaunchType: "FARGATE", Subnets: []string{"subnet-0a1b2c3d"}},
		"pinned": {Service: "cart", TaskDefinition: "cart:1", Image: "cart:pr-1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, quick())
			createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
			r := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &e}} }})
			watched(t, r)
			const id = "cart--pr-1--7"
			status, err := r.Start(t.Context(), workload(id, e), nil)
			require.NoError(t, err)
			want := api.Base{Template: "ECS service cart", Copied: "cart:1", Current: "cart:1"}
			if e.TaskDefinition != "" {
				want.Template = "task definition " + e.TaskDefinition
			}
			require.Equal(t, want, *status.Base)
			require.Len(t, status.Images, 1)
			require.Empty(t, status.Images[0].Commit, "the template's label is not that of another image")

			register(t, cartDefinition("cart:main-2"))
			require.NoError(t, c.UpdateService(testCluster, "cart", 0, register(t, movedOn("cart:main-3"))))
			if name == "pinned" {
				require.Equal(t, want, *statusOf(t, r, id).Base)
				return
			}
			want.Current, want.Behind = "cart:3", 2
			want.Changes = []string{"memory 512 → 1024", "image cart:main → cart:main-3", "commit 0123abc → 4567def", "environment LOG_LEVEL added"}
			is := func(r *Runtime, want *api.Base) {
				t.Helper()
				eventually(t, "the base", func() bool {
					got := statusOf(t, r, id).Base
					return got != nil && fmt.Sprint(*got) == fmt.Sprint(*want)
				})
			}
			is(r, &want)
			again := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &e}} }})
			watched(t, again)
			is(again, &want)

			require.NoError(t, c.UpdateService(testCluster, "cart", 0, "cart:1")) // main is rolled back
			if e.Service != "" {
				is(again, &api.Base{Template: "ECS service cart", Copied: "cart:1", Current: "cart:1"})
			}
			require.NoError(t, again.Stop(t.Context(), id, 0))
		})
	}
}

func TestBase_CommitOfTheTemplatesOwnImage(t *testing.T) {
	newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	r := newRuntime(t, Options{Environment: "dev-1"})
	status := started(t, r, "cart--pr-1--7", "")
	require.Len(t, status.Images, 1)
	require.Equal(t, "0123abc", status.Images[0].Commit)
}

// TestLookAtOrigins_CostsLittle counts the calls of each turn.
func TestLookAtOrigins_CostsLittle(t *testing.T) {
	c := newCloud(t, quick())
	r := newRuntime(t, Options{Environment: "dev-1", Poll: time.Hour})
	r.hurry = 20 * time.Millisecond
	for i := range 25 {
		name := fmt.Sprintf("cart-%02d", i)
		createService(t, name, register(t, strings.ReplaceAll(cartDefinition("cart:main"), `"Family": "cart"`, `"Family": "`+name+`"`)), 0)
		_, err := r.Start(t.Context(), workload("v--"+name+"--1", api.ECS{Service: name, Image: "cart:a"}), nil)
		require.NoError(t, err)
	}
	again := newRuntime(t, Options{Environment: "dev-1", Poll: time.Hour, Runs: func() []api.Run { return []api.Run{{ECS: &api.ECS{Service: "cart-00"}}} }})
	all, err := again.List(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 25)
	var cluster *cluster
	for _, cluster = range again.clusters {
		break
	}
	turn := func() (services, definitions int) {
		before := c.Calls()
		require.NoError(t, cluster.lookAtOrigins(t.Context()))
		after := c.Calls()
		total := 0
		for action, n := range after {
			total += n - before[action]
		}
		services, definitions = after["ecs:DescribeServices"]-before["ecs:DescribeServices"], after["ecs:DescribeTaskDefinition"]-before["ecs:DescribeTaskDefinition"]
		require.Equal(t, total, services+definitions, "no other calls")
		return services, definitions
	}
	read := 0
	for i := range 7 {
		services, definitions := turn()
		require.Equal(t, i < 3, services == 1, "25 services are three calls, one a turn")
		require.LessOrEqual(t, definitions, definitionsPerTurn)
		read += definitions
	}
	require.Equal(t, 25, read)
	services, definitions := turn()
	require.Zero(t, services+definitions, "what is known is not asked for")
	for _, s := range again.snapshot() {
		require.False(t, s.Base.Moved())
		require.NotEmpty(t, s.Base.Current)
	}
	cluster.budget.tooMany()
	for _, o := range cluster.origins {
		o.asked = time.Time{}
	}
	services, definitions = turn()
	require.Zero(t, services+definitions, "nothing is asked for while there are too many calls")
}

// TestLookAtOrigins_Trouble has one service that may not be seen, and one that is gone.
func TestLookAtOrigins_Trouble(t *testing.T) {
	c := newCloud(t, quick())
	r := newRuntime(t, Options{Environment: "dev-1", Poll: time.Hour})
	r.hurry = 20 * time.Millisecond
	for _, name := range []string{"cart", "gone", "hidden"} {
		createService(t, name, register(t, cartDefinition("cart:main")), 0)
		_, err := r.Start(t.Context(), workload("v--"+name+"--1", api.ECS{Service: name, Image: "cart:a"}), nil)
		require.NoError(t, err)
	}
	yes := true
	cluster, name := testCluster, "gone"
	_, err := sdk(t).DeleteService(t.Context(), &ecs.DeleteServiceInput{Cluster: &cluster, Service: &name, Force: &yes})
	require.NoError(t, err)
	key, _, err := c.AddUser("limited", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecs:*", "Resource": "*"},
		{"Effect": "Deny", "Action": "ecs:DescribeServices", "Resource": "arn:aws:ecs:eu-central-1:111122223333:service/dev/hidden"}]}`)
	require.NoError(t, err)
	as(t, c, key)
	again := newRuntime(t, Options{Environment: "dev-1", Poll: time.Hour, Runs: func() []api.Run { return []api.Run{{ECS: &api.ECS{Service: "cart"}}} }})
	_, err = again.List(t.Context())
	require.NoError(t, err)
	refused := 0
	for _, cl := range again.clusters {
		for turn := range 5 {
			if turn == 1 { // later
				for _, o := range cl.origins {
					o.asked = time.Time{}
				}
			}
			if err := cl.lookAtOrigins(t.Context()); err != nil {
				refused++
				require.ErrorContains(t, err, "hidden")
			}
			cl.patient = time.Time{}
		}
	}
	require.Equal(t, 2, refused, "together with the others, and once alone")
	current := map[string]string{}
	for _, s := range again.snapshot() {
		current[s.ID] = s.Base.Current
	}
	require.Equal(t, map[string]string{"v--cart--1": "cart:1", "v--gone--1": "", "v--hidden--1": ""}, current)
}

func TestLookAtOrigins_DefinitionIsGone(t *testing.T) {
	c := newCloud(t, quick())
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	r := newRuntime(t, Options{Environment: "dev-1"})
	started(t, r, "cart--pr-1--7", "cart:a")
	require.NoError(t, c.UpdateService(testCluster, "cart", 0, register(t, movedOn("cart:main"))))
	old := "cart:1"
	_, err := sdk(t).DeregisterTaskDefinition(t.Context(), &ecs.DeregisterTaskDefinitionInput{TaskDefinition: &old})
	require.NoError(t, err)
	_, err = sdk(t).DeleteTaskDefinitions(t.Context(), &ecs.DeleteTaskDefinitionsInput{TaskDefinitions: []string{old}})
	require.NoError(t, err)
	again := newRuntime(t, Options{Environment: "dev-1", Runs: func() []api.Run { return []api.Run{{ECS: &api.ECS{Service: "cart"}}} }})
	watched(t, again)
	eventually(t, "how far it is behind", func() bool {
		base := statusOf(t, again, "cart--pr-1--7").Base
		return base != nil && base.Behind == 1
	})
}

// TestChanges_TellsNoValues compares definitions that differ in everything.
func TestChanges_TellsNoValues(t *testing.T) {
	read := func(text string) *types.TaskDefinition {
		t.Helper()
		d := &types.TaskDefinition{}
		require.NoError(t, json.Unmarshal([]byte(text), d))
		return d
	}
	from := read(`{"Cpu": "256", "TaskRoleArn": "arn:role/hush", "Volumes": [], "ContainerDefinitions": [
		{"Name": "app", "Image": "cart:1", "Environment": [{"Name": "SAME", "Value": "hush"}, {"Name": "WAS", "Value": "hush"}, {"Name": "OTHER", "Value": "hush"}],
			"Secrets": [{"Name": "DB", "ValueFrom": "hush"}], "DockerLabels": {"team": "hush", "layover.commit": "abc"}, "StopTimeout": 3,
			"HealthCheck": {"Command": ["hush"]}},
		{"Name": "old", "Image": "old:1"}, {"Name": "proxy", "Image": "envoy:1", "Memory": 128}]}`)
	to := read(`{"Cpu": "512", "Memory": "1024", "TaskRoleArn": "arn:role/hush2", "ContainerDefinitions": [
		{"Name": "app", "Image": "cart:2", "Environment": [{"Name": "OTHER", "Value": "hush2"}, {"Name": "NEW", "Value": "hush"}, {"Name": "SAME", "Value": "hush"}],
			"Secrets": [{"Name": "DB", "ValueFrom": "hush2"}, {"Name": "KEY", "ValueFrom": "hush"}], "DockerLabels": {"team": "hush2", "layover.commit": "def"}, "StopTimeout": 9,
			"EntryPoint": ["hush"], "HealthCheck": {"Command": ["hush2"]}},
		{"Name": "new", "Image": "new:1"}, {"Name": "proxy", "Image": "envoy:2", "Memory": 256}]}`)
	require.Equal(t, []string{
		"cpu 256 → 512", "memory none → 1024", "task role changed", "container old removed",
		"image of app cart:1 → cart:2", "commit of app abc → def", "environment NEW of app added", "environment OTHER of app changed",
		"environment WAS of app removed", "secret DB of app changed", "secret KEY of app added", "label team of app changed",
		"entry point of app changed", "health check of app changed",
		"container new added", "image of proxy envoy:1 → envoy:2", "memory of proxy 128 → 256",
	}, changes(from, to))
	require.Empty(t, changes(from, from))

	many := *to
	many.ContainerDefinitions = nil
	for i := range 100 {
		name := fmt.Sprintf("c%03d", i)
		many.ContainerDefinitions = append(many.ContainerDefinitions, types.ContainerDefinition{Name: &name})
	}
	told := changes(from, &many)
	require.Len(t, told, maxChanges+1)
	require.Equal(t, "and 56 more", told[maxChanges])
}
