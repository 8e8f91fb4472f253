package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
	"github.com/mattn/go-shellwords"

	"github.com/layover-dev/layover/api"
)

// decoder sets Go values from a YAML tree, as the shapes say. Unlike the
// library's own decoder it goes on after a problem, and remembers where each
// value stands.
type decoder struct {
	collector
	anchors map[string]*ast.AnchorNode
	active  map[*ast.AnchorNode]bool // being decoded: an alias to one is a circle
	visits  int
}

// tree decodes the tree of a whole file.
func (d *decoder) tree(body ast.Node, s *shape, dst reflect.Value) {
	ast.Walk(anchorVisitor{d}, body)
	d.value(body, s, nil, dst, nil)
}

// anchorVisitor collects the anchors of a tree.
type anchorVisitor struct{ d *decoder }

func (v anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		name := a.Name.GetToken().Value
		if _, twice := v.d.anchors[name]; twice {
			v.d.add(nodePosition(a), "give each anchor its own name", "the anchor &%s is set twice", clip(name))
		} else {
			v.d.anchors[name] = a
		}
	}
	return v
}

// value decodes n into dst. k is the key it belongs to, nil in lists and maps.
func (d *decoder) value(n ast.Node, s *shape, k *key, dst reflect.Value, p path) {
	n, leave := d.resolve(n)
	if n == nil {
		return
	}
	defer leave()
	if !d.visit(n, 1) {
		return
	}
	d.source.values[p.id()] = nodePosition(n)
	if dst.Kind() == reflect.Pointer {
		dst.Set(reflect.New(dst.Type().Elem()))
		dst = dst.Elem()
	}
	if n.Type() == ast.NullType {
		if s.kind != kindObject && s.kind != kindMap && s.kind != kindHealth {
			d.add(d.source.key(p), "give it a value, or leave it out", "%s has no value", p)
			return
		}
		d.missing(s, map[string]bool{}, p)
		return
	}
	switch s.kind {
	case kindObject:
		d.object(n, s, dst, p)
	case kindHealth:
		d.health(n, s, dst, p)
	case kindMap:
		d.mapping(n, s, dst, p)
	case kindList:
		d.list(n, s, dst, p)
	case kindCommand:
		d.command(n, dst, p)
	default:
		d.scalar(n, s, k, dst, p)
	}
}

// resolve follows anchors and aliases. leave must be called when the node is
// done; the node is nil where an alias leads nowhere, which is then reported.
func (d *decoder) resolve(n ast.Node) (node ast.Node, leave func()) {
	var entered []*ast.AnchorNode
	leave = func() {
		for _, a := range entered {
			delete(d.active, a)
		}
	}
	for range maxDepth {
		switch t := n.(type) {
		case *ast.AnchorNode:
			d.active[t] = true
			entered = append(entered, t)
			n = t.Value
		case *ast.AliasNode:
			name := t.Value.GetToken().Value
			a, ok := d.anchors[name]
			switch {
			case !ok || a.GetToken().Position.Offset > t.GetToken().Position.Offset:
				d.add(nodePosition(t), didYouMean(name, slices.Collect(maps.Keys(d.anchors))), "the alias *%s names no anchor before it", clip(name))
			case d.active[a]:
				d.add(nodePosition(t), "", "the alias *%s stands inside of what it names", clip(name))
			default:
				n = a
				continue
			}
			leave()
			return nil, nil
		case nil:
			leave()
			return nil, nil
		default:
			return joinPlain(n), leave
		}
	}
	leave()
	return nil, nil
}

// joinPlain makes one text again of what the library takes for a key and a value:
// a colon without a space behind it is part of a plain text, as in [127.0.0.1:8080]
// (YAML 1.2.2, section 7.3.3).
func joinPlain(n ast.Node) ast.Node {
	pair, ok := n.(*ast.MappingValueNode)
	if !ok {
		block, ok := n.(*ast.MappingNode)
		if !ok || block.IsFlowStyle || len(block.Values) != 1 {
			return n
		}
		pair = block.Values[0]
	}
	key := pair.Key.GetToken()
	value, ok := joinPlain(pair.Value).(ast.ScalarNode)
	if !ok || key.Type == token.DoubleQuoteType || key.Type == token.SingleQuoteType {
		return n
	}
	behind := value.GetToken()
	if behind.Position.Line != key.Position.Line ||
		behind.Position.Column != key.Position.Column+utf8.RuneCountInString(key.Value)+1 {
		return n
	}
	text := key.Value + ":" + behind.Value
	return ast.String(token.New(text, text, key.Position))
}

