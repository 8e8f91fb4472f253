package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIdentityOutlivesARename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	first, err := readIdentity(path, "shop")
	require.NoError(t, err)
	require.Regexp(t, `^shop-[0-9a-f]{8}$`, first)
	again, err := readIdentity(path, "renamed")
	require.NoError(t, err)
	require.Equal(t, first, again, "its instances are found again")

	other, err := readIdentity(filepath.Join(t.TempDir(), "id"), "shop")
	require.NoError(t, err)
	require.NotEqual(t, first, other)
}

func TestIdentityOfACutShortFileIsMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	identity, err := readIdentity(path, "shop")
	require.NoError(t, err)
	require.Regexp(t, `^shop-[0-9a-f]{8}$`, identity)
}
