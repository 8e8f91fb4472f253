package api

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFillPlaceholders(t *testing.T) {
	values := map[string]string{"service": "cart", "version": "pr-88", "port": "4711", "proxy": "{port}"}
	tests := map[string]struct{ in, want string }{
		"nothing":             {"plain", "plain"},
		"empty":               {"", ""},
		"one":                 {"--port={port}", "--port=4711"},
		"several":             {"{service}@{version}:{port}", "cart@pr-88:4711"},
		"same word twice":     {"{port}{port}", "47114711"},
		"value not refilled":  {"{proxy}", "{port}"},
		"no value":            {"{route}", "{route}"},
		"unknown word":        {"{serivce}", "{serivce}"},
		"json":                {`{"port":{"a":1}}`, `{"port":{"a":1}}`},
		"empty json":          {`{}`, `{}`},
		"shell variable":      {"${port}", "${port}"},
		"template":            {"{{port}}", "{{port}}"},
		"upper case":          {"{PORT}", "{PORT}"},
		"spaces":              {"{ port }", "{ port }"},
		"not closed":          {"{port", "{port"},
		"brace before braces": {"{a,{port}}", "{a,4711}"},
		"unicode around":      {"é{port}é", "é4711é"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, FillPlaceholders(test.in, values))
		})
	}
}

func TestUnknownPlaceholders(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []string
	}{
		"every known one":   {"{" + strings.Join(Placeholders(), "}{") + "}", nil},
		"typo":              {"{serivce}", []string{"serivce"}},
		"in order and once": {"{b} {a} {b}", []string{"b", "a"}},
		"with underscore":   {"{git_sha1}", []string{"git_sha1"}},
		"json":              {`{"a":{"b":[1]}}`, nil},
		"repeat count":      {"[a-z]{3}", nil},
		"brace expansion":   {"{a,b}", nil},
		"shell variable":    {"${home}", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, UnknownPlaceholders(test.in))
		})
	}
}