// entry is one key of a block with its value.
type entry struct {
	name  string
	at    position
	value ast.Node
}

// entries returns the keys of a block, those it merges in included (what the
// block sets itself goes first). Keys set twice are reported.
func (d *decoder) entries(n ast.Node, p path) []entry {
	var own, merged []entry
	lines := map[string]int{}
	for _, pair := range pairs(n) {
		if pair.Key.IsMergeKey() {
			merged = append(merged, d.merge(pair.Value, p)...)
			continue
		}
		e, ok := d.entry(pair, p)
		if !ok {
			continue
		}
		if line, twice := lines[e.name]; twice {
			d.add(e.at, "keep one of the two", "%s is set twice, first on line %d", clip(p.with(e.name).String()), line)
			continue
		}
		lines[e.name] = e.at.line
		own = append(own, e)
	}
	for _, e := range merged {
		if _, set := lines[e.name]; !set {
			lines[e.name] = e.at.line
			own = append(own, e)
		}
	}
	return own
}

// merge returns the keys that a merge key (<<) brings in.
func (d *decoder) merge(n ast.Node, p path) []entry {
	at := nodePosition(n)
	n, leave := d.resolve(n)
	if n == nil {
		return nil
	}
	defer leave()
	if list, ok := n.(*ast.SequenceNode); ok {
		var all []entry
		for _, item := range list.Values {
			if !d.visit(item, 1) {
				return all
			}
			all = append(all, d.merge(item, p)...)
		}
		return all
	}
	if !isBlock(n) {
		d.add(at, "", "only a block of keys can be merged in with <<, this is %s", describe(n))
		return nil
	}
	found := d.entries(n, p)
	if !d.visit(n, len(found)) {
		return nil
	}
	return found
}

// visit counts values, and says whether there is room for them. The first time
// there is none, this is reported.
func (d *decoder) visit(n ast.Node, count int) bool {
	before := d.visits
	d.visits += count
	if before <= maxVisits && d.visits > maxVisits {
		d.add(nodePosition(n), "write the values out", "aliases make the file too large (more than %d values)", maxVisits)
	}
	return d.visits <= maxVisits
}

func (d *decoder) entry(pair *ast.MappingValueNode, p path) (entry, bool) {
	var n ast.Node = pair.Key
	if explicit, ok := n.(*ast.MappingKeyNode); ok {
		n = explicit.Value
	}
	name, _, ok := text(n)
	if !ok {
		d.add(nodePosition(pair), "write a plain word", "a key%s is not text", inside(p))
		return entry{}, false
	}
	at := nodePosition(n)
	d.source.keys[p.with(name).id()] = at
	return entry{name: name, at: at, value: pair.Value}, true
}

func (d *decoder) object(n ast.Node, s *shape, dst reflect.Value, p path) {
	if !isBlock(n) {
		d.wrongType(n, s, p)
		return
	}
	seen := map[string]bool{}
	for _, e := range d.entries(n, p) {
		k := s.key(e.name)
		if k == nil {
			if len(p) > 0 || !strings.HasPrefix(e.name, "x-") {
				d.add(e.at, unknownHint(e.name, s), "unknown key %q%s", clip(e.name), inside(p))
			}
			continue
		}
		seen[e.name] = true
		d.value(e.value, k.shape, k, dst.FieldByIndex(k.index), p.with(e.name))
	}
	d.missing(s, seen, p)
}

// missing reports the required keys of an object that were not seen.
func (d *decoder) missing(s *shape, seen map[string]bool, p path) {
	for _, k := range s.keys {
		if k.required && !seen[k.name] {
			d.add(d.source.key(p), "", "%s has no %s", p, k.name)
		}
	}
}

// health decodes the short forms: a path, or the kind of check.
func (d *decoder) health(n ast.Node, s *shape, dst reflect.Value, p path) {
	if isBlock(n) {
		d.object(n, s, dst, p)
		return
	}
	word, isText, ok := text(n)
	switch {
	case ok && isText && strings.HasPrefix(word, "/"):
		dst.Set(reflect.ValueOf(api.Health{Path: word}))
	case ok && (word == api.HealthTCP || word == api.HealthProcess):
		dst.Set(reflect.ValueOf(api.Health{Kind: word}))
	case ok:
		d.add(nodePosition(n), "write a path such as /healthz, tcp, process, or a block of keys", "%s: %q is neither a path nor a kind of health check", p, clip(word))
	default:
		d.wrongType(n, s, p)
	}
}

