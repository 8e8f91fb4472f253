package testrun

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Publish stores a version of a suite. The commit of one that is there does not change, unless replace.
func (k *Keeper) Publish(ctx context.Context, s api.Suite, replace bool) (api.Suite, error) {
	if err := checkSuite(s.Name); err != nil {
		return s, err
	}
	if !gitRef.MatchString(s.Ref) || strings.Contains(s.Ref, "..") {
		return s, invalidf("name a tag or branch of Git, such as v3", "%q is no ref of Git", s.Ref)
	}
	if err := checkRepository(s.Repository); err != nil {
		return s, err
	}
	if clean := path.Clean(s.File); path.IsAbs(s.File) || clean == ".." || strings.HasPrefix(clean, "../") {
		return s, invalidf("it is named from the top of the repository", "%q is not in the repository", s.File)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	old, err := k.published(ctx, s.Name, s.Ref)
	switch {
	case errors.Is(err, control.ErrNotStored):
	case err != nil:
		return s, err
	case (old.Commit != s.Commit || old.Repository != s.Repository || old.File != s.File) && !replace:
		return s, &control.Error{
			Code: api.CodeConflict, Message: fmt.Sprintf("suite %s@%s is another one: commit %s of %s", s.Name, s.Ref, old.Commit, old.Repository),
			Hint: "publish it under another ref, or replace it (--replace)",
		}
	}
	s.Published, s.Touches = k.opts.Clock().UTC(), nil
	return s, k.opts.Store.PutSuite(ctx, s)
}

// gitRef is what a ref may look like (git-check-ref-format), as far as a program may get it as an argument.
var gitRef = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)

// checkRepository says what is wrong with where Git is to find a repository. Its other transports run programs.
func checkRepository(text string) error {
	u, err := url.Parse(text)
	switch {
	case strings.HasPrefix(text, "-"):
	case err == nil && (u.Scheme == "https" || u.Scheme == "ssh" || u.Scheme == "http" || u.Scheme == "file") && u.Path != "":
		if _, secret := u.User.Password(); secret {
			return invalidf("whoever runs the suite has credentials of his own", "the address of the repository has a password")
		}
		return nil
	case scpAddress.MatchString(text):
		return nil
	}
	return invalidf("such as https://git.example.com/tests.git or git@git.example.com:tests.git", "%q is not where Git finds a repository", text)
}

// scpAddress is user@host:path.
var scpAddress = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[A-Za-z0-9._~/-]+$`)

func (k *Keeper) published(ctx context.Context, name, ref string) (api.Suite, error) {
	all, err := k.opts.Store.Suites(ctx)
	if err != nil {
		return api.Suite{}, err
	}
	for _, s := range all {
		if s.Name == name && s.Ref == ref {
			return s, nil
		}
	}
	return api.Suite{}, control.ErrNotStored
}

// Unpublish deletes a version of a suite. Its runs and what they taught stay.
func (k *Keeper) Unpublish(ctx context.Context, name, ref string) error {
	err := k.opts.Store.DeleteSuite(ctx, name, ref)
	if errors.Is(err, control.ErrNotStored) {
		return noSuite(name, ref)
	}
	return err
}

func noSuite(name, ref string) error {
	return &control.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no suite %s@%s", name, ref), Hint: "layover suite ls lists them"}
}

// Suites returns the suites that are published, with what their runs reached. Where a service is given, only those
// that reached it, or say that they test it.
func (k *Keeper) Suites(ctx context.Context, service string) ([]api.Suite, error) {
	all, err := k.opts.Store.Suites(ctx)
	if err != nil {
		return nil, err
	}
	touches, err := k.opts.Store.Touches(ctx)
	if err != nil {
		return nil, err
	}
	out := []api.Suite{}
	for _, s := range all {
		s.Touches = touches[s.Name]
		if service == "" || touchesService(s, service) {
			out = append(out, s)
		}
	}
	return out, nil
}

func touchesService(s api.Suite, service string) bool {
	return slices.Contains(s.Services, service) || slices.ContainsFunc(s.Touches, func(t api.TouchedByTest) bool { return t.Service == service })
}

// Touches returns which services the runs of each suite reached, published or not.
func (k *Keeper) Touches(ctx context.Context) (map[string][]api.TouchedByTest, error) {
	return k.opts.Store.Touches(ctx)
}

// Rename gives what is known of a suite's tests another name: it moved to another repository.
func (k *Keeper) Rename(ctx context.Context, from, to string) error {
	if err := checkSuite(to); err != nil {
		return err
	}
	if from == to {
		return nil
	}
	err := k.opts.Store.RenameSuite(ctx, from, to)
	if errors.Is(err, control.ErrStored) {
		return &control.Error{Code: api.CodeConflict, Message: "something is known of tests of a suite " + to, Hint: "choose a name that no suite had"}
	}
	return err
}
