package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// lookBack is how many events WaitDeploy looks back at first for the beginning
// of the deployment; it goes further back where that is not enough.
const lookBack = 256

// DeployError says that a deployment ended without success.
type DeployError struct {
	Event Event // the one that ended it, for example deploy.failed or deploy.superseded
}

// Error returns what the event says.
func (e *DeployError) Error() string {
	return fmt.Sprintf("%s@%s: %s", e.Event.Service, e.Event.Version, e.Event.Message)
}

// Superseded says that a later deployment, stop or removal of the same version won.
func (e *DeployError) Superseded() bool { return e.Event.Type != EventDeployFailed }

// WaitDeploy follows a deployment to its end and returns the version as it is
// then. onEvent, where it is not nil, is called for each event of the
// deployment in its order, also for those before the call. Where the
// deployment failed, or a later one won, the error is a [*DeployError].
//
// It survives a restart of the server; see [WithPatience].
func (c *Client) WaitDeploy(ctx context.Context, service, version string, generation int64, onEvent func(Event)) (Version, error) {
	after, err := c.beforeDeploy(ctx, service, version, generation)
	if err != nil {
		return Version{}, err
	}
	for e, err := range c.FollowEvents(ctx, EventFilter{After: after, Service: service, Version: version}) {
		if err != nil {
			return Version{}, err
		}
		if e.Generation == generation && onEvent != nil {
			onEvent(e)
		}
		if !endsDeploy(e, generation) {
			continue
		}
		v, err := c.versionOrGone(ctx, service, version)
		switch {
		case err != nil:
			return v, err
		case e.Generation != 0 && e.Type == EventDeployDone && e.Generation == generation:
			return v, nil
		case e.Generation == 0 && v.Generation == generation && v.State != StateStopped:
			continue // the end of an earlier stop, which this deployment overtook
		}
		return v, &DeployError{Event: e}
	}
	return Version{}, ctx.Err()
}

// beforeDeploy returns the ID of the event before the one that begins the
// deployment. It looks from the newest event backwards, because a version that was
// removed and deployed anew counts its generations from one again.
func (c *Client) beforeDeploy(ctx context.Context, service, version string, generation int64) (int64, error) {
	last, err := c.LastEvent(ctx)
	if err != nil {
		return 0, err
	}
	for window := int64(lookBack); ; window *= 4 {
		after := max(last-window, 0)
		began, err := c.lastStarted(ctx, EventFilter{After: after, Limit: maxPage, Service: service, Version: version}, generation)
		if err != nil {
			return 0, err
		}
		if began > 0 {
			return began - 1, nil
		}
		if after == 0 {
			return last, nil // the log does not go back so far
		}
	}
}

// lastStarted returns the ID of the last event that began the generation, 0 where there is none.
func (c *Client) lastStarted(ctx context.Context, f EventFilter, generation int64) (int64, error) {
	var began int64
	for {
		page, err := c.Events(ctx, f)
		if err != nil {
			return 0, err
		}
		for _, e := range page.Items {
			if e.Type == EventDeployStarted && e.Generation == generation {
				began = e.ID
			}
			f.After = e.ID
		}
		if len(page.Items) < f.Limit {
			return began, nil
		}
	}
}

// endsDeploy says whether e may end the deployment of that generation. Events of
// earlier generations, which may still come, do not.
func endsDeploy(e Event, generation int64) bool {
	if e.Type == EventVersionStopped || e.Type == EventVersionRemoved {
		return true
	}
	return e.Generation >= generation && e.Type.Ends()
}

// versionOrGone returns a version; one that is not there any more is a stopped one.
func (c *Client) versionOrGone(ctx context.Context, service, version string) (Version, error) {
	v, err := c.Version(ctx, service, version)
	if p, ok := errors.AsType[*Problem](err); ok && p.Status == http.StatusNotFound {
		return Version{Service: service, Name: version, State: StateStopped}, nil
	}
	return v, err
}
