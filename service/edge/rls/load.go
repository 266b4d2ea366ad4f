package rls

import (
	"fmt"
	"slices"
	"strings"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/goccy/go-yaml/ast"
	"google.golang.org/protobuf/types/known/structpb"
)

// LoadOptions says how files are put together.
type LoadOptions struct {
	// MergeDomains lets several files have rules of one domain, as MERGE_DOMAIN_CONFIG does for envoyproxy/ratelimit.
	// Without it, a domain that is in two files is a fault.
	MergeDomains bool
}

// Load makes a configuration of files. Its errors are [LoadErrors], which name file, line and path of every mistake up to
// maxFaults.
func Load(files []File, o LoadOptions) (*Config, error) {
	c := &Config{domains: make(map[string]*level)}
	var faults LoadErrors
	lines := make(map[*Rule]int)
	for _, file := range files {
		if file.isExtension() {
			continue
		}
		l := loader{reader: reader{file: file.Path}, config: c, options: o, lines: lines}
		l.root(l.document(file.Text))
		faults = append(faults, l.faults...)
		c.Warnings = append(c.Warnings, l.warnings...)
	}
	if len(files) > 0 && len(c.domains) == 0 && len(faults) == 0 {
		faults = append(faults, &LoadError{File: files[0].Path, Problem: "no file has a domain"})
	}
	if len(faults) == 0 { // the extensions are about rules that may be in a broken file
		for _, file := range files {
			if file.isExtension() {
				e := extender{reader: reader{file: file.Path}, config: c}
				e.root(e.document(file.Text))
				faults = append(faults, e.faults...)
				c.Warnings = append(c.Warnings, e.warnings...)
			}
		}
	}
	if len(faults) > 0 {
		faults = faults.sorted()
		return nil, faults[:min(len(faults), maxFaults)]
	}
	return c, nil
}

// Keys of the files. A key of another place than its own is a warning, because other implementations ignore it, and a key
// that is in none of these lists is a fault, because they refuse it.
var (
	rootKeys       = []string{"domain", "descriptors"}
	descriptorKeys = []string{
		"key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "share_threshold", "metadata",
	}
	limitKeys    = []string{"requests_per_unit", "unit", "unlimited", "name", "replaces"}
	replacesKeys = []string{"name"}
	allKeys      = slices.Concat(rootKeys, descriptorKeys, limitKeys)
)

// A loader adds one file to a configuration.
type loader struct {
	reader
	config  *Config
	options LoadOptions
	lines   map[*Rule]int
}

// known returns those fields of a mapping that belong there, by name.
func (l *loader) known(n ast.Node, path string, line int, keys []string) map[string]field {
	known := make(map[string]field)
	for _, f := range l.fields(n, path, line) {
		switch {
		case slices.Contains(keys, f.name):
			known[f.name] = f
		case slices.Contains(allKeys, f.name):
			l.warn(f.line, f.path, "has no effect here")
		default:
			l.fault(f.line, f.path, "is not known")
		}
	}
	return known
}

func (l *loader) root(n ast.Node) {
	if n == nil {
		return
	}
	before := len(l.faults)
	fields := l.known(n, "", 1, rootKeys)
	domain := l.text(fields["domain"])
	if domain == "" {
		if len(l.faults) == before {
			l.fault(max(fields["domain"].line, 1), "domain", "must not be empty")
		}
		return
	}
	at := l.config.domains[domain]
	switch {
	case at == nil:
		at = newLevel()
		l.config.domains[domain] = at
	case !l.options.MergeDomains:
		l.fault(fields["domain"].line, "domain", "%q is in another file too; a domain must be in one file, unless domains are merged", domain)
		return
	}
	l.descriptors(fields["descriptors"], at, domain, domain, 1)
}

func newLevel() *level { return &level{byKey: make(map[string]*node)} }

// descriptors adds a list of descriptors to a level. Parent is the path of the rule above, or the domain.
func (l *loader) descriptors(f field, to *level, domain, parent string, depth int) {
	if depth > maxDepth {
		l.fault(f.line, f.path, "is nested more than %d times", maxDepth)
		return
	}
	for i, item := range l.list(f) {
		path := fmt.Sprintf("%s[%d]", f.path, i)
		if _, ok := l.resolve(item).(ast.MapNode); !ok {
			l.fault(lineOf(item, f.line), path, "must be a mapping")
			continue
		}
		l.descriptor(item, path, lineOf(item, f.line), to, domain, parent, depth)
	}
}

