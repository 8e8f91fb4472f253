package edge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// writeFile writes the table of spec to path as a whole, and returns the file.
func writeFile(t testing.TB, path string, spec route.Spec) *cacheFile {
	t.Helper()
	file := &cacheFile{path: path}
	require.NoError(t, file.write(compiled(t, spec), nil))
	return file
}

// readFile returns what a file has, all of it.
func readFile(t testing.TB, path string) *route.Table {
	t.Helper()
	file := &cacheFile{path: path}
	table, lost, err := file.read()
	require.NoError(t, err)
	require.NoError(t, lost)
	return table
}

func written(t testing.TB, spec route.Spec) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	writeFile(t, path, spec)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// changes are so many of the table of spec, one after another, and the tables that they make.
func changes(t testing.TB, table *route.Table, n int) (list []route.Change, tables []*route.Table) {
	t.Helper()
	for range n {
		revision := table.Revision()
		version := ready(fmt.Sprint("new-", revision), fmt.Sprint("i-", revision))
		change := route.Change{
			Epoch: table.Position().Epoch, Base: revision, Revision: revision + 1,
			Versions: []route.VersionChange{{Service: "cart", Name: version.Name, Version: &version}},
		}
		next, err := table.Apply(change)
		require.NoError(t, err)
		table, list, tables = next, append(list, change), append(tables, next)
	}
	return list, tables
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

func inMemory(t testing.TB, table *route.Table) []byte {
	t.Helper()
	var m memory
	size, err := writeTable(&m, table, nil)
	require.NoError(t, err)
	require.EqualValues(t, len(m.data), size)
	return m.data
}

func TestCacheKeepsEverything(t *testing.T) {
	spec := shopSpec(42, "pr-1", "pr-2")
	spec.Epoch = "e"
	path := filepath.Join(t.TempDir(), "table")
	file := writeFile(t, path, spec)
	require.Equal(t, compiled(t, spec).Spec(), readFile(t, path).Spec())

	list, tables := changes(t, compiled(t, spec), 5)
	list[2].Services = []route.ServiceChange{{Name: "empty"}}
	list[2].Routes = []route.RouteChange{{Name: "team-b", Route: &route.NamedRoute{Name: "team-b", Picks: map[string]string{"cart": "new-43"}}}}
	require.NoError(t, file.add(list[:2], nil))
	require.Equal(t, tables[1].Spec(), readFile(t, path).Spec())
	require.NoError(t, file.add(list[2:], nil))
	want := tables[1]
	for _, change := range list[2:] {
		var err error
		want, err = want.Apply(change)
		require.NoError(t, err)
	}
	require.Equal(t, want.Spec(), readFile(t, path).Spec())

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// Who reads a file goes on with it as who wrote it.
func TestCacheIsAddedToAfterItWasRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	writeFile(t, path, shopSpec(7))
	list, tables := changes(t, compiled(t, shopSpec(7)), 3)
	for i := range list {
		file := &cacheFile{path: path}
		_, _, err := file.read()
		require.NoError(t, err)
		require.NoError(t, file.add(list[i:i+1], nil))
	}
	require.Equal(t, tables[2].Spec(), readFile(t, path).Spec())
}

func TestCacheIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "table")
	for revision := range uint64(3) {
		writeFile(t, path, shopSpec(revision+1))
	}
	require.EqualValues(t, 3, readFile(t, path).Revision())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left in the folder")
}

func TestCacheThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "table")
	err := (&cacheFile{path: path}).write(compiled(t, shopSpec(1)), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, path)
}

