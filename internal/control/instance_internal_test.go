package control

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// TestInstance_TakesOverWhatIsForPeople has an instance whose image and base change while no route depends on that.
func TestInstance_TakesOverWhatIsForPeople(t *testing.T) {
	s := Status{ID: "cart--main--1", Running: true, StartedAt: time.Now(), Addresses: []Address{{HostPort: "127.0.0.1:1"}}}
	i := newInstance("ecs", s)
	s.Images, s.Base = []api.Image{{Digest: "sha256:1", Copies: 1}}, &api.Base{Copied: "cart:1"}
	require.False(t, i.updateLocked(s), "the table stays as it is")
	require.Equal(t, s.Images, viewInstance(i).Images)
	require.Equal(t, s.Base, viewInstance(i).Base)
	s.Running, s.Images, s.Base = false, nil, nil
	require.True(t, i.updateLocked(s))
	require.Nil(t, viewInstance(i).Images)
	require.Nil(t, viewInstance(i).Base)
}

func TestCommitOf(t *testing.T) {
	require.Empty(t, CommitOf(nil))
	require.Equal(t, "b", CommitOf(map[string]string{"org.label-schema.vcs-ref": "a", "layover.commit": "b"}))
	require.Equal(t, "c", CommitOf(map[string]string{"org.opencontainers.image.revision": "c", "layover.commit": "b"}))
}
