package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/examples/shop"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

const (
	shopFeature = "feature-2981"
	shopDomain  = "shop.test"
	// shopStopDelay is how long a service of the company goes on serving after SIGTERM. ECS on its own ends a task as
	// soon as its successor runs; Traefik learns of that at its next poll.
	shopStopDelay = 4 * time.Second
	shopPoll      = time.Second // of Traefik
)

// company is everything there is without Layover: programs, Traefik, a cluster with an ECS service each.
func (p *shopOnECS) company(ctx context.Context) error {
	program := filepath.Join(p.dir, "shop")
	if err := goBuild(ctx, program, "examples/shop/cmd/shop"); err != nil {
		return err
	}
	p.runner = ecstest.NewProcessRunner(shopImages(program))
	var err error
	if p.cloud, err = newCloud(p.runner); err != nil {
		return err
	}
	p.ending = append(p.ending, func() { _ = p.cloud.Close() })
	if dir, ok := ecstest.BotocoreData(); ok { // what the fake answers is held to it, see [shopOnECS.layoverEnds]
		if err := p.cloud.UseContract(dir); err != nil {
			return err
		}
	}
	p.cloud.SetStartDelay(time.Second)
	p.queue = p.cloud.CreateQueue("layover")
	if err := p.cloud.Forward(p.queue, `{"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"], "detail": {"clusterArn": ["arn:aws:ecs:eu-central-1:111122223333:cluster/dev"]}}`); err != nil {
		return err
	}
	if err := useCloud(p.cloud, ecsRoot); err != nil {
		return err
	}
	if p.client, err = ecsClient(ctx); err != nil {
		return err
	}
	process, address, err := harness.StartTraefik(ctx,
		"--providers.http.endpoint="+p.serverURL+"/gateway/traefik", "--providers.http.pollinterval="+shopPoll.String())
	if err != nil {
		return err
	}
	p.ending = append(p.ending, process.Stop)
	p.traefik = address
	for _, service := range shop.Services() {
		if err := p.createMain(ctx, service); err != nil {
			return err
		}
	}
	return until(ctx, time.Minute, func() (bool, error) {
		return p.mainTasks() == len(shop.Services())+1, nil
	}, func() string { return "main does not run" })
}

// mainTasks counts the tasks of main. It is -1 while one of them starts or ends.
func (p *shopOnECS) mainTasks() (n int) {
	for _, t := range p.cloud.Tasks(ecsCluster) {
		switch {
		case !slices.Contains(shop.Services(), t.Service), t.Status == "STOPPED":
		case t.Status == "RUNNING":
			n++
		default:
			return -1
		}
	}
	return n
}

// shopImages are the builds of the services.
func shopImages(program string) map[string]ecstest.Program {
	out := map[string]ecstest.Program{}
	add := func(service, build string, env map[string]string) {
		out["shop/"+service+":"+build] = ecstest.Program{Path: program, Args: []string{service}, Env: func(address netip.Addr) map[string]string {
			all := map[string]string{"HOST": address.String(), "SHOP_BUILD": build}
			maps.Copy(all, env)
			return all
		}}
	}
	for _, service := range shop.Services() {
		add(service, "main-1", nil)
		add(service, "main-2", nil)
	}
	for n := 1; n <= 3; n++ {
		add(shop.Cart, fmt.Sprintf("feature-%d", n), nil)
		add(shop.Pricing, fmt.Sprintf("feature-%d", n), map[string]string{"PRICING_DISCOUNT": strconv.Itoa(10 * n)})
	}
	add(shop.Inventory, "pr-88", nil)
	add(shop.Recommendations, "crashes", map[string]string{"SHOP_CRASH": "1"})
	return out
}

