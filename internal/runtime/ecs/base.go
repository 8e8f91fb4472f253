package ecs

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// origin is where the definitions come from that copies are made of: an ECS service, or a task definition, of which
// the newest revision counts.
type origin struct {
	current string    // family and revision that it has now; "" where that is not known
	asked   time.Time // when it was asked for last
	alone   bool      // the last question that named it was refused, and may have been for another: it gets one of its own
}

const (
	fromService    = "service "
	fromDefinition = "task definition "
)

// originOf names the origin of a run.
func originOf(e *api.ECS) string {
	if e.TaskDefinition != "" {
		return fromDefinition + e.TaskDefinition
	}
	return fromService + e.Service
}

// fixed says whether an origin is one revision of a task definition: it never moves on.
func fixed(name string) bool {
	definition, ok := strings.CutPrefix(name, fromDefinition)
	return ok && strings.Contains(shortARN(definition), ":")
}

// How often templates are looked at, and how much may be asked at each turn, which there is one of each poll: in the
// steady state one call each minute for ten ECS services, and never more than one each poll however many there are.
const (
	originsFactor      = 12 // polls between two looks at one origin
	definitionsPerTurn = 4  // that are read the first time
)

// lookAtTemplates follows what copies were made of, until ctx ends. It is for people, and nothing depends on it: where
// AWS says that there are too many calls, it asks for nothing.
func (r *Runtime) lookAtTemplates(ctx context.Context) error {
	for {
		r.mu.Lock()
		all := slices.Collect(maps.Values(r.clusters))
		r.mu.Unlock()
		for _, c := range all {
			limited, cancel := context.WithTimeout(ctx, r.poll*originsFactor)
			err := c.lookAtOrigins(limited)
			cancel()
			if err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "templates not looked at", "cluster", c.name, "err", err)
			}
		}
		select {
		case <-time.After(r.poll):
		case <-ctx.Done():
			return nil
		}
	}
}

// lookAtOrigins takes one turn: it asks for those origins that were asked for longest ago, and reads definitions that
// are not known.
func (c *cluster) lookAtOrigins(ctx context.Context) error {
	c.mu.Lock()
	wait := time.Now().Before(c.patient)
	c.mu.Unlock()
	if wait || c.budget.short() {
		return nil
	}
	err := c.askOrigins(ctx)
	if err == nil {
		err = c.readDefinitions(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.patient = time.Now().Add(c.runtime.poll * originsFactor)
	}
	c.compareLocked()
	return err
}

// askOrigins asks what the ECS services and task definitions have now that are due: ten services, and one family.
func (c *cluster) askOrigins(ctx context.Context) error {
	services, family := c.dueOrigins()
	if len(services) > 0 {
		out, err := ask(ctx, c.account, c.describeServices, &ecs.DescribeServicesInput{Cluster: &c.name, Services: services})
		if err != nil {
			c.mu.Lock()
			for _, name := range services {
				c.origins[fromService+name].alone = true
			}
			c.mu.Unlock()
			return c.fail(ctx, "look at the ECS services "+strings.Join(services, ", ")+" of cluster "+c.name, err)
		}
		has := map[string]string{}
		for _, s := range out.Services {
			if aws.ToString(s.Status) == serviceActive {
				has[aws.ToString(s.ServiceName)] = shortARN(aws.ToString(s.TaskDefinition))
			}
		}
		c.mu.Lock()
		for _, name := range services {
			o := c.origins[fromService+name]
			o.current, o.alone = has[shortARN(name)], false
		}
		c.mu.Unlock()
	}
	if family == "" {
		return nil
	}
	d, err := c.definition(ctx, family)
	if err != nil && !gone(err) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.origins[fromDefinition+family].current = ""
	if err == nil {
		c.origins[fromDefinition+family].current = d.label()
	}
	return nil
}

// dueOrigins returns which origins are to be asked for now, and notes that they are.
func (c *cluster) dueOrigins() (services []string, family string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := map[string]bool{}
	for _, l := range c.copiesLocked() {
		used[l.origin] = true
	}
	var due []string
	for name := range used {
		switch o := c.origins[name]; {
		case fixed(name):
			c.origins[name] = &origin{current: shortARN(strings.TrimPrefix(name, fromDefinition))}
		case o == nil:
			c.origins[name] = &origin{}
			due = append(due, name)
		case time.Since(o.asked) >= c.runtime.poll*originsFactor:
			due = append(due, name)
		}
	}
	maps.DeleteFunc(c.origins, func(name string, o *origin) bool { return !used[name] && time.Since(o.asked) > templateAge })
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(c.origins[a].asked.Compare(c.origins[b].asked), strings.Compare(a, b))
	})
	for _, name := range due {
		o := c.origins[name]
		service, isService := strings.CutPrefix(name, fromService)
		switch {
		case isService && o.alone && len(services) == 0:
			services = []string{service}
		case isService && !o.alone && len(services) < servicesPerCall && (len(services) == 0 || !c.origins[fromService+services[0]].alone):
			services = append(services, service)
		case !isService && family == "":
			family = strings.TrimPrefix(name, fromDefinition)
		default:
			continue
		}
		o.asked = time.Now()
	}
	return services, family
}

