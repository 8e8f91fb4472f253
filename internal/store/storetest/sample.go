package storetest

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// full returns a T in which every field has a value, whatever fields T has by
// now: lists and maps have two members, and no two values are the same.
func full[T any](t *testing.T) T {
	t.Helper()
	var v T
	count := 0
	fill(t, reflect.ValueOf(&v).Elem(), &count)
	switch v := any(&v).(type) { // what is a key may be any text but for NUL, which PostgreSQL has no place for
	case *api.Service:
		v.Name = withoutNUL(v.Name)
	case *api.NamedRoute:
		v.Name = withoutNUL(v.Name)
	case *control.VersionRecord:
		v.Service, v.Version = withoutNUL(v.Service), withoutNUL(v.Version)
	}
	return v
}

func withoutNUL(text string) string { return strings.ReplaceAll(text, "\x00", "") }

func fill(t *testing.T, v reflect.Value, count *int) {
	t.Helper()
	*count++
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 2, 3, 4, 5, 6, *count, time.FixedZone("", 3600))))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d \x00\n\"'ü 漢字 🚀", *count))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*count))
	case reflect.Uint64:
		v.SetUint(uint64(*count)) //nolint:gosec // counts up from 0
	case reflect.Float64:
		v.SetFloat(float64(*count) + 0.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), count)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), count)
		fill(t, v.Index(1), count)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, count)
			fill(t, value, count)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field, count)
		}
	default:
		require.FailNow(t, "no sample", "of a %s: add the kind to this function", v.Type())
	}
}

// same fails the test where got is not want. Times are the same where they are
// the same instant.
func same[T any](t *testing.T, want, got T) {
	t.Helper()
	require.Empty(t, cmp.Diff(want, got), "want -, got +")
}

// megabyte returns a text of a little over 1 MiB, not all ASCII.
func megabyte() string { return strings.Repeat("über 9000 ", 1<<20/10) }

// names returns names in the order of their bytes, which is not the order of any language.
func names() []string {
	return []string{"B", "a", "a-b", "a.b", "a0", "a_b", "aa", "b", "b@c", "z", "é", "漢字", "🚀"}
}
