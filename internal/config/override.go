package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Variables returns the environment variables that [File.ApplyEnv] reads, and the key
// each of them sets, in the order of the file.
func Variables() []Variable {
	var all []Variable
	collectVariables(fileShape(), nil, &all)
	return all
}

// Variable is an environment variable that sets a key of the file.
type Variable struct {
	Name string // LAYOVER_PROXY_LISTEN
	Key  string // proxy.listen
	Doc  string
}

func collectVariables(s *shape, p path, all *[]Variable) {
	for _, k := range s.keys {
		if k.env != "" {
			*all = append(*all, Variable{Name: k.env, Key: p.with(k.name).String(), Doc: k.doc})
		}
		if k.shape.kind == kindObject {
			collectVariables(k.shape, p.with(k.name), all)
		}
	}
}

// ApplyEnv sets what the variables of environ ("NAME=value", as [os.Environ] has
// them) say. An empty variable counts as unset. All problems are reported at once.
func (f *File) ApplyEnv(environ []string) error {
	values := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	var all []Problem
	for _, v := range Variables() {
		if values[v.Name] == "" {
			continue
		}
		err := f.Set(v.Key, values[v.Name], v.Name)
		if problems, ok := errors.AsType[*Problems](err); ok {
			all = append(all, problems.All...)
		} else if err != nil {
			return err
		}
	}
	if len(all) > 0 {
		return &Problems{All: all}
	}
	return nil
}

// Set sets one of the keys of [Variables], such as "proxy.listen". A list is
// separated by commas. origin names where the value came from ("--domain"), for messages.
func (f *File) Set(name, value, origin string) error {
	p := path(strings.Split(name, "."))
	s, k, dst := fileShape(), (*key)(nil), reflect.ValueOf(f).Elem()
	for _, part := range p {
		if k = s.key(part); k == nil {
			return fmt.Errorf("set %s: there is no such key", name)
		}
		s, dst = k.shape, dst.FieldByIndex(k.index)
	}
	if k == nil || k.env == "" {
		return fmt.Errorf("set %s: the key cannot be set from outside the file", name)
	}
	if s.kind == kindList {
		var items []string
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
		dst.Set(reflect.ValueOf(items))
	} else if message, hint := set(dst, s, k, value); message != "" {
		return &Problems{All: []Problem{{Origin: origin, Message: fmt.Sprintf("%s: %s", p, message), Hint: hint}}}
	}
	f.moveTo(p, origin)
	return nil
}

// moveTo records that the value at p, and all below it, came from origin.
func (f *File) moveTo(p path, origin string) {
	if f.source == nil {
		f.source = newSource("", "", "")
	}
	for id := range f.source.values {
		if strings.HasPrefix(id, p.id()+"\x00") {
			delete(f.source.values, id)
		}
	}
	f.source.values[p.id()] = position{origin: origin}
}