func (d *decoder) mapping(n ast.Node, s *shape, dst reflect.Value, p path) {
	if !isBlock(n) {
		d.wrongType(n, s, p)
		return
	}
	dst.Set(reflect.MakeMap(dst.Type()))
	for _, e := range d.entries(n, p) {
		elem := reflect.New(s.elem.typ).Elem()
		if s.elem.kind == kindText {
			d.plain(e.value, elem, p.with(e.name))
		} else {
			d.value(e.value, s.elem, nil, elem, p.with(e.name))
		}
		dst.SetMapIndex(reflect.ValueOf(e.name), elem)
	}
}

// list decodes a list of text or of blocks. One value stands for a list of one.
func (d *decoder) list(n ast.Node, s *shape, dst reflect.Value, p path) {
	items := []ast.Node{n}
	if list, ok := n.(*ast.SequenceNode); ok {
		items = list.Values
	} else if isBlock(n) && s.elem.kind != kindObject {
		d.wrongType(n, s, p)
		return
	}
	values := reflect.MakeSlice(dst.Type(), len(items), len(items))
	for i, item := range items {
		d.value(item, s.elem, nil, values.Index(i), p.with(strconv.Itoa(i)))
	}
	dst.Set(values)
}

// command decodes a list of arguments, or one line of them.
func (d *decoder) command(n ast.Node, dst reflect.Value, p path) {
	if list, ok := n.(*ast.SequenceNode); ok {
		values := reflect.MakeSlice(dst.Type(), len(list.Values), len(list.Values))
		for i, item := range list.Values {
			d.plain(item, values.Index(i), p.with(strconv.Itoa(i)))
		}
		dst.Set(values)
		return
	}
	line, isText, ok := text(n)
	if !ok || !isText {
		d.add(nodePosition(n), "", "%s must be a command, as one line or as a list; this is %s", p, describe(n))
		return
	}
	words, err := SplitCommand(line)
	if err != nil {
		d.add(nodePosition(n), `write it as a list, for a shell ["sh", "-c", "…"]`, "%s: %v", p, err)
		return
	}
	dst.Set(reflect.ValueOf(words))
}

// SplitCommand splits a line into words like a shell does, with quotes and
// backslashes and without expanding anything.
func SplitCommand(line string) ([]string, error) {
	line = strings.ReplaceAll(line, "\\\n", " ") // a line that goes on
	parser := shellwords.NewParser()
	words, err := parser.Parse(line)
	if err != nil {
		return nil, fmt.Errorf("%q cannot be split into words: a quote or bracket is not closed", clip(line))
	}
	if at := parser.Position; at >= 0 && at < len([]rune(line)) {
		return nil, fmt.Errorf("the command runs without a shell, which %q needs", string([]rune(line)[at]))
	}
	return words, nil
}

// plain decodes any scalar as it is written: 8080, true and 1.10 are text too.
func (d *decoder) plain(n ast.Node, dst reflect.Value, p path) {
	n, leave := d.resolve(n)
	if n == nil {
		return
	}
	defer leave()
	if !d.visit(n, 1) {
		return
	}
	d.source.values[p.id()] = nodePosition(n)
	word, _, ok := text(n)
	switch {
	case n.Type() == ast.NullType:
		d.add(d.source.value(p), `write "" for an empty text`, "%s has no value", p)
	case !ok:
		d.add(nodePosition(n), "", "%s must be text, this is %s", p, describe(n))
	default:
		dst.SetString(word)
	}
}

func (d *decoder) scalar(n ast.Node, s *shape, k *key, dst reflect.Value, p path) {
	word, isText, ok := text(n)
	if !ok || isText != (s.kind == kindText || s.kind == kindDuration) {
		d.wrongType(n, s, p)
		return
	}
	if message, hint := set(dst, s, k, word); message != "" {
		d.add(nodePosition(n), hint, "%s: %s", p, message)
	}
}

