package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	progressEvery     = 200 * time.Millisecond
	credentialTimeout = 30 * time.Second // a helper may ask a remote service
)

// ensureImage makes the image of p be there, as policy says.
func (r *Runtime) ensureImage(ctx context.Context, p plan, policy string, step func(api.Step, string)) error {
	if policy != pullAlways {
		call, cancel := context.WithTimeout(ctx, r.queryTimeout)
		defer cancel()
		_, err := r.engine.ImageInspect(call, p.config.Image)
		if err == nil {
			return nil
		}
		if !cerrdefs.IsNotFound(err) {
			return r.fail(ctx, "look for image "+p.config.Image, err)
		}
		if policy == pullNever {
			return &control.Error{
				Code:    api.CodeNotFound,
				Message: fmt.Sprintf("image %s is not on this machine, and the pull policy is never%s", p.config.Image, r.besides(ctx, p.image)),
				Hint:    "build or pull it first, or set pull to missing",
				Err:     err,
			}
		}
	}
	step(api.StepPull, p.config.Image)
	return r.pull(ctx, p.image, step)
}

// pull fetches an image, with the credentials that Docker's configuration has for its registry.
func (r *Runtime) pull(ctx context.Context, image reference.Named, step func(api.Step, string)) error {
	login := r.credentials(ctx, reference.Domain(image))
	stream, err := r.engine.ImagePull(ctx, image.String(), client.ImagePullOptions{RegistryAuth: login.header})
	if err != nil {
		return r.failPull(ctx, image, login, err)
	}
	defer stream.Close() //nolint:errcheck // all of it was read, or an error is under way
	var seen progress
	for message, err := range stream.JSONMessages(ctx) {
		if err == nil && message.Error != nil {
			err = errors.New(message.Error.Message)
		} else if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", errStreamEnded, err)
		}
		if err != nil {
			return r.failPull(ctx, image, login, err)
		}
		if detail, ok := seen.add(message, time.Now()); ok {
			step(api.StepPull, detail)
		}
	}
	return nil
}

// progress adds up the messages of a pull.
type progress struct {
	layers map[string]*layer
	done   int
	told   time.Time // when the last detail was given
}

type layer struct {
	done            bool
	fetched, length int64
}

// add takes a message in, and returns words for where the pull is, when they are
// due: whenever a layer is done, else at most every progressEvery.
func (p *progress) add(message jsonstream.Message, now time.Time) (string, bool) {
	if message.ID == "" {
		return "", false
	}
	current, known := p.layers[message.ID]
	if !known {
		current = &layer{}
	}
	switch message.Status {
	case "Pulling fs layer", "Waiting", "Verifying Checksum", "Extracting":
	case "Downloading":
		if message.Progress != nil {
			current.fetched, current.length = message.Progress.Current, message.Progress.Total
		}
	case "Download complete":
		current.fetched = current.length
	case "Pull complete", "Already exists":
		if !current.done {
			current.done = true
			current.fetched = current.length
			p.done++
			p.told = time.Time{}
		}
	default: // words about the image as a whole carry its tag as their ID
		return "", false
	}
	if p.layers == nil {
		p.layers = make(map[string]*layer)
	}
	p.layers[message.ID] = current
	if now.Sub(p.told) < progressEvery {
		return "", false
	}
	p.told = now
	return p.String(), true
}

// String says how far the pull is: "2 of 7 layers, 12.5 MB of 48 MB".
func (p *progress) String() string {
	var fetched, length int64
	for _, l := range p.layers {
		fetched += l.fetched
		length += l.length
	}
	text := fmt.Sprintf("%d of %d layers", p.done, len(p.layers))
	if length > 0 {
		size := func(n int64) string {
			return units.CustomSize("%.3g %s", float64(n), 1000, []string{"B", "kB", "MB", "GB", "TB"})
		}
		text += fmt.Sprintf(", %s of %s", size(fetched), size(length))
	}
	return text
}

// login is what is known of credentials for a registry.
type login struct {
	registry   string
	header     string          // for the Engine; empty means anonymous
	credential auth.Credential // of header
	unreadable bool            // there may be some, and they cannot be read
}

