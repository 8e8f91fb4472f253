package ecs

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/internal/control"
)

// maxChanges bounds how many differences are told.
const maxChanges = 50

// changes says in words in what a copy of one definition differs from a copy of another. Sizes, images and commits are told
// with their values; of variables, secrets and labels only the names, and of anything else that it changed.
func changes(from, to *types.TaskDefinition) []string {
	before, err := copyDefinition(from)
	if err != nil {
		return nil
	}
	after, err := copyDefinition(to)
	if err != nil {
		return nil
	}
	out := slices.Concat(
		value("cpu", "", aws.ToString(before.Cpu), aws.ToString(after.Cpu)),
		value("memory", "", aws.ToString(before.Memory), aws.ToString(after.Memory)),
		fields("", *before, *after, "Cpu", "Memory", "ContainerDefinitions"),
	)
	old, now := containers(before.ContainerDefinitions), containers(after.ContainerDefinitions)
	alone := len(old) == 1 && len(now) == 1
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, stays := now[name]; !stays {
			out = append(out, "container "+name+" removed")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, known := old[name]
		if !known {
			out = append(out, "container "+name+" added")
			continue
		}
		of := " of " + name
		if alone {
			of = ""
		}
		out = append(out, containerChanges(of, was, now[name])...)
	}
	if over := len(out) - maxChanges; over > 0 {
		out = append(out[:maxChanges], fmt.Sprintf("and %d more", over))
	}
	return out
}

func containers(all []types.ContainerDefinition) map[string]types.ContainerDefinition {
	out := map[string]types.ContainerDefinition{}
	for _, d := range all {
		out[aws.ToString(d.Name)] = d
	}
	return out
}

// containerChanges says in what a container differs. of names it where there are several.
func containerChanges(of string, a, b types.ContainerDefinition) []string {
	return slices.Concat(
		value("image", of, aws.ToString(a.Image), aws.ToString(b.Image)),
		value("commit", of, commitOf(&a), commitOf(&b)),
		value("cpu", of, number(&a.Cpu), number(&b.Cpu)),
		value("memory", of, number(a.Memory), number(b.Memory)),
		value("memory reservation", of, number(a.MemoryReservation), number(b.MemoryReservation)),
		names("environment", of, pairs(a.Environment), pairs(b.Environment)),
		names("secret", of, secrets(a.Secrets), secrets(b.Secrets)),
		names("label", of, otherLabels(a.DockerLabels), otherLabels(b.DockerLabels)),
		// How long it has to end a version says itself.
		fields(of, a, b, "Name", "Image", "Cpu", "Memory", "MemoryReservation", "Environment", "Secrets", "DockerLabels", "StopTimeout"),
	)
}

// value says that something has another value.
func value(what, of, a, b string) []string {
	if a == b {
		return nil
	}
	if a == "" {
		a = "none"
	}
	if b == "" {
		b = "none"
	}
	return []string{what + of + " " + a + " → " + b}
}

func number(n *int32) string {
	if aws.ToInt32(n) == 0 {
		return ""
	}
	return strconv.Itoa(int(*n))
}

// names says which names were added and removed, and which stand for something else.
func names(what, of string, a, b map[string]string) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		was, before := a[name]
		is, after := b[name]
		switch {
		case !before:
			out = append(out, what+" "+name+of+" added")
		case !after:
			out = append(out, what+" "+name+of+" removed")
		case was != is:
			out = append(out, what+" "+name+of+" changed")
		}
	}
	return out
}

func pairs(all []types.KeyValuePair) map[string]string {
	out := map[string]string{}
	for _, v := range all {
		out[aws.ToString(v.Name)] = aws.ToString(v.Value)
	}
	return out
}

func secrets(all []types.Secret) map[string]string {
	out := map[string]string{}
	for _, s := range all {
		out[aws.ToString(s.Name)] = aws.ToString(s.ValueFrom)
	}
	return out
}

// otherLabels are the labels that name no commit.
func otherLabels(all map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range all {
		if !control.IsCommitLabel(name) {
			out[name] = value
		}
	}
	return out
}

// fields says which other fields of two values of one type differ, by the words of their names.
func fields(of string, a, b any, but ...string) []string {
	var out []string
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		field := x.Type().Field(i)
		if !field.IsExported() || slices.Contains(but, field.Name) || same(x.Field(i).Interface(), y.Field(i).Interface()) {
			continue
		}
		out = append(out, words(strings.TrimSuffix(field.Name, "Arn"))+of+" changed")
	}
	return out
}

// same compares values as JSON: what is empty is as good as what is not there.
func same(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	text := func(v any) string {
		out, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		if s := string(out); s != "[]" && s != "{}" {
			return strings.NewReplacer(":[]", ":null", ":{}", ":null").Replace(s)
		}
		return "null"
	}
	return text(a) == text(b)
}

// words writes a name like HealthCheck as words: health check.
func words(name string) string {
	var out strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) {
			out.WriteByte(' ')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
