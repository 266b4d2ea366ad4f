package main

import (
	"cmp"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/session"
)

// A policyError says what is wrong with the text of a policy.
type policyError struct {
	line int
	what string
}

// Error returns what is wrong, without the line.
func (e *policyError) Error() string { return e.what }

// parsePolicy reads a policy in YAML, of which JSON is a part. Lines are those of all fields, by their paths.
func parsePolicy(text []byte) (p *policy.Policy, lines map[string]int, err error) {
	defer func() {
		if recover() != nil { // a file must never end a running server, whatever the library makes of it
			err = &policyError{1, "cannot be read as YAML"}
		}
	}()
	tokens := lexer.Tokenize(string(text))
	if err := onlyMappings(tokens); err != nil {
		return nil, nil, err
	}
	file, err := parser.Parse(tokens, 0)
	switch {
	case err != nil:
		return nil, nil, located(err, 1, "")
	case len(file.Docs) == 0 || len(file.Docs) == 1 && file.Docs[0].Body == nil:
		return nil, nil, &policyError{1, "is empty; {} is a policy that changes nothing"} // it may be about to be written
	case len(file.Docs) > 1:
		return nil, nil, &policyError{1, "must be one YAML document"}
	}
	r := policyReader{lines: make(map[string]int)}
	p = new(policy.Policy)
	err = r.mapping("", file.Docs[0].Body, map[string]read{
		"cache":    section(&r, &p.Cache),
		"sessions": section(&r, &p.Sessions),
	})
	return p, r.lines, err
}

// onlyMappings refuses what no policy has: parsing many thousands of nested lists would take all memory.
func onlyMappings(tokens token.Tokens) error {
	depth := 0
	for _, t := range tokens {
		what := ""
		switch t.Type {
		case token.SequenceStartType, token.SequenceEntryType:
			what = "a policy has no lists"
		case token.AnchorType, token.AliasType:
			what = "must be written out, without anchors and aliases"
		case token.MappingKeyType:
			what = "keys must be plain"
		case token.MappingStartType:
			if depth++; depth > maxPolicyDepth {
				what = "braces are nested too deeply"
			}
		case token.MappingEndType:
			depth--
		default:
		}
		if what != "" {
			return &policyError{t.Position.Line, what}
		}
	}
	return nil
}

// A policyReader walks through the outer levels of a policy, and leaves the fields to yaml.
type policyReader struct{ lines map[string]int }

// A read takes in the value of one key.
type read func(path string, value *ast.MappingValueNode) error

func section[P any](r *policyReader, s *policy.Section[P]) read {
	return func(path string, value *ast.MappingValueNode) error {
		return r.mapping(path, value.Value, map[string]read{
			"defaults": func(path string, value *ast.MappingValueNode) error {
				return fieldsOf(r, path, value.Value, &s.Defaults)
			},
			"namespaces": func(path string, value *ast.MappingValueNode) error {
				s.Namespaces = make(map[string]P)
				return r.each(path, value.Value, func(path, name string, value *ast.MappingValueNode) error {
					var p P
					err := fieldsOf(r, path, value.Value, &p)
					s.Namespaces[name] = p
					return err
				})
			},
		})
	}
}

// fieldsOf reads the fields of a policy one by one, so that whatever is wrong has a line.
func fieldsOf[P any](r *policyReader, path string, node ast.Node, p *P) error {
	return r.each(path, node, func(path, _ string, value *ast.MappingValueNode) error {
		switch value.Value.Type() {
		case ast.NullType:
			return &policyError{r.lines[path], path + ": must not be null"}
		case ast.FloatType: // yaml would round it
			return &policyError{r.lines[path], path + ": must not be a fraction"}
		default:
		}
		if err := yaml.NodeToValue(value, p, yaml.Strict()); err != nil {
			return located(err, r.lines[path], path)
		}
		return nil
	})
}

func (r *policyReader) mapping(path string, node ast.Node, keys map[string]read) error {
	return r.each(path, node, func(path, name string, value *ast.MappingValueNode) error {
		if read := keys[name]; read != nil {
			return read(path, value)
		}
		return &policyError{r.lines[path], path + ": is not known"}
	})
}

// each calls do for every key of a mapping, which may be left out.
func (r *policyReader) each(path string, node ast.Node, do func(path, name string, value *ast.MappingValueNode) error) error {
	if node == nil || node.Type() == ast.NullType {
		return nil
	}
	mapping, ok := node.(ast.MapNode)
	if !ok {
		return &policyError{node.GetToken().Position.Line, cmp.Or(path, "the policy") + ": must be a mapping"}
	}
	if path != "" {
		path += "."
	}
	for values := mapping.MapRange(); values.Next(); {
		key := values.Key().GetToken()
		r.lines[path+key.Value] = key.Position.Line
		if err := do(path+key.Value, key.Value, values.KeyValue()); err != nil {
			return err
		}
	}
	return nil
}

// forms say what values of a type look like.
var forms = map[reflect.Type]string{
	reflect.TypeFor[time.Duration]():       "must be a duration, such as 30s or 12h",
	reflect.TypeFor[int]():                 "must be a whole number",
	reflect.TypeFor[bool]():                "must be true or false",
	reflect.TypeFor[policy.Preset]():       "must be a name",
	reflect.TypeFor[session.LimitPolicy](): "must be a name",
}

// located says in one line what yaml finds wrong with the value of a path, or with the text as a whole.
func located(err error, line int, path string) error {
	var what string
	var positioned yaml.Error
	if errors.As(err, &positioned) {
		what = positioned.GetMessage() // Error would draw the whole line
		if token := positioned.GetToken(); token != nil {
			line = token.Position.Line
		}
	} else {
		what = err.Error()
	}
	var unknown *yaml.UnknownFieldError
	var wrongType *yaml.TypeError
	var overflow *yaml.OverflowError
	switch {
	case errors.As(err, &unknown):
		what = "is not known"
	case errors.As(err, &wrongType):
		what = cmp.Or(forms[wrongType.DstType], "cannot be read")
	case errors.As(err, &overflow):
		what = "is too large"
	case strings.HasPrefix(what, "time: "):
		what = forms[reflect.TypeFor[time.Duration]()]
	}
	if path != "" {
		what = path + ": " + what
	}
	return &policyError{line, what}
}