// credentials looks for credentials where the docker command does: the helper of the
// registry, the credentials store, the configuration file. Where they cannot be read
// the pull goes on without, as that command does. The error of reading may hold the
// secret itself, so nobody is told it.
func (r *Runtime) credentials(ctx context.Context, domain string) login {
	out := login{registry: domain}
	ctx, cancel := context.WithTimeout(ctx, credentialTimeout)
	defer cancel()
	server := credentials.ServerAddressFromRegistry(domain)
	found := auth.EmptyCredential
	store, err := credentials.NewStore(filepath.Join(configDir(), "config.json"), credentials.StoreOptions{})
	if err == nil {
		found, err = store.Get(ctx, server)
	}
	if err != nil {
		out.unreadable = true
		r.log.WarnContext(ctx, "credentials cannot be read, pulling without", "registry", domain)
		return out
	}
	if found == auth.EmptyCredential {
		return out
	}
	out.credential = found
	header, err := authconfig.Encode(registry.AuthConfig{
		Username:      found.Username,
		Password:      found.Password,
		IdentityToken: found.RefreshToken,
		RegistryToken: found.AccessToken,
		ServerAddress: server,
	})
	if err != nil {
		out.unreadable = true
		return out
	}
	out.header = header
	return out
}

// failPull turns the error of a pull into one for people. The Engine passes on what
// registries say, in words that differ by version, and mostly without a code.
func (r *Runtime) failPull(ctx context.Context, image reference.Named, used login, err error) error {
	name := reference.FamiliarString(image)
	text := strings.ToLower(withoutNames(words(err), image))
	says := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	known := &control.Error{Err: errors.New(words(err))}
	switch {
	case ctx.Err() != nil, client.IsErrConnectionFailed(err), errors.Is(err, errStreamEnded), says("no space left on device"):
		return r.fail(ctx, "pull image "+name, err)
	case says("toomanyrequests", "too many requests", "rate limit"):
		known.Code = api.CodeUnavailable
		known.Message = fmt.Sprintf("registry %s refuses more pulls for now (%s)", used.registry, name)
		known.Hint = fmt.Sprintf("wait, or log in for a higher limit: `docker login %s`", used.registry)
	case cerrdefs.IsUnauthorized(err), cerrdefs.IsPermissionDenied(err),
		says("unauthorized", "no basic auth credentials", "authentication required", "access denied", "access to the resource is denied",
			"authorization failed", "incorrect username or password", "403 forbidden", "denied:"):
		known.Code = api.CodeForbidden
		known.Message, known.Hint = denied(name, used)
	case says("no matching manifest"):
		known.Code = api.CodeInvalid
		known.Message = fmt.Sprintf("image %s is not built for this machine's kind of processor", name)
		known.Hint = "build it for this platform too, for example with `docker buildx build --platform`"
	case says("dial tcp", "no such host", "connection refused", "connection reset", "timeout", "tls:", "x509", "tls handshake",
		"server gave http response", "deadline exceeded", "eof", "network is unreachable"):
		known.Code = api.CodeUnavailable
		known.Message = fmt.Sprintf("registry %s cannot be reached for image %s: %s", used.registry, name, words(err))
		known.Hint = "check the registry's name and the network of the Docker Engine"
	case cerrdefs.IsNotFound(err), says("manifest unknown", "name unknown", "not found"):
		known.Code = api.CodeNotFound
		known.Message = fmt.Sprintf("image %s does not exist in registry %s", name, used.registry)
		known.Hint = "check its name and tag, and that it was pushed"
	default:
		return r.fail(ctx, "pull image "+name, err)
	}
	if known.Code == api.CodeNotFound || known.Code == api.CodeForbidden {
		known.Message += r.nearTags(ctx, image, used)
	}
	return known
}

// withoutNames takes out of text what people named: addresses, and the image in each
// of its forms. Port 40101 and the repository "denied" say nothing about the failure.
func withoutNames(text string, image reference.Named) string {
	text = anyURL.ReplaceAllString(text, "")
	for _, name := range []string{image.String(), image.Name(), reference.FamiliarString(image), reference.FamiliarName(image), reference.Domain(image)} {
		text = strings.ReplaceAll(text, name, "")
	}
	return text
}

var anyURL = regexp.MustCompile(`https?://[^\s"]+`)

// denied says why a registry did not let us in, by what it was shown.
func denied(name string, used login) (message, hint string) {
	command := "`docker login " + used.registry + "`"
	if used.registry == "docker.io" {
		command = "`docker login`"
	}
	switch {
	case used.unreadable:
		return fmt.Sprintf("registry %s wants credentials for image %s, and those in %s cannot be read", used.registry, name, configDir()),
			"log in anew as the user that runs the server: " + command
	case used.header == "":
		return fmt.Sprintf("image %s does not exist, or registry %s wants credentials and there are none", name, used.registry),
			"check its name; log in as the user that runs the server: " + command
	}
	return fmt.Sprintf("registry %s refuses image %s: the credentials in Docker's configuration are wrong, or may not read it", used.registry, name),
		"log in anew as the user that runs the server: " + command
}
