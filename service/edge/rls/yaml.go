package rls

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxBraces is the maximum depth of nested braces and brackets. The memory of the parser grows with its square.
	maxBraces = 32
	// maxDepth is the maximum depth of nested descriptors, and of a value in metadata.
	maxDepth = 64
	// maxNodes is the maximum number of mappings and of values of metadata in one file, aliases counted each time.
	maxNodes = 100_000
)

// A reader reads one file. It notes all mistakes and goes on.
type reader struct {
	file     string
	anchors  map[string]ast.Node
	nodes    int
	faults   LoadErrors
	warnings []string
}

// A field is one key of a mapping with its value.
type field struct {
	name, path string
	line       int
	value      ast.Node
}

func (r *reader) fault(line int, path, format string, args ...any) {
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, &LoadError{r.file, line, path, fmt.Sprintf(format, args...)})
	}
}

func (r *reader) warn(line int, path, problem string) {
	if len(r.warnings) < maxFaults {
		r.warnings = append(r.warnings, (&LoadError{r.file, line, path, problem}).Error())
	}
}

// document parses the text and returns its first document; nil after a fault.
func (r *reader) document(text []byte) (root ast.Node) {
	defer func() {
		if recover() != nil { // a panic of the library must not end a running server
			root = nil
			r.fault(1, "", "cannot be read as YAML")
		}
	}()
	tokens := lexer.Tokenize(string(text))
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			if depth++; depth > maxBraces {
				r.fault(t.Position.Line, "", "has more than %d nested braces", maxBraces)
				return nil
			}
		case token.MappingEndType, token.SequenceEndType:
			depth--
		default:
		}
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		line, problem := 1, err.Error()
		if positioned := yaml.Error(nil); errors.As(err, &positioned) {
			problem = positioned.GetMessage() // Error adds an excerpt of the text
			if t := positioned.GetToken(); t != nil {
				line = t.Position.Line
			}
		}
		r.fault(line, "", "%s", problem)
		return nil
	}
	docs := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil || d.Body.Type() == ast.CommentType })
	if len(docs) == 0 {
		r.fault(1, "", "is empty")
		return nil
	}
	if len(docs) > 1 {
		r.warn(docs[1].Body.GetToken().Position.Line, "", "only the first YAML document of a file has an effect")
	}
	r.anchors = make(map[string]ast.Node)
	ast.Walk(r, docs[0].Body)
	return docs[0].Body
}

// Visit implements [ast.Visitor]. It notes the anchors.
func (r *reader) Visit(n ast.Node) ast.Visitor {
	if anchor, ok := n.(*ast.AnchorNode); ok {
		r.anchors[anchor.Name.GetToken().Value] = anchor.Value
	}
	return r
}

// resolve follows anchors, aliases and tags to the node that has the value. An unknown alias is nil, as if it were null.
func (r *reader) resolve(n ast.Node) ast.Node {
	for range maxDepth {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			n = r.anchors[v.Value.GetToken().Value]
		case *ast.TagNode:
			n = v.Value
		default:
			return n
		}
	}
	return nil
}

func isNull(n ast.Node) bool { return n == nil || n.Type() == ast.NullType }

func lineOf(n ast.Node, otherwise int) int {
	if n == nil || n.GetToken() == nil {
		return otherwise
	}
	return n.GetToken().Position.Line
}

// fields returns the fields of a mapping in the order of the file, those of merged mappings last; nil after a fault.
func (r *reader) fields(n ast.Node, path string, line int) []field {
	n = r.resolve(n)
	if isNull(n) {
		return nil
	}
	mapping, ok := n.(ast.MapNode)
	if !ok {
		r.fault(lineOf(n, line), path, "must be a mapping")
		return nil
	}
	if r.nodes++; r.nodes > maxNodes {
		r.fault(line, path, "the file has more than %d mappings", maxNodes)
		return nil
	}
	prefix := path
	if prefix != "" {
		prefix += "."
	}
	var fields, merged []field
	for i := mapping.MapRange(); i.Next(); {
		if key := i.Key(); key.IsMergeKey() {
			for _, from := range r.items(i.Value()) {
				merged = append(merged, r.fields(from, path, lineOf(from, line))...)
			}
			continue
		} else if t := key.GetToken(); t != nil {
			fields = append(fields, field{t.Value, prefix + t.Value, t.Position.Line, i.Value()})
		}
	}
	for _, f := range merged {
		if !slices.ContainsFunc(fields, func(own field) bool { return own.name == f.name }) {
			fields = append(fields, f)
		}
	}
	return fields
}

