package route_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layover-dev/layover/internal/route"
)

func TestPosition(t *testing.T) {
	for text, want := range map[string]route.Position{
		"0":                        {},
		"17":                       {Revision: 17},
		"A7.17":                    {Epoch: "A7", Revision: 17},
		"a.b.18446744073709551615": {Epoch: "a.b", Revision: 1<<64 - 1},
	} {
		got, err := route.ParsePosition(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{"", ".", "a", "a.", "a.b", "-1", "a.-1", "a.1 ", "18446744073709551616", "+1"} {
		_, err := route.ParsePosition(text)
		require.ErrorContains(t, err, "not the position of a table", "%q", text)
	}
}

func TestPosition_IsReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := route.Position{Epoch: rapid.String().Draw(t, "epoch"), Revision: rapid.Uint64().Draw(t, "revision")}
		got, err := route.ParsePosition(want.String())
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestTable_Position(t *testing.T) {
	table := compiled(t, route.Spec{Epoch: "e", Revision: 7})
	require.Equal(t, route.Position{Epoch: "e", Revision: 7}, table.Position())
	next, err := table.Apply(route.Change{Epoch: "e", Base: 7, Revision: 9})
	require.NoError(t, err)
	require.Equal(t, route.Position{Epoch: "e", Revision: 9}, next.Position())
	require.Equal(t, "e", next.Spec().Epoch)
}
