package near_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/near"
)

func TestNames(t *testing.T) {
	t.Parallel()
	tags := []string{"main", "v1.4.1", "feature-2981", "v1.4.0", "v1.4"}
	require.Equal(t, []string{"v1.4.0", "v1.4.1", "v1.4"}, near.Names("v1.4.2", tags, 5))
	require.Equal(t, []string{"v1.4.0"}, near.Names("v1.4.2", tags, 1))
	require.Equal(t, []string{"feature-2981"}, near.Names("feature-2918", tags, 5), "two swapped")
	require.Equal(t, []string{"feature-2981"}, near.Names("feature", tags, 5), "begins like it")
	require.Empty(t, near.Names("nightly", tags, 5))
	require.NotContains(t, near.Names("main", tags, 5), "main", "what is not there is not the same")
}