// set sets dst from a word. Where it cannot, it says why.
func set(dst reflect.Value, s *shape, k *key, word string) (message, hint string) {
	var number float64
	switch s.kind {
	case kindText:
		if word == "" {
			return "the text is empty", "leave it out, or write a value"
		}
		if k != nil && k.enum != nil && !slices.Contains(k.enum, word) {
			return fmt.Sprintf("%q is not one of %s", clip(word), strings.Join(k.enum, ", ")), didYouMean(word, k.enum)
		}
		dst.SetString(word)
		return "", ""
	case kindDuration:
		if err := dst.Addr().Interface().(*api.Duration).UnmarshalText([]byte(word)); err != nil {
			return strings.ReplaceAll(err.Error(), word, clip(word)), ""
		}
		return "", ""
	case kindBoolean:
		if word != "true" && word != "false" {
			return fmt.Sprintf("%q is neither true nor false", clip(word)), ""
		}
		dst.SetBool(word == "true")
		return "", ""
	case kindInteger:
		v, err := strconv.ParseInt(word, 10, 32)
		if err != nil {
			return fmt.Sprintf("%q is not a whole number", clip(word)), ""
		}
		number = float64(v)
		dst.SetInt(v)
	default:
		v, err := strconv.ParseFloat(word, 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			return fmt.Sprintf("%q is not a number", clip(word)), ""
		}
		number = v
		dst.SetFloat(v)
	}
	if k != nil && k.minimum != nil && number < *k.minimum {
		return fmt.Sprintf("%s is below %s", word, strconv.FormatFloat(*k.minimum, 'f', -1, 64)), ""
	}
	if k != nil && k.maximum != nil && number > *k.maximum {
		return fmt.Sprintf("%s is above %v", word, *k.maximum), ""
	}
	return "", ""
}

func (d *decoder) wrongType(n ast.Node, s *shape, p path) {
	hint := ""
	if _, isText, ok := text(n); ok && !isText && s.kind == kindText {
		hint = fmt.Sprintf("put it in quotes: %q", n.GetToken().Value)
	} else if ok && !isText && s.kind == kindDuration {
		hint = fmt.Sprintf("with a unit: %ss", n.GetToken().Value)
	}
	if len(p) > 1 && p[0] == "proxy" && p[1] == "trust_forwarded" {
		hint = forwardedHint // it is true or false in other proxies
	}
	where := p.String()
	if where == "" {
		where = "the file"
	}
	d.add(nodePosition(n), hint, "%s must be %s, this is %s", where, s.wants(), describe(n))
}

// unknownHint says what an unknown key may have meant.
func unknownHint(name string, s *shape) string {
	if s.typ == reflect.TypeFor[Service]() {
		switch name {
		case "image", "port":
			return "it belongs under run: docker:"
		case "command", "dir":
			return "it belongs under run: process:"
		case "url":
			return "it belongs under run: external:"
		}
	}
	return didYouMean(name, s.keyNames())
}

func inside(p path) string {
	if len(p) == 0 {
		return ""
	}
	return " in " + clip(p.String())
}

// clip shortens what a message quotes.
func clip(s string) string {
	const limit = 80
	if r := []rune(s); len(r) > limit {
		return string(r[:limit]) + "…"
	}
	return s
}

func isBlock(n ast.Node) bool {
	return n.Type() == ast.MappingType || n.Type() == ast.MappingValueType
}

func pairs(n ast.Node) []*ast.MappingValueNode {
	switch t := n.(type) {
	case *ast.MappingNode:
		return t.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{t}
	}
	return nil
}

// text returns a scalar as it is written, and whether it is text rather than a
// number or a boolean.
func text(n ast.Node) (word string, isText, ok bool) {
	switch t := n.(type) {
	case *ast.StringNode:
		return t.Value, true, true
	case *ast.LiteralNode:
		return t.Value.Value, true, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, false, true
	}
	return "", false, false
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a block of keys"
	case *ast.NullNode:
		return "nothing"
	}
	return "something else"
}

// nodePosition returns where n starts.
func nodePosition(n ast.Node) position {
	switch t := n.(type) {
	case *ast.MappingNode:
		if !t.IsFlowStyle && len(t.Values) > 0 {
			return nodePosition(t.Values[0])
		}
	case *ast.MappingValueNode:
		return nodePosition(t.Key)
	case *ast.MappingKeyNode:
		if t.Value != nil {
			return nodePosition(t.Value)
		}
	}
	return tokenPosition(n.GetToken())
}

func tokenPosition(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{line: 1, col: 1}
	}
	word, _, _ := strings.Cut(strings.TrimSpace(t.Value), "\n")
	width := len([]rune(word))
	if t.Type == token.DoubleQuoteType || t.Type == token.SingleQuoteType {
		width += 2
	}
	return position{line: t.Position.Line, col: t.Position.Column, width: width}
}
