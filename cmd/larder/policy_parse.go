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
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/session"
)

// maxPolicyDepth is the maximum depth of nested braces, which is more than a policy needs.
const maxPolicyDepth = 8

// A policyError is a mistake in the text of a policy.
type policyError struct {
	line int    // the first line is 1
	what string // what is wrong, with the path of the field if it is known
}

// Error returns the mistake without its line.
func (e *policyError) Error() string { return e.what }

// parsePolicy parses a policy in YAML, or in JSON, which is a subset of YAML. Lines has the line of each field by its path,
// such as "cache.defaults.max_ttl". Errors are of type [*policyError].
func parsePolicy(text []byte) (p *policy.Policy, lines map[string]int, err error) {
	defer func() {
		if recover() != nil { // a panic of the library must not end a running server
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
		return nil, nil, &policyError{1, "is empty; {} is a policy that changes nothing"} // the file may be truncated and not written yet
	case len(file.Docs) > 1:
		return nil, nil, &policyError{1, "must be one YAML document"}
	}
	r := policyReader{lines: make(map[string]int)}
	p = new(policy.Policy)
	err = r.mapping("", file.Docs[0].Body, map[string]readFunc{
		"cache":       section(&r, &p.Cache),
		"sessions":    section(&r, &p.Sessions),
		"rate_limits": rateLimits(&r, &p.RateLimits),
		"tokens":      section(&r, &p.Tokens),
	})
	return p, r.lines, err
}

// onlyMappings refuses the parts of YAML that no policy has, before they are parsed: the parser's memory grows with the
// square of the depth of nested lists and braces.
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

// A policyReader walks through the outer levels of a policy and notes the line of each key. The yaml library decodes the
// fields.
type policyReader struct{ lines map[string]int }

// A readFunc reads the value of one key.
type readFunc func(path string, value *ast.MappingValueNode) error

// section returns a function that reads a section of the policy: its defaults and its namespaces.
func section[P any](r *policyReader, s *policy.Section[P]) readFunc {
	return func(path string, value *ast.MappingValueNode) error {
		return r.mapping(path, value.Value, map[string]readFunc{
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

// fieldsOf decodes the fields of a policy one by one, so that each mistake has its line.
func fieldsOf[P any](r *policyReader, path string, node ast.Node, p *P) error {
	return r.each(path, node, func(path, _ string, value *ast.MappingValueNode) error {
		switch value.Value.Type() {
		case ast.NullType:
			return &policyError{r.lines[path], path + ": must not be null"}
		case ast.FloatType: // the library would round it
			return &policyError{r.lines[path], path + ": must not be a fraction"}
		default:
		}
		if err := yaml.NodeToValue(value, p, yaml.Strict()); err != nil {
			return located(err, r.lines[path], path)
		}
		return nil
	})
}

// mapping reads a mapping whose keys must be among keys.
func (r *policyReader) mapping(path string, node ast.Node, keys map[string]readFunc) error {
	return r.each(path, node, func(path, name string, value *ast.MappingValueNode) error {
		if read := keys[name]; read != nil {
			return read(path, value)
		}
		return &policyError{r.lines[path], path + ": is not known"}
	})
}

// each calls do for every key of a mapping. An absent or null mapping has no keys.
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

// forms describes the values of each type.
var forms = map[reflect.Type]string{
	reflect.TypeFor[time.Duration]():       "must be a duration, such as 30s or 12h",
	reflect.TypeFor[int]():                 "must be a whole number",
	reflect.TypeFor[bool]():                "must be true or false",
	reflect.TypeFor[policy.Preset]():       "must be a name",
	reflect.TypeFor[session.LimitPolicy](): "must be a name",

	reflect.TypeFor[int64]():                   "must be a whole number",
	reflect.TypeFor[ratelimit.Algorithm]():     "must be a name",
	reflect.TypeFor[ratelimit.Alignment]():     "must be a name",
	reflect.TypeFor[ratelimit.FailurePolicy](): "must be a name",
}

// located turns an error of the yaml library into one line with a line number. The error is about the value at path, or about
// the whole text if path is empty.
func located(err error, line int, path string) error {
	var what string
	var positioned yaml.Error
	if errors.As(err, &positioned) {
		what = positioned.GetMessage() // Error adds an excerpt of the text
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