// copiesLocked returns what is known of each task and ECS service that is a copy and has not ended.
func (c *cluster) copiesLocked() []*labels {
	var out []*labels
	for _, t := range c.tasks {
		if t.base != "" && !t.ended() && !t.ofECSService() {
			out = append(out, &t.labels)
		}
	}
	for _, s := range c.services {
		if s.base != "" && !s.ended {
			out = append(out, &s.labels)
		}
	}
	return out
}

// readDefinitions reads some of the definitions that are needed and not known, and forgets those that are not needed.
func (c *cluster) readDefinitions(ctx context.Context) error {
	c.mu.Lock()
	needed := map[string]bool{}
	for _, l := range c.copiesLocked() {
		needed[l.base] = true
		if o := c.origins[l.origin]; o != nil && o.current != "" {
			needed[o.current] = true
		}
	}
	for _, t := range c.tasks {
		if t.ID == "" && !t.ended() { // of an ECS service that was adopted
			needed[t.described()] = true
		}
	}
	for _, t := range c.templates {
		needed[t.definition.label()] = true
	}
	ours := map[string]bool{} // they say where the logs are
	for _, t := range c.tasks {
		ours[shortARN(aws.ToString(t.TaskDefinitionArn))] = true
	}
	maps.DeleteFunc(c.definitions, func(label string, _ *definition) bool { return !needed[label] && !ours[label] })
	var missing []string
	for _, label := range slices.Sorted(maps.Keys(needed)) {
		if _, known := c.definitions[label]; !known && len(missing) < definitionsPerTurn {
			missing = append(missing, label)
		}
	}
	c.mu.Unlock()
	for _, label := range missing {
		_, err := c.definition(ctx, label)
		switch {
		case gone(err):
			c.mu.Lock()
			c.definitions[label] = nil // one that was deleted never comes back
			c.mu.Unlock()
		case err != nil:
			return err
		}
	}
	return nil
}

// gone says whether what was asked for is not there.
func gone(err error) bool {
	told, ok := errors.AsType[*control.Error](err)
	return ok && told.Code == api.CodeNotFound
}

// compareLocked finds out in what the copied definitions differ from the current ones.
func (c *cluster) compareLocked() {
	used := map[[2]string]bool{}
	for _, l := range c.copiesLocked() {
		o := c.origins[l.origin]
		if o == nil || o.current == "" || o.current == l.base {
			continue
		}
		pair := [2]string{l.base, o.current}
		used[pair] = true
		from, to := c.definitions[l.base], c.definitions[o.current]
		if c.differ[pair] == nil && from != nil && to != nil {
			c.differ[pair] = changes(&from.TaskDefinition, &to.TaskDefinition)
		}
	}
	maps.DeleteFunc(c.differ, func(pair [2]string, _ []string) bool { return !used[pair] })
}

// baseLocked says what a copy was made of, and how far that has moved on.
func (c *cluster) baseLocked(l *labels) *api.Base {
	if l.base == "" {
		return nil
	}
	out := &api.Base{Copied: l.base}
	if name, ok := strings.CutPrefix(l.origin, fromService); ok {
		out.Template = "ECS service " + shortARN(name)
	} else {
		out.Template = fromDefinition + shortARN(strings.TrimPrefix(l.origin, fromDefinition))
	}
	o := c.origins[l.origin]
	if o == nil || o.current == "" {
		return out
	}
	out.Current = o.current
	family, now, _ := strings.Cut(o.current, ":")
	before, then, _ := strings.Cut(l.base, ":")
	if family == before {
		newer, _ := strconv.Atoi(now) // AWS writes a number
		older, _ := strconv.Atoi(then)
		out.Behind = newer - older
	}
	out.Changes = c.differ[[2]string{l.base, o.current}]
	return out
}
