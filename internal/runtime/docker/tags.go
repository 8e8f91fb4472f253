package docker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/layover-dev/layover/internal/near"
)

// What a failed pull may cost on top: it is the way to a sentence, and never delays it for long.
const (
	tagsTimeout = 3 * time.Second
	tagsBytes   = 1 << 20 // of one page of tags
	tagsPages   = 10
	tagsNamed   = 5
)

var errEnoughTags = errors.New("enough tags were read")

// nearTags says which tags there are near the one of image, in its registry and on the Engine's
// machine; "" where none are known. An error only leaves them out.
func (r *Runtime) nearTags(ctx context.Context, image reference.Named, used login) string {
	tagged, ok := image.(reference.Tagged)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, tagsTimeout)
	defer cancel()
	words := ""
	if tags := near.Names(tagged.Tag(), r.registryTags(ctx, image, used), tagsNamed); len(tags) > 0 {
		words = "; near it the registry has " + strings.Join(tags, ", ")
	}
	return words + r.besides(ctx, image)
}

// registryTags returns the tags of the repository of image, as far as the registry tells.
func (r *Runtime) registryTags(ctx context.Context, image reference.Named, used login) []string {
	repository, err := remote.NewRepository(reference.Domain(image) + "/" + reference.Path(image))
	if err != nil {
		return nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	defer transport.CloseIdleConnections()
	repository.Client = &auth.Client{
		Client:     &http.Client{Transport: transport},
		Credential: auth.StaticCredential(repository.Reference.Host(), used.credential),
	}
	repository.PlainHTTP = isLoopback(reference.Domain(image))
	repository.MaxMetadataBytes = tagsBytes
	var all []string
	pages := 0
	err = repository.Tags(ctx, "", func(tags []string) error {
		all = append(all, tags...)
		if pages++; pages == tagsPages {
			return errEnoughTags
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnoughTags) {
		// The error may quote what the registry was sent.
		r.log.DebugContext(ctx, "registry does not tell its tags", "registry", used.registry)
	}
	return all
}

// isLoopback says whether a registry is on this machine, where the Engine too speaks HTTP without TLS.
func isLoopback(domain string) bool {
	host, _, err := net.SplitHostPort(domain)
	if err != nil {
		host = domain
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// localTags returns the names of the images of the same repository that the Engine has.
func (r *Runtime) localTags(ctx context.Context, image reference.Named) []string {
	name := reference.FamiliarName(image)
	found, err := r.engine.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("reference", name)})
	if err != nil {
		return nil
	}
	var all []string
	for _, one := range found.Items {
		all = append(all, one.RepoTags...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// besides adds to a sentence which images of the same repository the Engine has; "" where none.
func (r *Runtime) besides(ctx context.Context, image reference.Named) string {
	local := r.localTags(ctx, image)
	if len(local) == 0 {
		return ""
	}
	return "; on this machine there is " + strings.Join(local[:min(len(local), tagsNamed)], ", ")
}
