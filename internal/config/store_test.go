package config

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStoreLocation(t *testing.T) {
	dir := t.TempDir()
	tests := map[string]struct{ store, want string }{
		"none":             {"", filepath.Join("data", "layover.db")},
		"a folder":         {"../keep", filepath.Join(filepath.Dir(dir), "keep", "layover.db")},
		"a file":           {"keep/shop.db", filepath.Join(dir, "keep", "shop.db")},
		"an absolute path": {"/srv/layover", "/srv/layover/layover.db"},
		"PostgreSQL":       {"postgres://ana@db/shop", "postgres://ana@db/shop"},
		"its other name":   {"postgresql:///shop", "postgresql:///shop"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := "environment: dev\n"
			if test.store != "" {
				text += "store: " + test.store
			}
			file, err := Parse(filepath.Join(dir, FileName), []byte(text))
			require.NoError(t, err)
			require.Equal(t, test.want, file.StoreLocation("data"))
		})
	}
}

// Whatever is wrong with the setting, nothing that is said about it has the password.
func TestStore_ProblemsHaveNoPassword(t *testing.T) {
	tests := map[string]struct{ line, says string }{
		"another database": {"store: mysql://ana:s3cret@db/shop", "a store cannot be at such a URL"},
		"another spelling": {"store: POSTGRES://ana:s3cret@db/shop", "write postgres:// in front"},
		"not a text":       {"store: [postgres://ana:s3cret@db/shop]", "store"},
		"not YAML":         {"store: postgres://ana:s3cret@db/shop: x", "not valid YAML"},
		"another key":      {"stor: postgres://ana:s3cret@db/shop", "stor"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(FileName, []byte(test.line))
			require.ErrorContains(t, err, test.says)
			require.ErrorContains(t, err, FileName+":1:")
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestHasPassword(t *testing.T) {
	for text, want := range map[string]bool{
		"postgres://ana:s3cret@db/shop":   true,
		"postgres://ana:s3/cr@et@db/shop": true,
		"postgres://db/shop?password=x":   true,
		"postgres://ana@db:5432/shop":     false,
		"postgres:///shop?host=/run":      false,
		"folder/with:colon@sign":          false,
	} {
		require.Equal(t, want, HasPassword(text), text)
	}
}
