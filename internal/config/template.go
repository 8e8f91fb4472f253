package config

import (
	_ "embed"
	"slices"
)

//go:embed template.yaml
var template []byte

// Template returns a commented layover.yaml to begin with.
func Template() []byte { return slices.Clone(template) }