// Changes are added only to the file that they lead on from.
func TestCacheThatCannotBeAddedTo(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, file *cacheFile, list []route.Change) []route.Change{
		"no changes": func(*testing.T, *cacheFile, []route.Change) []route.Change { return nil },
		"a gap":      func(_ *testing.T, _ *cacheFile, list []route.Change) []route.Change { return list[1:] },
		"another epoch": func(_ *testing.T, file *cacheFile, list []route.Change) []route.Change {
			file.at.Epoch = "x"
			return list
		},
		"never written": func(_ *testing.T, file *cacheFile, list []route.Change) []route.Change { file.is = nil; return list },
		"one that is new": func(t *testing.T, file *cacheFile, list []route.Change) []route.Change {
			writeFile(t, file.path, shopSpec(7))
			return list
		},
		"one that grew": func(t *testing.T, file *cacheFile, list []route.Change) []route.Change {
			require.NoError(t, appendTo(file.path, "x"))
			return list
		},
		"one that is gone": func(t *testing.T, file *cacheFile, list []route.Change) []route.Change {
			require.NoError(t, os.Remove(file.path))
			return list
		},
		"much": func(t *testing.T, _ *cacheFile, list []route.Change) []route.Change {
			list[0].Versions[0].Version.Reason = strings.Repeat("x", addedBytes)
			return list
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(t.TempDir(), "table"), shopSpec(7))
			list, _ := changes(t, compiled(t, shopSpec(7)), 3)
			list = spoil(t, file, list)
			before, _ := os.ReadFile(file.path) // it may be gone
			require.ErrorIs(t, file.add(list, nil), errWriteWhole)
			after, _ := os.ReadFile(file.path)
			require.Equal(t, before, after)
		})
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// However much of the last block is there, the file has the table before it or behind it; and it
// is not added to before it was written whole.
func TestCacheThatWasCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	file := writeFile(t, path, shopSpec(7))
	list, tables := changes(t, compiled(t, shopSpec(7)), 3)
	require.NoError(t, file.add(list[:1], nil))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, file.add(list[1:2], nil))
	all, err := os.ReadFile(path)
	require.NoError(t, err)
	garbled := bytes.Clone(all)
	garbled[len(all)-10] ^= 1
	zeros := append(bytes.Clone(good), make([]byte, len(all)-len(good))...)
	torn := map[string][]byte{
		"a bit": garbled, "zeros": zeros, "nonsense behind": append(bytes.Clone(all), "nonsense"...),
		"another revision": append(bytes.Clone(good), block(deltaBlock, 10, `{"change":{"base":8,"revision":9}}`)...),
		"another base":     append(bytes.Clone(good), block(deltaBlock, 9, `{"change":{"base":7,"revision":9}}`)...),
		"no change":        append(bytes.Clone(good), block(deltaBlock, 8, `{"route":{}}`)...),
		"a table":          append(bytes.Clone(good), good...),
	}
	for size := len(good) + 1; size < len(all); size += 7 {
		torn[fmt.Sprint(size-len(good), " bytes")] = all[:size]
	}
	for name, data := range torn {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		table, lost, err := file.read()
		require.NoError(t, err, name)
		require.ErrorContains(t, lost, path, name)
		want := tables[0]
		if name == "nonsense behind" {
			want = tables[1]
		}
		require.Equal(t, want.Spec(), table.Spec(), name)
		require.ErrorIs(t, file.add(list[table.Revision()-7:], nil), errWriteWhole, name)
		require.ErrorIs(t, file.add(list[2:], nil), errWriteWhole, "%s, and what it had before", name)
	}
}

