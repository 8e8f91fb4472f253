package traefik_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/gateway/traefik"
)

func TestAskers(t *testing.T) {
	var k traefik.Askers
	at := func(seconds float64) time.Time {
		return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
	}
	require.Empty(t, k.All(at(0)))
	k.Asked("10.0.0.1", at(0), true)
	require.Equal(t, []traefik.Asker{{From: "10.0.0.1", Last: at(0)}}, k.All(at(1)))
	require.False(t, k.All(at(180))[0].Late(at(180)), "nobody knows its interval")
	require.True(t, k.All(at(190))[0].Late(at(190)))

	for _, s := range []float64{5, 10, 15, 20} {
		k.Asked("10.0.0.1", at(s), true)
	}
	a := k.All(at(20))[0]
	require.Equal(t, 5*time.Second, a.Every)
	require.False(t, a.Late(at(40)))
	require.True(t, a.Late(at(40.1)))

	// Two behind one address, which ask every half a minute at almost the same time.
	for i := range 6 {
		k.Asked("10.0.0.2", at(float64(100+30*i)), true)
		k.Asked("10.0.0.2", at(float64(100+30*i)+0.1), true)
	}
	require.InDelta(t, 29.9, k.All(at(260))[0].Every.Seconds(), 0.001)

	// Traefik asks later and later while it gets nothing.
	k.Asked("10.0.0.1", at(270), false)
	k.Asked("10.0.0.1", at(275), false)
	require.True(t, k.All(at(300))[0].Failed)
	require.False(t, k.All(at(330))[0].Late(at(330)))

	require.Len(t, k.All(at(300)), 2)
	require.Len(t, k.All(at(300+3601)), 1, "one that left is forgotten, but not the last")
	for i := range 300 {
		k.Asked(fmt.Sprint(i), at(float64(4000+i)), true)
	}
	require.Len(t, k.All(at(4300)), 100)
	require.Equal(t, "299", k.All(at(4300))[0].From)
}