// registerMain registers a build of main of a service, as the company's CI does, and returns the ARN of the definition.
func (p *shopOnECS) registerMain(ctx context.Context, service, build string) (string, error) {
	in := &ecs.RegisterTaskDefinitionInput{}
	text := strings.NewReplacer("NAME", service, "IMAGE", "shop/"+service+":"+build, "TRAEFIK", p.traefik, "DOMAIN", shopDomain, "{delay}", shopStopDelay.String()).Replace(`{
		"Family": "NAME", "NetworkMode": "awsvpc", "RequiresCompatibilities": ["FARGATE"], "Cpu": "256", "Memory": "512",
		"ExecutionRoleArn": "arn:aws:iam::111122223333:role/ecs-execution",
		"ContainerDefinitions": [{
			"Name": "app", "Image": "IMAGE", "Essential": true, "PortMappings": [{"ContainerPort": 8080, "Protocol": "tcp"}],
			"Environment": [
				{"Name": "PORT", "Value": "8080"}, {"Name": "SHOP_STOP_DELAY", "Value": "{delay}"},
				{"Name": "HTTP_PROXY", "Value": "http://TRAEFIK"}, {"Name": "LAYOVER_PROXY", "Value": "TRAEFIK"},
				{"Name": "CART_URL", "Value": "http://cart.DOMAIN"}, {"Name": "PRICING_URL", "Value": "http://pricing.DOMAIN"},
				{"Name": "RECOMMENDATIONS_URL", "Value": "http://recommendations.DOMAIN"}, {"Name": "INVENTORY_ADDR", "Value": "inventory.DOMAIN:80"}],
			"LogConfiguration": {"LogDriver": "awslogs", "Options": {
				"awslogs-group": "/ecs/shop", "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "ecs"}}}]}`)
	if err := json.Unmarshal([]byte(text), in); err != nil {
		return "", err
	}
	out, err := p.client.RegisterTaskDefinition(ctx, in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.TaskDefinition.TaskDefinitionArn), nil
}

// createMain makes the ECS service of main of a service; the cart has two tasks.
func (p *shopOnECS) createMain(ctx context.Context, service string) error {
	definition, err := p.registerMain(ctx, service, "main-1")
	if err != nil {
		return err
	}
	count := int32(1)
	if service == shop.Cart {
		count = 2
	}
	_, err = p.client.CreateService(ctx, &ecs.CreateServiceInput{
		Cluster: aws.String(ecsCluster), ServiceName: &service, TaskDefinition: &definition, DesiredCount: &count, LaunchType: types.LaunchTypeFargate,
		NetworkConfiguration: &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{
			Subnets: []string{"subnet-0a1b2c3d"}, SecurityGroups: []string{"sg-0a1b2c3d"},
		}},
		Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("shop")}},
	})
	return err
}

// configure writes layover.yaml, and has the server be somebody who may do what `layover ecs iam-policy` says, and
// nothing else.
func (p *shopOnECS) configure(ctx context.Context) error {
	var services strings.Builder
	for _, name := range shop.Services() {
		fmt.Fprintf(&services, "  %s:\n    run: {ecs: {service: %s%s}}\n    versions: {main: {adopt: true}}\n", name, name,
			map[string]string{shop.Pricing: ", mode: service"}[name])
		if name == shop.Inventory {
			services.WriteString("    protocol: h2c\n    health: tcp\n")
		}
	}
	err := p.write(fmt.Sprintf(`environment: shop
domain: %s
hold: 6s
gateway: {traefik: {mode: hybrid}}
proxy:
  listen: ["127.0.0.1:%s"]
  access_log: {file: access.log}
ecs: {region: eu-central-1, cluster: %s, events: %q}
defaults:
  health: /healthz
  timeout: 40s
  drain: 2s # more than Traefik's poll
  env: {SHOP_STOP_DELAY: 0s} # Layover takes a version out of the table first
services:
%s`, shopDomain, p.proxyPort, ecsCluster, p.queue, services.String()))
	if err != nil {
		return err
	}
	policy, err := p.cli(ctx, "ecs", "iam-policy", "-f", p.file())
	if err != nil {
		return err
	}
	key, _, err := p.cloud.AddUser("server", policy)
	p.variables = awsVariables(p.cloud, key)
	return err
}

func (p *shopOnECS) file() string { return filepath.Join(p.dir, "layover.yaml") }

