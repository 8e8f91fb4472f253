package route_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"

	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

const key = "dynamic_route"

func TestMember(t *testing.T) {
	for _, tt := range routetest.MemberCases() {
		t.Run(tt.Name, func(t *testing.T) {
			got, ok := route.Member(tt.Lines, key)
			require.Equal(t, !tt.None, ok)
			require.Equal(t, tt.Want, got)
		})
	}
}

func TestDecodeValue(t *testing.T) {
	for value, want := range map[string]string{
		"":             "",
		"x":            "x",
		"cart%40pr-88": "cart@pr-88",
		"1+1":          "1+1",
		"%2525":        "%25",
		"%7E%7e":       "~~",
		"Am%C3%A9lie":  "Amélie",
		"%FF%FEa":      "\uFFFD\uFFFDa",
		"100%":         "100%",
		"%4":           "%4",
		"%zz%41":       "%zzA",
	} {
		t.Run(value, func(t *testing.T) { require.Equal(t, want, route.DecodeValue(value)) })
	}
}

func TestEncodeValue(t *testing.T) {
	for value, want := range map[string]string{
		"":                     "",
		"cart@pr-88~team-a!":   "cart@pr-88~team-a!",
		"\t \"';=asdf!@#$%^&*": "%09%20%22'%3B=asdf!@#$%25^&*",
		"Amélie":               "Am%C3%A9lie",
		"a,b\\c":               "a%2Cb%5Cc",
		"a\r\nb":               "a%0D%0Ab",
	} {
		t.Run(value, func(t *testing.T) {
			require.Equal(t, want, route.EncodeValue(value))
			require.Equal(t, value, route.DecodeValue(want))
		})
	}
}

func TestPrependMember(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		value string
		want  []string
	}{
		"no baggage":           {nil, "x", []string{"dynamic_route=x"}},
		"before others":        {[]string{"a=b,c=d"}, "x", []string{"dynamic_route=x,a=b,c=d"}},
		"bytes stay":           {[]string{" a = b ;p, ,bad,é=\"", "\tz=1 "}, "x", []string{"dynamic_route=x, a = b ;p, ,bad,é=\"", "\tz=1 "}},
		"replaces":             {[]string{"dynamic_route=old"}, "x", []string{"dynamic_route=x"}},
		"replaces all":         {[]string{"a=1, dynamic_route = old;p ,b=2", "dynamic_route=older", "c=3,dynamic_route=é"}, "x", []string{"dynamic_route=x,a=1,b=2", "c=3"}},
		"keeps longer keys":    {[]string{"dynamic_route2=a,Dynamic_Route=b,x=dynamic_route=c"}, "x", []string{"dynamic_route=x,dynamic_route2=a,Dynamic_Route=b,x=dynamic_route=c"}},
		"blank lines go":       {[]string{"", " ", "a=b"}, "x", []string{"dynamic_route=x", "a=b"}},
		"encodes":              {nil, "a b,c;d", []string{"dynamic_route=a%20b%2Cc%3Bd"}},
		"encodes no line feed": {nil, "a\r\nx: y", []string{"dynamic_route=a%0D%0Ax:%20y"}},
		"encodes once":         {nil, "cart%40pr-88%2Cx", []string{"dynamic_route=cart@pr-88%2Cx"}},
		"lone percent":         {nil, "50%", []string{"dynamic_route=50%25"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tt.lines)
			got := route.PrependMember(tt.lines, key, tt.value)
			require.Equal(t, tt.want, got)
			require.Equal(t, before, tt.lines)
			value, ok := route.Member(got, key)
			require.True(t, ok)
			require.Equal(t, route.DecodeValue(tt.value), route.DecodeValue(value))
		})
	}
}

// vectors are the cases that several implementations of W3C Baggage share. They
// stand beside the repository in some places, and are no part of it.
type vectors struct {
	Parse []struct {
		ID      string   `json:"id"`
		Class   string   `json:"cls"`
		Headers []string `json:"headers"`
		Want    []struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		} `json:"want"`
	} `json:"parse"`
	Serialize []struct {
		ID      string `json:"id"`
		Members []struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		} `json:"members"`
	} `json:"serialize"`
}

