package config

import "github.com/layover-dev/layover/api"

// hook checks the setup or teardown at p, which may be nil, of instances that run so.
func (k checker) hook(h *api.Hook, run api.Run, p path) {
	if h == nil || h.Off {
		return
	}
	runtime := h.RuntimeBeside(run)
	switch {
	case h.Image != "" && h.Runtime == api.RuntimeProcess:
		k.key(p.with("runtime"), "leave it out, or the image", "a process has no image")
	case h.Command == nil && h.Image == "":
		k.key(p, "add command, or image; to have none: off: true", "there is nothing to run")
	case runtime == api.RuntimeDocker && h.Image == "" && (run.Docker == nil || run.Docker.Image == ""):
		k.key(p, "add image", "it is to run as a container, and nothing says of which image")
	}
	if h.Dir != "" && runtime != api.RuntimeProcess {
		k.key(p.with("dir"), "leave it out, or set runtime: process", "a folder is for a process, and this runs as a container")
	}
	k.command(h.Command, p.with("command"))
	k.image(h.Image, p.with("image"))
	k.placeholders(h.Dir, p.with("dir"))
	k.env(h.Env, p.with("env"))
	if h.Timeout > api.MaxHookTimeout {
		k.value(p.with("timeout"), "", "%s is more than %s", h.Timeout, api.MaxHookTimeout)
	}
}

// versionHooks checks the hooks of a version, which go by what it runs itself.
func (k checker) versionHooks(s Service, v Version, p path) {
	run := s.Run
	switch {
	case v.Image != "" && s.Run.ECS != nil, v.Adopt: // as the template
	case v.Image != "":
		run = api.Run{Docker: &api.Docker{Image: v.Image}}
	case v.Command != nil:
		run = api.Run{Process: &api.Process{Command: v.Command}}
	case v.URL != "":
		run = api.Run{External: &api.External{URL: v.URL}}
	}
	k.hook(v.Setup, run, p.with("setup"))
	k.hook(v.Teardown, run, p.with("teardown"))
}

// hook returns a hook with its working directory absolute.
func (f *File) hook(h *api.Hook) *api.Hook {
	if h == nil || h.Dir == "" {
		return h
	}
	out := *h
	out.Dir = f.absolute(h.Dir)
	return &out
}