// mains says what the company's ECS services are, and which tasks run of them.
func (p *shopOnECS) mains(ctx context.Context) (string, error) {
	out, err := p.client.DescribeServices(ctx, &ecs.DescribeServicesInput{
		Cluster: aws.String(ecsCluster), Services: shop.Services(), Include: []types.ServiceField{types.ServiceFieldTags},
	})
	if err != nil {
		return "", err
	}
	var lines []string
	for _, s := range out.Services {
		lines = append(lines, fmt.Sprintf("service %s %s of %s, %d of %d tasks, %d deployments, tags %s", aws.ToString(s.ServiceName), aws.ToString(s.Status),
			aws.ToString(s.TaskDefinition), s.RunningCount, s.DesiredCount, len(s.Deployments), tagText(s.Tags)))
	}
	for _, t := range p.cloud.Tasks(ecsCluster) {
		if slices.Contains(shop.Services(), t.Service) && t.Status != "STOPPED" {
			lines = append(lines, fmt.Sprintf("task %s of %s %s, tags %v", t.ARN, t.Service, t.Status, t.Tags))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

func tagText(tags []types.Tag) (text string) {
	for _, t := range tags {
		text += aws.ToString(t.Key) + "=" + aws.ToString(t.Value) + " "
	}
	return text
}

func (p *shopOnECS) stillUntouched(ctx context.Context) error {
	now, err := p.mains(ctx)
	if err == nil && now != p.untouched {
		err = fmt.Errorf("the ECS services of main were touched; they were\n%s\nand are\n%s", p.untouched, now)
	}
	return err
}

// throughProxy counts in the access log of Layover's proxy.
func (p *shopOnECS) throughProxy() (plain, routed int, err error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "access.log"))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(text) {
		var request struct {
			Route string `json:"route"`
		}
		if err := json.Unmarshal(line, &request); err != nil {
			continue // it is being written
		}
		if request.Route == "" {
			plain++
		} else {
			routed++
		}
	}
	return plain, routed, nil
}

// traefikConfig is what Traefik is given; it must lead to main and to Layover's proxy alone.
func (p *shopOnECS) traefikConfig(ctx context.Context) ([]byte, error) {
	text, err := fetch(ctx, p.serverURL+"/gateway/traefik")
	if err != nil {
		return nil, err
	}
	config, err := traefik.Parse(text)
	if err != nil {
		return nil, err
	}
	mine := 0
	for name, s := range config.HTTP.Services {
		for _, server := range s.LoadBalancer.Servers {
			address := strings.TrimSuffix(server.URL[strings.Index(server.URL, "//")+2:], ":8080")
			if slices.Contains(config.Proxies(), server.URL[strings.Index(server.URL, "//")+2:]) {
				continue
			}
			if !slices.ContainsFunc(p.cloud.Tasks(ecsCluster), func(t ecstest.TaskInfo) bool {
				return t.Address == address && slices.Contains(shop.Services(), t.Service)
			}) {
				return nil, fmt.Errorf("service %s of Traefik leads to %s, which is no task of main", name, server.URL)
			}
			mine++
		}
	}
	if want := len(shop.Services()) + 1; mine != want {
		return nil, fmt.Errorf("the configuration of Traefik has %d addresses of main, and there are %d", mine, want)
	}
	return text, nil
}

// sameConfig holds that Traefik is given what it was given before: only main changes that.
func (p *shopOnECS) sameConfig(ctx context.Context) error {
	now, err := p.traefikConfig(ctx)
	if err == nil && !bytes.Equal(now, p.config) {
		err = fmt.Errorf("the configuration of Traefik has changed, and nothing of main did; it was\n%s\nand is\n%s", p.config, now)
	}
	return err
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, res.Status, text)
	}
	return text, err
}

// taggedAnywhere looks for active definitions and tasks with Layover's tags, whatever they are called.
func (p *shopOnECS) taggedAnywhere(ctx context.Context) error {
	for _, t := range p.cloud.Tasks(ecsCluster) {
		if t.Tags["layover:environment"] != "" && t.Status != "STOPPED" {
			return fmt.Errorf("task %s of %s is %s", t.ARN, t.Family, t.Status)
		}
	}
	all, err := p.client.ListTaskDefinitions(ctx, &ecs.ListTaskDefinitionsInput{Status: types.TaskDefinitionStatusActive})
	if err != nil {
		return err
	}
	for _, arn := range all.TaskDefinitionArns {
		d, err := p.client.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: &arn, Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags}})
		if err != nil {
			return err
		}
		if strings.Contains(tagText(d.Tags), "layover:") {
			return fmt.Errorf("definition %s is active", arn)
		}
	}
	return nil
}

var buildNumber = regexp.MustCompile(`-(\d+)$`)

// buildOf is the number in the name of a build, 0 where it has none.
func buildOf(name string) int {
	found := buildNumber.FindStringSubmatch(name)
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(cmp.Or(found[1], "0"))
	return n
}
