package control_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
)

// newQuotaBench is newBench with quotas.
func newQuotaBench(t *testing.T, q control.Quotas) *bench {
	t.Helper()
	t.Parallel()
	b := &bench{t: t, dir: t.TempDir(), grace: time.Millisecond, quotas: q}
	b.open()
	require.NoError(t, b.PutService(t.Context(), cart()))
	return b
}

// long is a deployment that waits for an address where nothing listens.
func long(owner string) api.Deployment {
	d := adopted(owner)
	d.Timeout = api.Duration(time.Hour)
	return d
}

func refused(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, api.CodeQuota, control.CodeOf(err), "%v", err)
}

func refusal(t *testing.T, err error) *control.Error {
	t.Helper()
	e, ok := errors.AsType[*control.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, api.CodeQuota, e.Code)
	return e
}

func TestQuotaOfAnOwner(t *testing.T) {
	b := newQuotaBench(t, control.Quotas{RunningPerOwner: 2})
	deploy := func(version, owner string) error {
		_, err := b.Deploy(t.Context(), key(version), long(owner))
		return err
	}
	require.NoError(t, deploy("a", "ana"))
	require.NoError(t, deploy("b", "Ana"))
	require.NoError(t, deploy("a", "ana"), "it counts once")
	require.NoError(t, deploy("c", "bob"), "others have room")
	require.NoError(t, deploy("d", ""), "nobody has no quota")

	e := refusal(t, deploy("x", "ANA"))
	require.Equal(t, "there is no room for cart@x: ANA has 2 versions that run, and may have 2", e.Message)
	require.Equal(t, []string{
		"cart@b of Ana, deployed within the last day, 0 requests",
		"cart@a of ana, deployed within the last day, 0 requests",
	}, e.Details)
	require.Equal(t, "stop one of yours: layover stop cart@b; or whoever runs the environment raises quotas.running_per_owner", e.Hint)
	_, err := b.Version(t.Context(), key("x"))
	require.Error(t, err, "nothing is recorded")
	refused(t, deploy("c", "ana")) // taken over, it would be hers

	require.NoError(t, deploy("main", "ana"), "a default version is never refused, and counts")
	_, err = b.Stop(t.Context(), key("main"), control.By{Actor: "ana"})
	require.NoError(t, err)
	_, err = b.Stop(t.Context(), key("a"), control.By{Actor: "ana"})
	require.NoError(t, err)
	require.NoError(t, deploy("x", "ana"))
	_, err = b.Start(t.Context(), key("a"), control.By{Actor: "bob"})
	refused(t, err) // it is still hers

	// The next server counts the same; what is removed, or did not come up, counts no more.
	b.end()
	b.open()
	refused(t, deploy("y", "ana"))
	_, err = b.Remove(t.Context(), key("x"), control.By{Actor: "ana"})
	require.NoError(t, err)
	_, err = b.Deploy(t.Context(), key("bad"), adopted("ana"))
	require.NoError(t, err)
	b.wait("bad", "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
	require.NoError(t, deploy("y", "ana"))
	refused(t, deploy("z", "ana"))
}

func TestQuotaOfTheEnvironment(t *testing.T) {
	b := newQuotaBench(t, control.Quotas{Running: 2})
	_, err := b.Deploy(t.Context(), key("a"), long("ana"))
	require.NoError(t, err)
	_, err = b.Deploy(t.Context(), key("b"), long("bob"))
	require.NoError(t, err)
	_, err = b.Deploy(t.Context(), key("a"), long("bob"))
	require.NoError(t, err, "it only changes hands")
	_, err = b.Deploy(t.Context(), key("x"), long("eve"))
	e := refusal(t, err)
	require.Equal(t, "there is no room for cart@x: 2 versions run, and 2 may", e.Message)
	require.Len(t, e.Details, 2, "she has none: everybody's")
	require.Contains(t, e.Hint, "ask an owner to stop one: layover stop cart@")
	_, err = b.Deploy(t.Context(), key("x"), long("bob"))
	require.Contains(t, refusal(t, err).Hint, "stop one of yours")

	// What the file declares is never refused.
	require.NoError(t, b.Apply(t.Context(), nil, nil, []control.Wanted{{Key: key("file"), Deployment: long("")}}))
	_, err = b.Deploy(t.Context(), key("x"), long("eve"))
	require.Contains(t, refusal(t, err).Message, "3 versions run, and 2 may")
}

// The oldest come first; of one day, the least used.
func TestQuotaListsWhatCouldGo(t *testing.T) {
	t.Parallel()
	db, err := store.OpenSQLite(t.Context(), t.TempDir()+"/layover.db")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s := cart()
	s.Hosts = []string{"cart.localhost"}
	require.NoError(t, db.PutService(t.Context(), s))
	for name, age := range map[string]time.Duration{"young": time.Minute, "main": 99 * 24 * time.Hour, "old": 50 * time.Hour, "older": 49 * time.Hour, "oldest": 240 * time.Hour} {
		require.NoError(t, db.UpdateVersion(t.Context(), key(name), func(*control.VersionRecord) (*control.VersionRecord, error) {
			return &control.VersionRecord{Key: key(name), Owner: "ana", Desired: control.DesiredRunning, Generations: []control.Generation{
				{Number: 1, State: control.GenerationServing, Run: s.Run, At: time.Now().Add(-age)},
			}}, nil
		}))
	}
	plane := &counting{requests: map[string]uint64{"cart@old": 5, "cart@older": 2, "cart@oldest": 1000}}
	c, err := control.New(t.Context(), control.Options{Store: db, DataPlane: plane, Quotas: control.Quotas{RunningPerOwner: 1}})
	require.NoError(t, err)
	_, err = c.Deploy(t.Context(), key("x"), long("ana"))
	require.Equal(t, []string{
		"cart@oldest of ana, deployed 10 days ago, 1000 requests",
		"cart@older of ana, deployed 2 days ago, 2 requests",
		"cart@old of ana, deployed 2 days ago, 5 requests",
		"cart@young of ana, deployed within the last day, 0 requests",
	}, refusal(t, err).Details)
}

// counting is a data plane that has answered requests.
type counting struct {
	dataPlane
	requests map[string]uint64
}

func (c *counting) Requests() map[string]uint64 { return c.requests }

// However many deploy at once, no more get in than there is room for.
func TestQuotaHoldsAgainstMany(t *testing.T) {
	b := newQuotaBench(t, control.Quotas{Running: 5, RunningPerOwner: 3})
	var in, out atomic.Int32
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			_, err := b.Deploy(t.Context(), key(fmt.Sprint("v", i)), long(fmt.Sprint("owner", i%2)))
			if err == nil {
				in.Add(1)
			} else if control.CodeOf(err) == api.CodeQuota {
				out.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 5, in.Load())
	require.EqualValues(t, 15, out.Load())
}

func TestQuotaOfAWake(t *testing.T) {
	b := newQuotaBench(t, control.Quotas{Running: 1})
	for _, version := range []string{"a", "b"} {
		b.up(version, nil)
		b.asleep(version)
	}
	errs := map[string]error{}
	var both sync.WaitGroup
	var mu sync.Mutex
	for _, version := range []string{"a", "b"} {
		both.Go(func() {
			_, err := b.Wake(t.Context(), key(version), control.By{})
			mu.Lock()
			defer mu.Unlock()
			errs[version] = err
		})
	}
	both.Wait()
	awake, crowded := "a", "b"
	if errs["a"] != nil {
		awake, crowded = "b", "a"
	}
	require.NoError(t, errs[awake])
	e := refusal(t, errs[crowded])
	want := "waiting for quota: there is no room for cart@" + crowded + ": 1 versions run, and 1 may"
	require.Equal(t, want, e.Message)
	require.Len(t, e.Details, 1)
	v, err := b.Version(t.Context(), key(crowded))
	require.NoError(t, err)
	require.Equal(t, api.StateAsleep, v.State)
	require.Contains(t, v.Reason, want+"; what could go: cart@"+awake)

	b.wait(awake, "to wake", isRunning)
	b.asleep(awake)
	_, err = b.Wake(t.Context(), key(crowded), control.By{})
	require.NoError(t, err, "there is room now")
	require.NotContains(t, b.wait(crowded, "to wake", isRunning).Reason, "quota")
}
