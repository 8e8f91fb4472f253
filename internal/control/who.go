package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	"github.com/layover-dev/layover/api"
)

// Who says what a version is for, and which change it was made from.
type Who struct {
	Origin api.Origin        `json:"origin,omitzero"` // of the newest deployment
	Note   string            `json:"note,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// takeWho notes whose the version is from a deployment on, and why. What the
// deployment does not say stays, but for the change that it was made from.
func (r *VersionRecord) takeWho(d api.Deployment) error {
	if r.Desired == DesiredRemoved { // a new life
		r.Owner, r.Source, r.Who = "", "", Who{}
	}
	labels := map[string]string{}
	maps.Copy(labels, r.Labels)
	maps.Copy(labels, d.Labels)
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	if len(labels) > api.MaxLabels {
		return invalidf("take one away by giving it no value: --label NAME=", "%s would have %d labels, and may have %d", r.Key, len(labels), api.MaxLabels)
	}
	r.Labels = nil
	if len(labels) > 0 {
		r.Labels = labels
	}
	r.Owner, r.Source = cmp.Or(d.Owner, r.Owner), cmp.Or(d.Source, r.Source)
	r.Origin, r.Note = d.Origin, cmp.Or(d.Note, r.Note)
	return nil
}

// noteOverruled tells the owner of a version that somebody else did something to it.
// before is the version as it was, and may be nil.
func (c *Control) noteOverruled(ctx context.Context, before *VersionRecord, actor, did string) {
	if before == nil || before.Owner == "" || before.Desired == DesiredRemoved || api.SameOwner(before.Owner, actor) {
		return
	}
	c.note(ctx, api.Event{
		Type: api.EventVersionOverruled, Service: before.Service, Version: before.Version, Owner: before.Owner, Actor: actor,
		Message: fmt.Sprintf("%s, which belongs to %s, is %s", before.Key, before.Owner, did),
	})
}