func TestDamagedCacheIsRefused(t *testing.T) {
	good := written(t, shopSpec(42, "pr-1"))
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "no header"},
		"another file":    {[]byte("services:\n  cart: {}\n"), "does not begin with layover-table"},
		"newer format":    {bytes.Replace(good, []byte("layover-table 2"), []byte("layover-table 3"), 1), "format that this release does not know"},
		"header cut":      {good[:headerBytes-5], "its header is not complete"},
		"header garbled":  {bytes.Replace(good, []byte("bytes="), []byte("bites="), 1), "header cannot be read"},
		"body cut":        {good[:len(good)-7], "cut short"},
		"body cut early":  {good[:headerBytes+10], "cut short"},
		"body missing":    {good[:headerBytes], "cut short"},
		"one bit":         {bytes.Replace(good, []byte("cart-main-1"), []byte("cart-main-0"), 1), "checksum"},
		"no JSON":         {bytes.Replace(good, []byte(`{"service"`), []byte(`{{service"`), 1), "damaged"},
		"other revision":  {bytes.Replace(good, fmt.Appendf(nil, "revision=%020d", 42), fmt.Appendf(nil, "revision=%020d", 43), 1), "revision 43"},
		"too large":       {bytes.Replace(good, good[strings.Index(string(good), "bytes="):][:26], []byte("bytes=00099999999999999999"), 1), "the limit is"},
		"negative length": {bytes.Replace(good, good[strings.Index(string(good), "bytes="):][:26], []byte("bytes=-0000000000000000001"), 1), "header says -1 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			require.NoError(t, os.WriteFile(path, test.data, 0o600))
			_, _, err := (&cacheFile{path: path}).read()
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, path)
		})
	}
}

// FuzzReadCache holds that a file is read as it was written, or refused.
func FuzzReadCache(f *testing.F) {
	good := written(f, shopSpec(42, "pr-1"))
	list, _ := changes(f, compiled(f, shopSpec(42, "pr-1")), 2)
	block, err := changesBlock(list, addedBytes, nil)
	require.NoError(f, err)
	f.Add(good)
	f.Add(append(bytes.Clone(good), block...))
	f.Add(append(bytes.Clone(good), block[:len(block)-1]...))
	f.Add(written(f, route.Spec{}))
	f.Add([]byte("layover-table 2 revision=00000000000000000001 bytes=00000000000000000003 sha256=x\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks := newBlockReader(bytes.NewReader(data))
		table, err := blocks.table()
		for err == nil {
			again, againErr := newBlockReader(bytes.NewReader(inMemory(t, table))).table()
			require.NoError(t, againErr)
			require.Equal(t, table.Spec(), again.Spec())
			var next *route.Table
			if next, err = blocks.changes(table); err == nil {
				table = next
			}
		}
		require.LessOrEqual(t, blocks.bytes, int64(len(data)))
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
		table, err := route.Compile(*spec)
		if err != nil {
			return
		}
		again, err := newBlockReader(bytes.NewReader(inMemory(t, table))).table()
		require.NoError(t, err)
		require.Equal(t, table.Spec(), again.Spec())
	})
}

func BenchmarkCache(b *testing.B) {
	spec := shopSpec(1)
	for i := range 100_000 {
		spec.Services[0].Versions = append(spec.Services[0].Versions, route.Version{
			Name: fmt.Sprint("pr-", i), State: route.Ready, Instances: []route.Instance{{ID: fmt.Sprint("cart-", i), Address: "127.0.0.1:4711"}},
		})
	}
	table := compiled(b, spec)
	file := &cacheFile{path: filepath.Join(b.TempDir(), "table")}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, file.write(table, nil))
		}
	})
	b.Run("add", func(b *testing.B) {
		list, _ := changes(b, table, 100)
		for b.Loop() {
			b.StopTimer()
			require.NoError(b, file.write(table, nil))
			b.StartTimer()
			require.NoError(b, file.add(list, nil))
		}
	})
	b.Run("read", func(b *testing.B) {
		require.NoError(b, file.write(table, nil))
		for b.Loop() {
			_, _, err := file.read()
			require.NoError(b, err)
		}
	})
}

// block is a block of lines, whatever they say.
func block(kind string, revision uint64, lines ...string) []byte {
	text := strings.Join(lines, "\n") + "\n"
	sum := sha256.Sum256([]byte(text))
	return []byte(header{kind, revision, int64(len(text)), hex.EncodeToString(sum[:])}.String() + text)
}
