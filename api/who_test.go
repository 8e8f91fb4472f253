package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestCheckWho(t *testing.T) {
	many := map[string]string{}
	for i := range api.MaxLabels + 1 {
		many[fmt.Sprint("l", i)] = "x"
	}
	for name, test := range map[string]struct {
		d    api.Deployment
		says string // "" means that it is fine
	}{
		"nothing":            {},
		"all":                {d: api.Deployment{Owner: "ana@example.com", Note: "für Freitag", Labels: map[string]string{"a.b/c_d-1": "x y", "e": ""}, Origin: api.Origin{URL: "https://ci/1", Commit: "9f"}}},
		"owner as long":      {d: api.Deployment{Owner: strings.Repeat("a", api.MaxWho)}},
		"owner too long":     {d: api.Deployment{Owner: strings.Repeat("a", api.MaxWho+1)}, says: "owner may have 255 bytes"},
		"lines in a note":    {d: api.Deployment{Note: "a\nb"}, says: "note may have 500 bytes, and no control characters"},
		"note too long":      {d: api.Deployment{Note: strings.Repeat("a", api.MaxNote+1)}, says: "note may have"},
		"author too long":    {d: api.Deployment{Origin: api.Origin{Author: strings.Repeat("a", api.MaxWho+1)}}, says: "origin.author"},
		"link to a script":   {d: api.Deployment{Origin: api.Origin{URL: "javascript:alert(1)"}}, says: "http:// or https://"},
		"link too long":      {d: api.Deployment{Origin: api.Origin{URL: "https://x/" + strings.Repeat("a", api.MaxURL)}}, says: "origin.url may have"},
		"too many labels":    {d: api.Deployment{Labels: many}, says: "17 labels"},
		"label of no name":   {d: api.Deployment{Labels: map[string]string{"": "x"}}, says: `"" cannot name a label`},
		"label with a blank": {d: api.Deployment{Labels: map[string]string{"a b": "x"}}, says: `"a b" cannot name a label`},
		"label ends badly":   {d: api.Deployment{Labels: map[string]string{"a/": "x"}}, says: `"a/" cannot name a label`},
		"label begins badly": {d: api.Deployment{Labels: map[string]string{"-a": "x"}}, says: `"-a" cannot name a label`},
		"value too long":     {d: api.Deployment{Labels: map[string]string{"a": strings.Repeat("x", api.MaxLabelValue+1)}}, says: "the value of the label a"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.d.CheckWho()
			if test.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestSameOwner(t *testing.T) {
	require.True(t, api.SameOwner("Ana@Example.com", " ana@example.com"))
	require.True(t, api.SameOwner(strings.Repeat("a", 100), strings.Repeat("A", 120)), "a header carries 100 characters")
	require.False(t, api.SameOwner("ana", "anna"))
	require.False(t, api.SameOwner("ana", ""))
}
