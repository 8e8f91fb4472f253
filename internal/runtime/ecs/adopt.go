package ecs

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// adoption is an ECS service of somebody else that answers as a version.
type adoption struct {
	status    control.Status // but for its addresses
	service   string
	container string
	port      int
}

// adopt takes the tasks of an ECS service as those of an instance. Nothing of it is changed.
func (c *cluster) adopt(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	e := w.Run.ECS
	step(api.StepStart, "ECS service "+e.Service)
	t, err := c.template(ctx, e, templateAge)
	if err != nil {
		return control.Status{}, err
	}
	routed, port, err := t.routed(e)
	if err != nil {
		return control.Status{}, err
	}
	c.mu.Lock()
	known := c.adopted[w.ID]
	if known == nil {
		known = &adoption{
			status: control.Status{
				ID: w.ID, Service: w.Service, Version: w.Version, Generation: w.Generation, Running: true,
				StartedAt: aws.ToTime(t.service.CreatedAt).UTC(),
			},
			service: aws.ToString(t.service.ServiceName), container: aws.ToString(routed.Name), port: port,
		}
		c.adopted[w.ID] = known
		c.readoptLocked()
	}
	began := time.Now()
	c.mu.Unlock()
	if err := c.fresh(ctx, began); err != nil { // one look for all that are adopted at once
		return control.Status{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adoptedStatusLocked(known), nil
}

func (c *cluster) adoptedStatusLocked(a *adoption) control.Status {
	status := a.status
	status.Addresses = nil
	tasks := c.tasksOfLocked(a.service)
	for _, t := range tasks {
		status.Addresses = append(status.Addresses, c.addressesLocked(t, a.container, a.port)...)
	}
	status.Images = c.imagesLocked(tasks, a.container)
	return status
}

func sortTasks(all []*task) {
	slices.SortFunc(all, func(a, b *task) int {
		return cmp.Or(aws.ToTime(a.CreatedAt).Compare(aws.ToTime(b.CreatedAt)), strings.Compare(aws.ToString(a.TaskArn), aws.ToString(b.TaskArn)))
	})
}
