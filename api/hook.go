package api

import "time"

// Hook is a command or a container that runs once for a version: before its instances start,
// or when it is removed. Without Image and Runtime it runs as the instances do: as a process,
// as a container of the same image, or as an ECS task of it.
type Hook struct {
	Command []string          `json:"command,omitempty" yaml:"command,omitempty" doc:"Program and arguments; placeholders are filled in. In a container it replaces the image's command" example:"./cart migrate"`
	Image   string            `json:"image,omitempty" yaml:"image,omitempty" doc:"Run a container of this image. Default: the image of the instances, where those are containers" example:"registry.example.com/cart-db:{version}"`
	Runtime string            `json:"runtime,omitempty" yaml:"runtime,omitempty" enum:"process,docker,ecs" doc:"What runs it. Default: what runs the instances where that is ecs; else docker where there is an image, else what runs the instances, else process"`
	Dir     string            `json:"dir,omitempty" yaml:"dir,omitempty" doc:"Working directory of a process, absolute. In layover.yaml it is relative to the file. Default: that of the instances"`
	Env     map[string]string `json:"env,omitempty" yaml:"env,omitempty" doc:"Environment variables, over those of the instances"`
	Timeout Duration          `json:"timeout,omitzero" yaml:"timeout,omitempty" doc:"How long it may take, at most 24h; then it is ended. Default: 5m" example:"10m"`
	Off     bool              `json:"off,omitempty" yaml:"off,omitempty" doc:"Run no such hook, whatever the service has"`
}

// RuntimeBeside returns the name of the runtime that runs h for instances that run so.
func (h Hook) RuntimeBeside(run Run) string {
	switch {
	case h.Runtime == RuntimeECS, h.Runtime == "" && run.ECS != nil:
		return RuntimeECS
	case h.Image != "":
		return RuntimeDocker
	case h.Runtime != "":
		return h.Runtime
	case run.Docker != nil:
		return RuntimeDocker
	default:
		return RuntimeProcess
	}
}

// MaxHookTimeout is the longest time that a hook may have.
const MaxHookTimeout = Duration(24 * time.Hour)

// Teardown says how the teardown of a version goes that is being removed.
type Teardown struct {
	Tries   int       `json:"tries,omitempty" doc:"How often it failed"`
	Failure string    `json:"failure,omitempty" doc:"Why it failed the last time"`
	NextTry time.Time `json:"next_try,omitzero" doc:"When it is tried again"`
}