func TestMember_Vectors(t *testing.T) {
	data, err := os.ReadFile("../../../shared/testdata/baggage-vectors.json")
	if errors.Is(err, fs.ErrNotExist) {
		return // the cases above are those of the specification; these are W3C's own
	}
	require.NoError(t, err)
	var all vectors
	require.NoError(t, json.Unmarshal(data, &all))
	require.NotEmpty(t, all.Parse)
	for _, v := range all.Parse {
		if v.Class == "undefined" {
			continue // the specification says neither way
		}
		t.Run(v.ID, func(t *testing.T) {
			want := make(map[string]string) // the last one of each key
			for _, m := range v.Want {
				want[m.Key] = m.Value
			}
			require.NotEmpty(t, want)
			for key, value := range want {
				got, ok := route.Member(v.Headers, key)
				require.True(t, ok, key)
				require.Equal(t, value, route.DecodeValue(got))
			}
		})
	}
	for _, v := range all.Serialize {
		t.Run(v.ID, func(t *testing.T) {
			for _, m := range v.Members {
				line := m.Key + "=" + route.EncodeValue(m.Value)
				parsed, err := baggage.Parse(line)
				require.NoError(t, err)
				require.Equal(t, m.Value, parsed.Member(m.Key).Value())
				got, ok := route.Member([]string{line}, m.Key)
				require.True(t, ok)
				require.Equal(t, m.Value, route.DecodeValue(got))
			}
		})
	}
}

// The ways in which reading baggage differs from OpenTelemetry's parser on purpose.

// overSize is a list that OpenTelemetry drops, or cuts by what it would write
// again; we read the first 8,192 bytes as they came.
func overSize(list string) bool { return len(list) > route.MaxBaggage/3 }

// manyMembers is a list that OpenTelemetry reads the first 64 members of.
func manyMembers(list string) bool { return strings.Count(list, ",") >= 64 }

// otherSpace is white space that OpenTelemetry trims, though it is not optional
// white space of RFC 9110 and no HTTP library lets most of it pass.
func otherSpace(list string) bool {
	return strings.ContainsFunc(list, func(r rune) bool { return unicode.IsSpace(r) && r != ' ' && r != '\t' })
}

// blankProperty is a property of nothing but white space, for which
// OpenTelemetry drops the member; we let it pass as it does an empty one.
func blankProperty(list string) bool {
	for member := range strings.SplitSeq(list, ",") {
		_, properties, _ := strings.Cut(member, ";")
		for one := range strings.SplitSeq(properties, ";") {
			if one != "" && strings.Trim(one, " \t") == "" {
				return true
			}
		}
	}
	return false
}

func FuzzMember(f *testing.F) {
	for _, list := range []string{
		"", "k=v", "a=b,k=v;p=1;q,c=d", "k = v ", "k=%40%zz", "k=1,k=2", "k=\"", "k=é", "k=a=b", "k;p=1", "k=%FF", ",,k=,", "k=v;", "k=v; ", "k=v;a b",
		"k=v\n", "k=v;p=%4", "k=v;p=\xff", "\xffk=v",
	} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		value, ok := route.Member([]string{list}, "k")
		if before, after, ok0 := strings.Cut(list, ","); ok0 {
			again, same := route.Member([]string{before, after}, "k")
			require.Equal(t, ok, same, "two lines are one list")
			require.Equal(t, value, again)
		}
		written := route.PrependMember([]string{list}, "k", "own")
		again, _ := route.Member(written, "k")
		require.Equal(t, "own", again)
		require.True(t, strings.HasPrefix(written[0], "k=own"))

		if overSize(list) || manyMembers(list) || otherSpace(list) || blankProperty(list) {
			return
		}
		parsed, _ := baggage.Parse(list)
		member := parsed.Member("k")
		require.Equal(t, member.Key() == "k", ok, "%q", list)
		if ok {
			require.Equal(t, member.Value(), route.DecodeValue(value))
		}
	})
}

func FuzzEncodeValue(f *testing.F) {
	f.Add("cart@pr-88~team-a!")
	f.Add("a b,%\x00\xff")
	f.Fuzz(func(t *testing.T, value string) {
		line := "k=" + route.EncodeValue(value)
		got, ok := route.Member([]string{line}, "k")
		if len(line) > route.MaxBaggage {
			require.False(t, ok)
			return
		}
		require.True(t, ok)
		require.Equal(t, string([]rune(value)), route.DecodeValue(got))
	})
}
