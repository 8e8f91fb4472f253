package ecs

import (
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// imagesLocked returns what the container that gets the requests really runs in those of the tasks that run, what most
// run first. There are several while an ECS service is in the middle of a deployment.
func (c *cluster) imagesLocked(tasks []*task, container string) []api.Image {
	var out []api.Image
	for _, t := range tasks {
		if aws.ToString(t.LastStatus) != statusRunning || aws.ToString(t.DesiredStatus) != statusRunning {
			continue
		}
		for _, d := range t.Containers {
			if aws.ToString(d.Name) != container {
				continue
			}
			image := api.Image{Name: aws.ToString(d.Image), Digest: aws.ToString(d.ImageDigest), Commit: c.commitLocked(t, container, aws.ToString(d.Image))}
			at := slices.IndexFunc(out, func(i api.Image) bool {
				return i.Name == image.Name && i.Digest == image.Digest && i.Commit == image.Commit
			})
			if at < 0 {
				at, out = len(out), append(out, image)
			}
			out[at].Copies++
		}
	}
	slices.SortStableFunc(out, func(a, b api.Image) int { return b.Copies - a.Copies })
	return out
}

// commitLocked returns the commit that the definition of a task names for a container. A copy has the labels of its
// template, which say nothing of another image.
func (c *cluster) commitLocked(t *task, container, image string) string {
	d := c.definitions[t.described()]
	if d == nil {
		return ""
	}
	for _, has := range d.ContainerDefinitions {
		if aws.ToString(has.Name) == container && aws.ToString(has.Image) == image {
			return commitOf(&has)
		}
	}
	return ""
}

// described is the family and revision of the definition that describes a task: of a copy that of its template.
func (t *task) described() string {
	if t.ID != "" {
		return t.base
	}
	return shortARN(aws.ToString(t.TaskDefinitionArn))
}

// commitOf returns the commit that the Docker labels of a container name.
func commitOf(d *types.ContainerDefinition) string { return control.CommitOf(d.DockerLabels) }
