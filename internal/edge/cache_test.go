package edge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// shopSpec is an environment with a bit of everything.
func shopSpec(revision uint64, versions ...string) route.Spec {
	spec := route.Spec{
		Revision: revision, Environment: "shop", Domain: "shop.test", BaggageKey: "x_route", Hold: 5e9,
		Services: []route.Service{
			{Name: "cart", Hosts: []string{"cart.shop.test"}, Protocol: route.H2C},
			{Name: "empty", Hosts: []string{"*.empty.test"}, Default: "trunk"},
		},
		Routes: []route.NamedRoute{{Name: "team-a", Picks: map[string]string{"cart": "main"}}},
	}
	for _, name := range append([]string{"main"}, versions...) {
		spec.Services[0].Versions = append(spec.Services[0].Versions, route.Version{
			Name: name, State: route.Ready, Reason: "a\n<b>",
			Instances: []route.Instance{{ID: "cart-" + name + "-1", Address: "127.0.0.1:4711", TLS: true, ServerName: "x"}},
		})
	}
	return spec
}

func compiled(t testing.TB, spec route.Spec) *route.Table {
	t.Helper()
	table, err := route.Compile(spec)
	require.NoError(t, err)
	return table
}

func written(t testing.TB, spec route.Spec) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	require.NoError(t, WriteCache(path, &spec))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// memory is a file without a disk.
type memory struct {
	data []byte
	at   int
}

func (m *memory) Write(p []byte) (int, error) {
	m.data = append(m.data[:m.at], append(bytes.Clone(p), m.data[min(m.at+len(p), len(m.data)):]...)...)
	m.at += len(p)
	return len(p), nil
}

func (m *memory) Seek(int64, int) (int64, error) { m.at = 0; return 0, nil }

func inMemory(t testing.TB, spec route.Spec) []byte {
	t.Helper()
	var m memory
	require.NoError(t, writeCache(&m, &spec))
	return m.data
}

func TestCacheKeepsEverything(t *testing.T) {
	spec := *compiled(t, shopSpec(42, "pr-1", "pr-2")).Spec()
	path := filepath.Join(t.TempDir(), "table")
	require.NoError(t, WriteCache(path, &spec))
	got, err := ReadCache(path)
	require.NoError(t, err)
	require.Equal(t, spec, *compiled(t, *got).Spec())

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestCacheIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "table")
	for revision := range uint64(3) {
		spec := shopSpec(revision + 1)
		require.NoError(t, WriteCache(path, &spec))
	}
	got, err := ReadCache(path)
	require.NoError(t, err)
	require.EqualValues(t, 3, got.Revision)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left in the folder")
}

func TestCacheThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "table")
	spec := shopSpec(1)
	err := WriteCache(path, &spec)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, path)
}

func TestDamagedCacheIsRefused(t *testing.T) {
	good := written(t, shopSpec(42, "pr-1"))
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "no header"},
		"another file":    {[]byte("services:\n  cart: {}\n"), "not the file of a table"},
		"newer format":    {bytes.Replace(good, []byte("layover-table 1"), []byte("layover-table 2"), 1), "format that this release does not know"},
		"header cut":      {good[:headerBytes-5], "its header is not complete"},
		"header garbled":  {bytes.Replace(good, []byte("bytes="), []byte("bites="), 1), "header cannot be read"},
		"body cut":        {good[:len(good)-7], "cut short"},
		"body cut early":  {good[:headerBytes+10], "cut short"},
		"body missing":    {good[:headerBytes], "cut short"},
		"one bit":         {bytes.Replace(good, []byte("cart-main-1"), []byte("cart-main-0"), 1), "checksum"},
		"no JSON":         {bytes.Replace(good, []byte(`{"service"`), []byte(`{{service"`), 1), "damaged"},
		"more behind it":  {append(bytes.Clone(good), "{}\n"...), "longer than"},
		"other revision":  {bytes.Replace(good, fmt.Appendf(nil, "revision=%020d", 42), fmt.Appendf(nil, "revision=%020d", 43), 1), "revision 43"},
		"too large":       {bytes.Replace(good, good[strings.Index(string(good), "bytes="):][:26], []byte("bytes=00099999999999999999"), 1), "the limit is"},
		"negative length": {bytes.Replace(good, good[strings.Index(string(good), "bytes="):][:26], []byte("bytes=-0000000000000000001"), 1), "header says -1 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			require.NoError(t, os.WriteFile(path, test.data, 0o600))
			_, err := ReadCache(path)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, path)
		})
	}
}

// FuzzReadCache holds that a file is read as it was written, or refused.
func FuzzReadCache(f *testing.F) {
	f.Add(written(f, shopSpec(42, "pr-1")))
	f.Add(written(f, route.Spec{}))
	f.Add([]byte("layover-table 1 revision=00000000000000000001 bytes=00000000000000000003 sha256=x\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := readCache(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := readCache(bytes.NewReader(inMemory(t, *spec)))
		require.NoError(t, err)
		require.Equal(t, spec, again)
	})
}

// FuzzReadLines is FuzzReadCache behind the checksum, which random data never passes.
func FuzzReadLines(f *testing.F) {
	good := written(f, shopSpec(42, "pr-1"))
	f.Add(good[headerBytes:])
	f.Add([]byte(`{"environment":{}}` + "\n" + `{"version":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := readLines(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := readCache(bytes.NewReader(inMemory(t, *spec)))
		require.NoError(t, err)
		require.Equal(t, spec.Revision, again.Revision)
		require.Len(t, again.Services, len(spec.Services))
	})
}

func BenchmarkCache(b *testing.B) {
	spec := shopSpec(1)
	for i := range 100_000 {
		spec.Services[0].Versions = append(spec.Services[0].Versions, route.Version{
			Name: fmt.Sprint("pr-", i), State: route.Ready, Instances: []route.Instance{{ID: fmt.Sprint("cart-", i), Address: "127.0.0.1:4711"}},
		})
	}
	path := filepath.Join(b.TempDir(), "table")
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, WriteCache(path, &spec))
		}
	})
	b.Run("read", func(b *testing.B) {
		require.NoError(b, WriteCache(path, &spec))
		for b.Loop() {
			_, err := ReadCache(path)
			require.NoError(b, err)
		}
	})
}
