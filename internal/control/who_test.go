package control_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// adopted is a deployment that runs nothing here.
func adopted(owner string) api.Deployment {
	return api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:1"}, Owner: owner, Source: "cli", Timeout: 1}
}

func TestWhoAndWhyAreKept(t *testing.T) {
	b := newBench(t)
	d := adopted("ana")
	d.Note, d.Labels = "demo", map[string]string{"team": "payments", "tier": "gold"}
	d.Origin = api.Origin{Provider: "github-actions", Commit: "9f", Branch: "b", PullRequest: "7", Author: "eve", URL: "https://ci/7"}
	v, err := b.Deploy(t.Context(), key("x"), d)
	require.NoError(t, err)
	require.Equal(t, d.Origin, v.Origin)
	require.Equal(t, "demo", v.Note)
	require.Equal(t, d.Labels, v.Labels)

	// What the next deployment does not say stays, but for the change it was made from.
	again := adopted("")
	again.Labels = map[string]string{"tier": "", "new": "yes"}
	v, err = b.Deploy(t.Context(), key("x"), again)
	require.NoError(t, err)
	require.Equal(t, "ana", v.Owner)
	require.Equal(t, "demo", v.Note)
	require.Zero(t, v.Origin)
	require.Equal(t, map[string]string{"team": "payments", "new": "yes"}, v.Labels)

	b.end() // another server
	b.open()
	v, err = b.Version(t.Context(), key("x"))
	require.NoError(t, err)
	require.Equal(t, "demo", v.Note)
	require.Equal(t, map[string]string{"team": "payments", "new": "yes"}, v.Labels)
}

func TestLabelsAreBoundedInAll(t *testing.T) {
	b := newBench(t)
	d := adopted("ana")
	d.Labels = map[string]string{}
	for i := range api.MaxLabels {
		d.Labels[fmt.Sprint("l", i)] = "x"
	}
	_, err := b.Deploy(t.Context(), key("x"), d)
	require.NoError(t, err)
	d.Labels = map[string]string{"more": "x"}
	_, err = b.Deploy(t.Context(), key("x"), d)
	require.ErrorContains(t, err, "cart@x would have 17 labels, and may have 16")
	require.Equal(t, api.CodeInvalid, control.CodeOf(err))
	d.Labels["l0"] = ""
	_, err = b.Deploy(t.Context(), key("x"), d)
	require.NoError(t, err)
}

// What somebody does to another's version is told to the owner, and to nobody else.
func TestOwnersAreTold(t *testing.T) {
	b := newBench(t)
	overruled := func() []string {
		var out []string
		for _, e := range b.eventsOf("x") {
			if e.Type == api.EventVersionOverruled {
				out = append(out, e.Owner+": "+e.Message+", by "+e.Actor)
			}
		}
		return out
	}
	deploy := func(owner string) {
		_, err := b.Deploy(t.Context(), key("x"), adopted(owner))
		require.NoError(t, err)
	}
	deploy("ana")
	deploy("Ana")
	_, err := b.Stop(t.Context(), key("x"), control.By{Actor: "ana"})
	require.NoError(t, err)
	require.Empty(t, overruled(), "they are her own")

	deploy("bob")
	_, err = b.Restart(t.Context(), key("x"), control.By{Actor: "eve"})
	require.NoError(t, err)
	_, err = b.Stop(t.Context(), key("x"), control.By{Actor: "eve"})
	require.NoError(t, err)
	_, err = b.Remove(t.Context(), key("x"), control.By{Actor: ""})
	require.NoError(t, err)
	require.Equal(t, []string{
		"Ana: cart@x, which belongs to Ana, is deployed anew, by bob",
		"bob: cart@x, which belongs to bob, is restarted, by eve",
		"bob: cart@x, which belongs to bob, is stopped, by eve",
		"bob: cart@x, which belongs to bob, is removed, by ",
	}, overruled())

	b.until(func() bool { return b.hasEvent("x", api.EventVersionRemoved) }, func() string { return "it is not removed" })
	events := b.eventsOf("x")
	require.Equal(t, "bob", events[len(events)-1].Owner, "also where it is gone")
	require.False(t, slices.ContainsFunc(events, func(e api.Event) bool { return e.Owner == "" }))

	deploy("") // a new life, which is nobody's
	v, err := b.Version(t.Context(), key("x"))
	require.NoError(t, err)
	require.Empty(t, v.Owner)
}
