package route_test

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// namePattern is the form of names in docs/design.md; "--" is refused besides.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

func validName(name string) bool {
	return namePattern.MatchString(name) && !strings.Contains(name, "--")
}

// hash6 is what keeps shortened names apart.
func hash6(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:3])
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]string{
		"a":                       "",
		"cart":                    "",
		"feature-2981":            "",
		"1.2.3":                   "",
		"a_b":                     "",
		"a._b":                    "",
		strings.Repeat("a", 63):   "",
		"":                        `version name "" is empty`,
		strings.Repeat("a", 64):   "has 64 bytes",
		"Feature":                 "has upper-case letters",
		"a--b":                    `contains "--"`,
		"-a":                      `begins with "-"`,
		"a.":                      `ends with "."`,
		"a b":                     `has " " at position 2`,
		"feature/2981":            `has "/" at position 8`,
		"../etc":                  `has "/" at position 3`,
		"a\x00":                   `has "\x00" at position 2`,
		"é":                       `has "é" at position 1`,
		"a\xff":                   `has the byte 0xff at position 2`,
		"cart@pr":                 `has "@" at position 5`,
		strings.Repeat("x", 5000): "has 5000 bytes",
	} {
		t.Run(name[:min(len(name), 20)], func(t *testing.T) {
			err := route.CheckName("version", name)
			require.Equal(t, validName(name), err == nil)
			if want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "allowed are 1 to 63 characters")
			require.Less(t, len(err.Error()), 300)
		})
	}
}

func TestNameOf(t *testing.T) {
	long := "feature/" + strings.Repeat("very-long-", 10)
	for text, want := range map[string]string{
		"main":            "main",
		"feature/2981":    "feature-2981",
		"Feature/ABC_12":  "feature-abc_12",
		"a b":             "a-b",
		"1.2.3":           "1.2.3",
		"a//b":            "a-b-" + hash6("a//b"),
		"a--b":            "a-b-" + hash6("a--b"),
		"-a":              "a-" + hash6("-a"),
		"a/":              "a-" + hash6("a/"),
		"fix/é":           "fix-" + hash6("fix/é"),
		"aéb":             "a-b-" + hash6("aéb"),
		"":                hash6(""),
		"日本":              hash6("日本"),
		"///":             hash6("///"),
		"\u212Aelvin":     "elvin-" + hash6("\u212Aelvin"), // not a K: only ASCII is made lower case
		"a-/b":            "a-b-" + hash6("a-/b"),
		"a./b":            "a.-b",
		long:              "feature-" + strings.TrimRight(strings.Repeat("very-long-", 5)[:48], "-") + "-" + hash6(long),
		"refs/heads/main": "refs-heads-main",
	} {
		t.Run(text, func(t *testing.T) {
			require.Equal(t, want, route.NameOf(text))
			require.True(t, validName(want), want)
		})
	}
	require.NotEqual(t, route.NameOf("日本"), route.NameOf("日木"))
}

func TestPreviewLabel(t *testing.T) {
	long := strings.Repeat("abcdefghi-", 6) + "xyz"
	for name, tt := range map[string]struct {
		name string
		room int
		want string
	}{
		"fits":              {"feature-1", 30, "feature-1"},
		"fits exactly":      {"feature-1", 9, "feature-1"},
		"too long":          {"feature-12", 9, "fe-" + hash6("feature-12")},
		"cut at a dash":     {long, 17, "abcdefghi-" + hash6(long)},
		"dots":              {"1.2.3", 30, "1-2-3-" + hash6("1.2.3")},
		"underscore":        {"a_b", 30, "a-b-" + hash6("a_b")},
		"dash beside a dot": {"a.-b", 30, "a-b-" + hash6("a.-b")},
		"hardly room":       {"feature", 1, "feature"},
		"hardly room, long": {"feature-1", 1, "f-" + hash6("feature-1")},
		"much room":         {strings.Repeat("a", 63), 100, strings.Repeat("a", 63)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, route.PreviewLabel(tt.name, tt.room))
		})
	}
	require.NotEqual(t, route.PreviewLabel("a.b", 30), route.PreviewLabel("a_b", 30))
}

func FuzzNameOf(f *testing.F) {
	for _, text := range []string{"", "main", "Feature/ABC_12", "a--b", "日本", "-._", "a\xffb", strings.Repeat("a/", 60)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := route.NameOf(text)
		require.True(t, validName(name), "%q", name)
		require.Equal(t, name, route.NameOf(name))
		require.Equal(t, validName(text), route.CheckName("version", text) == nil)
		if validName(text) {
			require.Equal(t, text, name)
		} else if len(name) != len(text) {
			require.True(t, strings.HasSuffix(name, hash6(text)), "%q", name)
		}
	})
}

func FuzzPreviewLabel(f *testing.F) {
	f.Add("feature-1", 29)
	f.Add("1.2.3", 8)
	f.Add("a_b", 63)
	f.Fuzz(func(t *testing.T, text string, room int) {
		name := route.NameOf(text)
		label := route.PreviewLabel(name, room)
		require.True(t, validName(label), "%q", label)
		require.LessOrEqual(t, len(label), min(max(room, 8), 63))
		require.NotContains(t, label, ".")
		require.NotContains(t, label, "_")
		if label != name {
			require.True(t, strings.HasSuffix(label, "-"+hash6(name)), "%q", label)
		}
	})
}
