package edge

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPaceRestsBetweenSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hurry atomic.Int32
		p := &pace{hurry: &hurry}
		const steps, each = 1000, 20 * time.Microsecond
		work := func() time.Duration {
			began := time.Now()
			for range steps {
				p.step()
				<-time.After(each)
			}
			return time.Since(began)
		}
		took := work()
		require.Equal(t, steps*each+p.rested, took)
		require.InDelta(t, steps*each/(320*time.Microsecond), p.rested/restSlice, 2, "one rest for each slice of 16 steps")
		hurry.Add(1)
		require.Equal(t, steps*each, work(), "somebody waits")
		p = nil
		require.Equal(t, steps*each, work())
	})
}

// A table is written at a pace while requests may come, and at once at the end.
func TestKeeperTakesRests(t *testing.T) {
	var hurry atomic.Int32
	p := &pace{hurry: &hurry, began: time.Now().Add(-time.Hour)}
	file := &cacheFile{path: t.TempDir() + "/table"}
	require.NoError(t, file.write(compiled(t, shopSpec(7)), p))
	require.GreaterOrEqual(t, p.rested, restSlice)
	list, _ := changes(t, compiled(t, shopSpec(7)), 1)
	p = &pace{hurry: &hurry, began: time.Now().Add(-time.Hour)}
	require.NoError(t, file.add(list, p))
	require.GreaterOrEqual(t, p.rested, restSlice)
}