func (l *loader) descriptor(item ast.Node, path string, line int, to *level, domain, parent string, depth int) {
	fields := l.known(item, path, line, descriptorKeys)
	if key, ok := fields["key"]; ok {
		line = key.line
	}
	pattern := l.text(fields["key"])
	if pattern == "" {
		l.fault(line, path+".key", "must not be empty")
		return
	}
	if value := l.text(fields["value"]); value != "" {
		pattern += "_" + value
	}
	full := parent + "." + pattern
	if to.byKey[pattern] != nil {
		l.fault(line, path, "%s is there already", full)
		return
	}
	n := &node{pattern: pattern, share: l.boolean(fields["share_threshold"])}
	if n.share && !strings.Contains(pattern, "*") {
		l.fault(fields["share_threshold"].line, fields["share_threshold"].path, "needs a value with *")
	}
	// Names of metrics never contain values of requests, so these two have no effect; they are checked all the same.
	_, _ = l.boolean(fields["detailed_metric"]), l.boolean(fields["value_to_metric"])
	shadow, quota := l.boolean(fields["shadow_mode"]), l.boolean(fields["quota_mode"])
	metadata := l.metadata(fields["metadata"])
	if f, ok := fields["rate_limit"]; ok && !isNull(l.resolve(f.value)) {
		n.rule = l.limit(f)
		n.rule.Domain, n.rule.Path, n.rule.Shadow, n.rule.Quota, n.rule.Metadata = domain, full, shadow, quota, metadata
		l.config.rules = append(l.config.rules, n.rule)
	}
	to.byKey[pattern] = n
	if strings.Contains(pattern, "*") {
		to.wildcards = append(to.wildcards, n)
	}
	if below, ok := fields["descriptors"]; ok && len(l.list(below)) > 0 {
		n.below = newLevel()
		l.descriptors(below, n.below, domain, full, depth+1)
	}
}

// limit reads a rate_limit.
func (l *loader) limit(f field) *Rule {
	fields := l.known(f.value, f.path, f.line, limitKeys)
	r := &Rule{
		RequestsPerUnit: l.number(fields["requests_per_unit"]), Unlimited: l.boolean(fields["unlimited"]), Name: l.text(fields["name"]),
		Algorithm: FixedWindow,
	}
	name := l.text(fields["unit"])
	unit := Unit(envoy.RateLimitResponse_RateLimit_Unit_value[strings.ToUpper(name)])
	r.Period = lengths[unit]
	switch at := fields["unit"]; {
	case r.Unlimited && r.Period > 0:
		l.fault(at.line, at.path, "must not be set for a rule that is unlimited")
	case r.Unlimited && name != "":
		l.warn(at.line, at.path, "has no effect here")
	case r.Unlimited:
	case r.Period == 0 && at.line == 0:
		l.fault(f.line, f.path+".unit", "must be second, minute, hour, day, week, month or year, or unlimited must be true")
	case r.Period == 0:
		l.fault(at.line, at.path, "must be second, minute, hour, day, week, month or year")
	}
	r.Unit = unit
	for i, item := range l.list(fields["replaces"]) {
		path := fmt.Sprintf("%s.replaces[%d]", f.path, i)
		line := lineOf(item, fields["replaces"].line)
		switch replaced := l.text(l.known(item, path, line, replacesKeys)["name"]); replaced {
		case "":
			l.fault(line, path+".name", "must not be empty")
		case r.Name:
			l.fault(line, path+".name", "must not be the name of the rule itself")
		default:
			r.Replaces = append(r.Replaces, replaced)
		}
	}
	return r
}

// metadata reads a mapping of any depth; nil without one.
func (l *loader) metadata(f field) *structpb.Struct {
	if isNull(l.resolve(f.value)) {
		return nil
	}
	value, ok := l.value(f.value, f.path, f.line, 1).(map[string]any)
	if !ok {
		l.fault(f.line, f.path, "must be a mapping")
		return nil
	}
	s, err := structpb.NewStruct(value)
	if err != nil { // text that is not UTF-8
		l.fault(f.line, f.path, "must be UTF-8")
	}
	return s
}