// items returns the items of a sequence, and of another value that value.
func (r *reader) items(n ast.Node) []ast.Node {
	if list, ok := r.resolve(n).(*ast.SequenceNode); ok {
		return list.Values
	}
	return []ast.Node{n}
}

// list returns the items of a field that must be a list. Null is an empty list.
func (r *reader) list(f field) []ast.Node {
	n := r.resolve(f.value)
	if isNull(n) {
		return nil
	}
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		r.fault(lineOf(n, f.line), f.path, "must be a list")
		return nil
	}
	return list.Values
}

// text returns a field that must be a string. As in YAML 1.1, a number or true is the text that it is written as.
func (r *reader) text(f field) string {
	switch n := r.resolve(f.value).(type) {
	case nil, *ast.NullNode:
		return ""
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.IntegerNode:
		return n.Token.Value
	case *ast.BoolNode:
		return n.Token.Value
	case *ast.FloatNode:
		r.fault(f.line, f.path, "must be a string: put it in quotes")
	default:
		r.fault(lineOf(n, f.line), f.path, "must be a string")
	}
	return ""
}

// booleans are the words for true and false of YAML 1.1.
var booleans = map[string]bool{"true": true, "yes": true, "on": true, "y": true, "false": false, "no": false, "off": false, "n": false}

func (r *reader) boolean(f field) bool {
	switch n := r.resolve(f.value).(type) {
	case nil, *ast.NullNode:
		return false
	case *ast.BoolNode:
		return n.Value
	case *ast.StringNode:
		if value, ok := booleans[strings.ToLower(n.Value)]; ok && n.Token.Type == token.StringType {
			return value
		}
	}
	r.fault(f.line, f.path, "must be true or false")
	return false
}

// number returns a field that must be a number of 32 bits without a sign.
func (r *reader) number(f field) uint32 {
	switch n := r.resolve(f.value).(type) {
	case nil, *ast.NullNode:
		return 0
	case *ast.IntegerNode:
		if value, ok := n.Value.(uint64); ok && value <= math.MaxUint32 {
			return uint32(value)
		}
	}
	r.fault(f.line, f.path, "must be a whole number from 0 to %d", uint32(math.MaxUint32))
	return 0
}

// value returns a value as JSON has it: maps with string keys, lists, strings, numbers, booleans and nil.
func (r *reader) value(n ast.Node, path string, line, depth int) any {
	n = r.resolve(n)
	if r.nodes++; r.nodes > maxNodes || depth > maxDepth {
		r.fault(line, path, "is too large or too deep")
		return nil
	}
	switch v := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case ast.MapNode:
		fields := map[string]any{}
		for _, f := range r.fields(n, path, line) {
			fields[f.name] = r.value(f.value, f.path, f.line, depth+1)
		}
		return fields
	case *ast.SequenceNode:
		items := make([]any, len(v.Values))
		for i, item := range v.Values {
			items[i] = r.value(item, fmt.Sprintf("%s[%d]", path, i), cmp.Or(lineOf(item, 0), line), depth+1)
		}
		return items
	case *ast.StringNode:
		return v.Value
	case *ast.LiteralNode:
		return v.Value.Value
	case *ast.BoolNode:
		return v.Value
	case *ast.FloatNode:
		return v.Value
	case *ast.IntegerNode:
		switch value := v.Value.(type) {
		case uint64:
			return float64(value)
		case int64:
			return float64(value)
		}
	}
	r.fault(lineOf(n, line), path, "must be a mapping, a list, a string, a number, true, false or null")
	return nil
}
