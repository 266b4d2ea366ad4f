package main

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/berthcare/larder/service/policy"
)

// rateLimits returns a function that reads the rules of rate limits: defaults, and those of namespaces.
func rateLimits(r *policyReader, s *policy.Section[policy.RateLimits]) readFunc {
	return func(path string, value *ast.MappingValueNode) error {
		return r.mapping(path, value.Value, map[string]readFunc{
			"defaults": func(path string, value *ast.MappingValueNode) (err error) {
				s.Defaults, err = rateLimitRules(r, path, value.Value)
				return err
			},
			"namespaces": func(path string, value *ast.MappingValueNode) error {
				s.Namespaces = make(map[string]policy.RateLimits)
				return r.each(path, value.Value, func(path, name string, value *ast.MappingValueNode) (err error) {
					s.Namespaces[name], err = rateLimitRules(r, path, value.Value)
					return err
				})
			},
		})
	}
}

// rateLimitRules reads the rules of one namespace.
func rateLimitRules(r *policyReader, path string, node ast.Node) (policy.RateLimits, error) {
	rules := make(policy.RateLimits)
	err := r.each(path, node, func(path, name string, value *ast.MappingValueNode) error {
		var rule policy.RateLimit
		err := fieldsOf(r, path, value.Value, &rule)
		rules[name] = rule
		return err
	})
	return rules, err
}
