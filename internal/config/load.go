package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of what is read, so that no file takes unbounded time or stack. They
// are far above any file that a person keeps.
const (
	maxBytes   = 1 << 20
	maxTokens  = 1 << 16 // the parser's time grows with the square of the keys in one block
	maxDepth   = 32
	maxAnchors = 1000
	maxVisits  = 1 << 17 // values decoded, those reached through aliases counted each time
)

// Load reads the file at name over [Default] and checks it. The error is
// [*Problems] where the file could be read and has some.
func Load(name string) (*File, error) {
	data, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no configuration at %s (write one with \"layover init\", or name another with -f): %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return Parse(name, data)
}

// readFile reads a file as far as anything is taken from one.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data, nil
}

// Parse reads data as [Load] does. name is used in messages, and its folder is
// what relative paths in the file are relative to.
func Parse(name string, data []byte) (*File, error) {
	d, body, err := begin(name, data)
	if err != nil {
		return nil, err
	}
	file := Default()
	file.source = d.source
	if body == nil { // an empty file
		return file, nil
	}
	d.tree(body, fileShape(), reflect.ValueOf(file).Elem())
	file.check(&d.collector)
	if err := d.err(); err != nil {
		return nil, err
	}
	return file, nil
}

// begin reads the text of a file into a tree, which is nil where there is nothing in it.
func begin(name string, data []byte) (*decoder, ast.Node, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, nil, fmt.Errorf("find the folder of %s: %w", name, err)
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	d := &decoder{
		collector: collector{source: newSource(name, filepath.Dir(abs), string(data))},
		anchors:   map[string]*ast.AnchorNode{},
		active:    map[*ast.AnchorNode]bool{},
	}
	body := d.parse(data)
	if body == nil {
		return d, nil, d.err()
	}
	return d, body, nil
}

// parse reads the text into a tree. It returns nil for a file without content,
// and for one that has a problem so bad that there is no tree.
func (d *decoder) parse(data []byte) ast.Node {
	if len(data) > maxBytes {
		d.add(position{line: 1, col: 1}, "", "the file is larger than %d KiB", maxBytes>>10)
		return nil
	}
	if !utf8.Valid(data) {
		d.addInvalidUTF8(data)
		return nil
	}
	file, err := d.parseTokens(string(data))
	if err != nil {
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok && syntax.Token != nil {
			d.add(tokenPosition(syntax.Token), syntaxHint(syntax), "this is not valid YAML: %s", syntax.Message)
		} else {
			d.add(position{line: 1, col: 1}, "", "this is not valid YAML: %v", err)
		}
		return nil
	}
	if file == nil {
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		if body != nil {
			d.add(nodePosition(doc.Body), "keep everything in one document", "a second YAML document starts here")
			break
		}
		body = doc.Body
	}
	return body
}

// parseTokens runs the YAML library on text within the bounds of this package.
// It returns no file where a bound is exceeded.
func (d *decoder) parseTokens(text string) (file *ast.File, err error) {
	// The library may panic on text that nobody would write by hand; such text
	// is refused like any other that is not YAML.
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("the text cannot be understood: %v", r)
		}
	}()
	tokens := lexer.Tokenize(text)
	if !d.withinBounds(tokens) {
		return nil, nil
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// withinBounds checks the tokens before the parser, which recurses, sees them. Tags
// and directives are refused here too.
func (d *decoder) withinBounds(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		d.add(position{line: 1, col: 1}, "", "the file has too many values (more than %d words and signs)", maxTokens)
		return false
	}
	flow, anchors, entries, line := 0, 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, entries = t.Position.Line, 0
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			entries++
		case token.AnchorType, token.MappingKeyType:
			anchors++
		case token.TagType:
			d.add(tokenPosition(t), "leave it out: the kind of each value is known", "the YAML tag %s is not supported", clip(t.Value))
		case token.DirectiveType:
			d.add(tokenPosition(t), "leave the line out", "YAML directives are not supported")
		}
		if flow > maxDepth || entries > maxDepth {
			d.add(tokenPosition(t), "", "values are nested more than %d levels deep", maxDepth)
			return false
		}
		if anchors > maxAnchors {
			d.add(tokenPosition(t), "", "the file has more than %d anchors", maxAnchors)
			return false
		}
	}
	return len(d.problems) == 0
}

func (d *decoder) addInvalidUTF8(data []byte) {
	line, start := 1, 0
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			d.add(position{line: line, col: utf8.RuneCount(data[start:i]) + 1}, "save the file as UTF-8", "byte 0x%02x is not UTF-8", data[i])
			return
		}
		if r == '\n' {
			line, start = line+1, i+1
		}
		i += size
	}
}

// syntaxHint says what to do about the YAML mistakes that people make most.
func syntaxHint(err *yaml.SyntaxError) string {
	says := func(words string) bool { return strings.Contains(err.Message, words) }
	switch {
	case strings.HasPrefix(err.Token.Value, "\t") || says("'\t'"):
		return "indent with spaces, never with tabs"
	case says("mapping value is not allowed"):
		return "put text that holds \": \" in quotes"
	case says("not allowed in this context"), says("non-map value"):
		return "check the indentation: the keys of one block start in the same column"
	case says("reserved character"):
		return "put the text in quotes"
	}
	return ""
}
