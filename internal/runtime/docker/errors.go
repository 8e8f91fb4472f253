package docker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// errStreamEnded marks an answer of the Engine that broke off: it went away.
var errStreamEnded = errors.New("the engine ended the stream")

func invalid(hint, format string, args ...any) *control.Error {
	return &control.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// fail turns an error of the Engine into one for people. what says what was being
// done, and to which thing; ctx is the caller's, so that its end is told from a
// time-out of ours.
func (r *Runtime) fail(ctx context.Context, what string, err error) error {
	if known, ok := errors.AsType[*control.Error](err); ok {
		return known
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if r.unusable != nil {
		return r.unusable
	}
	host := r.engine.DaemonHost()
	switch {
	case client.IsErrConnectionFailed(err) && strings.Contains(err.Error(), "permission denied"):
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("%s: this user may not talk to Docker at %s", what, host),
			Hint:    "add the user to the group docker (`sudo usermod -aG docker $USER`, then log in anew), or set DOCKER_HOST to an Engine it may use",
			Err:     err,
		}
	case client.IsErrConnectionFailed(err):
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("%s: Docker does not answer at %s", what, host),
			Hint:    startHint(),
			Err:     err,
		}
	case errors.Is(err, errStreamEnded):
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("%s: Docker at %s closed the connection", what, host),
			Hint:    startHint(),
			Err:     err,
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("%s: Docker at %s accepts connections and does not answer", what, host),
			Hint:    "look at the log of the Docker service, and restart it where it hangs",
			Err:     err,
		}
	case strings.Contains(err.Error(), "no space left on device"):
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: what + ": the disk of the Docker Engine is full",
			Hint:    "make room, for example with `docker system prune`",
			Err:     err,
		}
	case cerrdefs.IsInvalidArgument(err), cerrdefs.IsConflict(err):
		return &control.Error{Code: api.CodeInvalid, Message: what + ": " + words(err), Err: err}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// failStart is fail for an error of creating or starting a container.
func (r *Runtime) failStart(ctx context.Context, p plan, err error) error {
	what, text := "start container "+p.name, strings.ToLower(words(err))
	contains := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	known := &control.Error{Code: api.CodeInvalid, Message: what + ": " + words(err), Err: err}
	switch {
	case err == nil || ctx.Err() != nil || client.IsErrConnectionFailed(err):
		return r.fail(ctx, what, err)
	case contains("no such image"):
		known.Message = fmt.Sprintf("image %s is not there any more", p.config.Image)
		known.Hint = "deploy again: it is pulled where the pull policy is not never"
	case contains("no command specified"):
		known.Message = fmt.Sprintf("image %s says no command to run", p.config.Image)
		known.Hint = "set command"
	case contains("executable file not found", "no such file or directory") && contains("exec"):
		known.Hint = fmt.Sprintf("image %s has no such command: name a program of the image, with its full path", p.config.Image)
	case contains("exec format error"):
		known.Hint = fmt.Sprintf("image %s is built for another kind of processor", p.config.Image)
	case contains("network") && contains("not found"):
		known.Hint = fmt.Sprintf("make it with `docker network create %s`", r.network)
	case contains("memory limit"):
		known.Hint = "raise memory"
	case contains("range of cpus"):
		known.Hint = "change cpus to what the Engine's machine has"
	default:
		return r.fail(ctx, what, err)
	}
	return known
}

// isMissingInit says whether a container did not start for want of docker-init.
func isMissingInit(err error) bool {
	return err != nil && strings.Contains(err.Error(), "docker-init")
}

func startHint() string {
	if runtime.GOOS == "linux" {
		return "start Docker, for example with `systemctl start docker`, or set DOCKER_HOST to where it runs"
	}
	return "start Docker Desktop, or set DOCKER_HOST to where Docker runs"
}

// words returns what the Engine said, without what could be a secret: the
// addresses of blobs carry signatures.
func words(err error) string {
	if err == nil {
		return ""
	}
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	return urlSecrets.ReplaceAllString(text, "$1$2")
}

// urlSecrets matches URLs; its groups are the scheme, and the rest without user and query.
var urlSecrets = regexp.MustCompile(`(https?://)(?:[^/\s"@]+@)?([^\s"?]+)(?:\?[^\s"]*)?`)
