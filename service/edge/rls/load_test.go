package rls

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// load loads one file.
func load(t testing.TB, text string) *Config {
	t.Helper()
	return loadFiles(t, LoadOptions{}, File{"a.yaml", []byte(text)})
}

func loadFiles(t testing.TB, o LoadOptions, files ...File) *Config {
	t.Helper()
	c, err := Load(files, o)
	if err != nil {
		t.Fatalf("Load = %v, want nil", err)
	}
	return c
}

// Each is a file that the README of envoyproxy/ratelimit describes, or a shape that its users have.
func TestFilesOfOtherImplementationsLoad(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"values and nesting": {`
domain: messaging
descriptors:
  # at most 5 marketing messages a day to one number
  - key: message_type
    value: marketing
    descriptors:
      - key: to_number
        rate_limit:
          unit: day
          requests_per_unit: 5
  - key: to_number
    rate_limit: {unit: DAY, requests_per_unit: 100}
`, `messaging.message_type_marketing.to_number: unit=DAY requests_per_unit=5, shadow_mode: false
messaging.to_number: unit=DAY requests_per_unit=100, shadow_mode: false
`},
		"a limit beside nested ones, zero, unlimited and shadow": {`---
domain: rl
descriptors:
  - key: foo
    rate_limit:
      unit: minute
      requests_per_unit: 2
    descriptors:
      - key: bar
        value: banned
        rate_limit: {unit: minute, requests_per_unit: 0}
      - key: bay
        rate_limit:
          unlimited: true
      - key: baz
        value: shady
        rate_limit: {unit: second, requests_per_unit: 1}
        shadow_mode: true
`, `rl.foo: unit=MINUTE requests_per_unit=2, shadow_mode: false
rl.foo.bar_banned: unit=MINUTE requests_per_unit=0, shadow_mode: false
rl.foo.bay: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, unlimited: true
rl.foo.baz_shady: unit=SECOND requests_per_unit=1, shadow_mode: true
`},
		"every unit": {`
domain: u
descriptors:
  - {key: a, rate_limit: {unit: second, requests_per_unit: 1}}
  - {key: b, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: c, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: d, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: e, rate_limit: {unit: week, requests_per_unit: 1}}
  - {key: f, rate_limit: {unit: Month, requests_per_unit: 1}}
  - {key: g, rate_limit: {unit: year, requests_per_unit: 4294967295}}
`, `u.a: unit=SECOND requests_per_unit=1, shadow_mode: false
u.b: unit=MINUTE requests_per_unit=1, shadow_mode: false
u.c: unit=HOUR requests_per_unit=1, shadow_mode: false
u.d: unit=DAY requests_per_unit=1, shadow_mode: false
u.e: unit=WEEK requests_per_unit=1, shadow_mode: false
u.f: unit=MONTH requests_per_unit=1, shadow_mode: false
u.g: unit=YEAR requests_per_unit=4294967295, shadow_mode: false
`},
		"names, replaces, quota, metrics, sharing and metadata": {`
domain: all
descriptors:
  - key: a
    value: x*
    share_threshold: true
    value_to_metric: true
    rate_limit: {name: one, unit: hour, requests_per_unit: 1}
  - key: b
    detailed_metric: true
    quota_mode: true
    metadata: {tier: {name: gold, order: 1}, tags: [a, true, null, 1.5]}
    rate_limit:
      unit: hour
      requests_per_unit: 1
      replaces:
        - name: one
`, `all.a_x*: unit=HOUR requests_per_unit=1, shadow_mode: false
all.b: unit=HOUR requests_per_unit=1, shadow_mode: false, quota_mode: true
`},
		"values that YAML 1.1 takes for numbers and booleans": {`
domain: 7
descriptors:
  - {key: port, value: 443, rate_limit: {unit: second, requests_per_unit: 1}}
  - {key: on, value: yes, shadow_mode: yes, rate_limit: {unit: second, requests_per_unit: 0x10}}
  - {key: empty, value: null, rate_limit: {unit: second, requests_per_unit: 1}}
`, `7.port_443: unit=SECOND requests_per_unit=1, shadow_mode: false
7.on_yes: unit=SECOND requests_per_unit=16, shadow_mode: true
7.empty: unit=SECOND requests_per_unit=1, shadow_mode: false
`},
		"anchors, aliases and merged mappings": {`
domain: anchors
descriptors:
  - key: a
    rate_limit: &slow
      unit: hour
      requests_per_unit: 1
  - key: b
    rate_limit: *slow
  - key: c
    rate_limit:
      <<: *slow
      requests_per_unit: 2
`, `anchors.a: unit=HOUR requests_per_unit=1, shadow_mode: false
anchors.b: unit=HOUR requests_per_unit=1, shadow_mode: false
anchors.c: unit=HOUR requests_per_unit=2, shadow_mode: false
`},
		"a domain without rules":       {"domain: empty\n", ""},
		"a domain with a null list":    {"domain: empty\ndescriptors:\n", ""},
		"a descriptor without a limit": {"domain: d\ndescriptors: [{key: allowed}]\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := load(t, tt.text)
			if diff := cmp.Diff(tt.want, c.Dump()); diff != "" || len(c.Warnings) > 0 {
				t.Errorf("rules (-want +got):\n%s\nwarnings = %q, want none", diff, c.Warnings)
			}
		})
	}
}

// A file that other implementations refuse is refused, with the line and the path of each mistake.
func TestFaultsNameFileLineAndPath(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"empty":                    {"", "a.yaml:1: is empty"},
		"only a comment":           {"# nothing yet\n", "a.yaml:1: is empty"},
		"no YAML":                  {"domain: [\n", "a.yaml:1: sequence end token ']' not found"},
		"brackets within brackets": {"domain: " + strings.Repeat("[", 33), "a.yaml:1: has more than 32 nested braces"},
		"a list":                   {"- domain: d\n", "a.yaml:1: must be a mapping"},
		"no domain":                {"descriptors: []\n", "a.yaml:1: domain: must not be empty"},
		"an empty domain":          {"\ndomain: ''\n", "a.yaml:2: domain: must not be empty"},
		"an unknown key":           {"domain: d\nlimits: []\n", "a.yaml:2: limits: is not known"},
		"a key that is twice":      {"domain: d\ndomain: e\n", `a.yaml:2: mapping key "domain" already defined at [1:1]`},
		"descriptors as a mapping": {
			"domain: d\ndescriptors:\n  key: a\n", "a.yaml:3: descriptors: must be a list",
		},
		"a descriptor that is a word": {
			"domain: d\ndescriptors:\n  - key: a\n  - b\n", "a.yaml:4: descriptors[1]: must be a mapping",
		},
		"a descriptor that is null": {"domain: d\ndescriptors: [null]\n", "a.yaml:2: descriptors[0]: must be a mapping"},
		"no key":                    {"domain: d\ndescriptors:\n  - value: x\n", "a.yaml:3: descriptors[0].key: must not be empty"},
		"the same key and value twice": {
			"domain: d\ndescriptors:\n  - key: a\n    value: b\n  - key: a_b\n", "a.yaml:5: descriptors[1]: d.a_b is there already",
		},
		"an unknown unit": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit:\n      unit: fortnight\n      requests_per_unit: 1\n",
			"a.yaml:5: descriptors[0].rate_limit.unit: must be second, minute, hour, day, week, month or year",
		},
		"no unit": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit:\n      requests_per_unit: 1\n",
			"a.yaml:4: descriptors[0].rate_limit.unit: must be second, minute, hour, day, week, month or year, or unlimited must be true",
		},
		"a unit of a rule that is unlimited": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit:\n      unlimited: true\n      unit: day\n",
			"a.yaml:6: descriptors[0].rate_limit.unit: must not be set for a rule that is unlimited",
		},
		"a limit below zero": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day, requests_per_unit: -1}\n",
			"a.yaml:4: descriptors[0].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295",
		},
		"a limit above 32 bits": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day, requests_per_unit: 4294967296}\n",
			"a.yaml:4: descriptors[0].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295",
		},
		"a rule that replaces itself": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day, name: n, replaces: [{name: n}]}\n",
			"a.yaml:4: descriptors[0].rate_limit.replaces[0].name: must not be the name of the rule itself",
		},
		"a rule that replaces nothing": {
			"domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day, name: n, replaces: [{name: ''}]}\n",
			"a.yaml:4: descriptors[0].rate_limit.replaces[0].name: must not be empty",
		},
		"sharing without *": {
			"domain: d\ndescriptors:\n  - key: a\n    value: b\n    share_threshold: true\n",
			"a.yaml:5: descriptors[0].share_threshold: needs a value with *",
		},
		"a fraction for a value": {
			"domain: d\ndescriptors:\n  - key: a\n    value: 1.50\n", "a.yaml:4: descriptors[0].value: must be a string: put it in quotes",
		},
		"a word for a boolean": {
			"domain: d\ndescriptors:\n  - key: a\n    shadow_mode: maybe\n", "a.yaml:4: descriptors[0].shadow_mode: must be true or false",
		},
		"an unknown key, three levels below": {
			"domain: d\ndescriptors:\n  - key: a\n    descriptors:\n      - key: b\n        rate_limit:\n          unit: day\n          burst: 5\n",
			"a.yaml:8: descriptors[0].descriptors[0].rate_limit.burst: is not known",
		},
		"all mistakes at once": {
			"domain: d\ndescriptors:\n  - key: a\n    limit: 1\n  - value: c\n  - key: e\n    rate_limit: {unit: eon}\n",
			"a.yaml:4: descriptors[0].limit: is not known\na.yaml:5: descriptors[1].key: must not be empty\n" +
				"a.yaml:7: descriptors[2].rate_limit.unit: must be second, minute, hour, day, week, month or year",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Load([]File{{"a.yaml", []byte(tt.text)}}, LoadOptions{})
			if err == nil {
				t.Fatalf("Load = %q, want the fault %q", c.Dump(), tt.want)
			}
			if faults := LoadErrors(nil); !errors.As(err, &faults) || err.Error() != tt.want {
				t.Errorf("Load = %v (%T), want the faults %v", err, err, tt.want)
			}
		})
	}
}

// What other implementations ignore has no effect here either, but Larder says so.
func TestKeysWithoutEffectAreWarnings(t *testing.T) {
	t.Parallel()
	c := load(t, `
domain: d
name: n
descriptors:
  - key: a
    unit: hour
    rate_limit:
      unit: day
      requests_per_unit: 1
      shadow_mode: true
  - key: b
    rate_limit: {unlimited: true, unit: forever}
---
domain: e
`)
	want := []string{
		"a.yaml:14: only the first YAML document of a file has an effect",
		"a.yaml:3: name: has no effect here",
		"a.yaml:6: descriptors[0].unit: has no effect here",
		"a.yaml:10: descriptors[0].rate_limit.shadow_mode: has no effect here",
		"a.yaml:12: descriptors[1].rate_limit.unit: has no effect here",
	}
	if diff := cmp.Diff(want, c.Warnings); diff != "" || c.Domains() != 1 || c.Rules()[0].Shadow {
		t.Errorf("warnings (-want +got):\n%s\n%d domains, shadow %t, want 1 and false", diff, c.Domains(), c.Rules()[0].Shadow)
	}
}

func TestDomainInTwoFiles(t *testing.T) {
	t.Parallel()
	a := File{"a.yaml", []byte("domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]\n")}
	b := File{"b.yaml", []byte("domain: d\ndescriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 2}}]\n")}
	again := File{"c.yaml", []byte("domain: d\ndescriptors: [{key: a}]\n")}

	want := `b.yaml:1: domain: "d" is in another file too; a domain must be in one file, unless domains are merged`
	if _, err := Load([]File{a, b}, LoadOptions{}); err == nil || err.Error() != want {
		t.Errorf("Load = %v, want %s", err, want)
	}
	merged := loadFiles(t, LoadOptions{MergeDomains: true}, a, b)
	if got := merged.Dump(); strings.Count(got, "\n") != 2 || merged.Domains() != 1 {
		t.Errorf("merged rules:\n%swant those of both files in one domain", got)
	}
	want = "c.yaml:2: descriptors[0]: d.a is there already"
	if _, err := Load([]File{a, again}, LoadOptions{MergeDomains: true}); err == nil || err.Error() != want {
		t.Errorf("Load of a rule that is in two files = %v, want %s", err, want)
	}
}

func TestFilesOfAFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml": "domain: b\n", "a.yml": "domain: a\n", ".hidden.yaml": "not: read\n", "notes.txt": "not read", "larder.yaml": "rules: {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatalf("WriteFile: %v", err)
		}
	}
	for _, folder := range []string{"below.yaml", "..2026_11_25"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatalf("Mkdir: %v", err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "b.yaml"), filepath.Join(dir, "link.yaml")); err != nil { // as Kubernetes mounts files
		t.Fatalf("Symlink: %v", err)
	}
	files, err := ReadFiles([]string{dir})
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.Path))
	}
	if diff := cmp.Diff([]string{"a.yml", "b.yaml", "larder.yaml", "link.yaml"}, names); diff != "" || err != nil {
		t.Errorf("ReadFiles: %v, files (-want +got):\n%s", err, diff)
	}
	files, err = ReadFiles([]string{filepath.Join(dir, "b.yaml"), filepath.Join(dir, "a.yml")})
	if err != nil || len(files) != 2 || string(files[0].Text) != "domain: b\n" {
		t.Errorf("ReadFiles of two files = %v, %v, want both in their order", files, err)
	}
	missing := filepath.Join(dir, "none.yaml")
	if _, err := ReadFiles([]string{missing}); err == nil || err.Error() != missing+": no such file or directory" {
		t.Errorf("ReadFiles of a missing file = %v, want one line that names it once", err)
	}
	empty := t.TempDir()
	if _, err := ReadFiles([]string{empty}); err == nil || err.Error() != empty+": has no file that ends in .yaml or .yml" {
		t.Errorf("ReadFiles of an empty folder = %v, want a fault", err)
	}
}

const extended = "domain: d\ndescriptors:\n  - {key: a, rate_limit: {unit: minute, requests_per_unit: 10}}\n  - {key: b, rate_limit: {unlimited: true}}\n"

func TestExtensionFile(t *testing.T) {
	t.Parallel()
	rules := File{"rules.yaml", []byte(extended)}
	c := loadFiles(t, LoadOptions{}, File{"conf/larder.yaml", []byte(`
rules:
  d.a:
    algorithm: GCRA
    burst: 20
    period: 15m
    failure_policy: fail_closed
`)}, rules)
	want := &Rule{
		Domain: "d", Path: "d.a", RequestsPerUnit: 10, Period: 15 * 60e9, Algorithm: GCRA, Burst: 20, Failure: FailClosed,
	}
	if diff := cmp.Diff(want, c.Rules()[0], cmpopts.IgnoreUnexported(Rule{})); diff != "" {
		t.Errorf("rule (-want +got):\n%s", diff)
	}
	c = loadFiles(t, LoadOptions{}, rules, File{"larder.yml", []byte("rules: {d.a: {period: 1h, algorithm: sliding_window}}\n")})
	if r := c.Rules()[0]; r.Unit != envoy.RateLimitResponse_RateLimit_HOUR || r.Algorithm != SlidingWindow {
		t.Errorf("a period of an hour has the unit %v and the algorithm %v, want HOUR, sliding_window", r.Unit, r.Algorithm)
	}
	wantDump := "d.a: unit=UNKNOWN requests_per_unit=10, shadow_mode: false, algorithm: gcra, period: 1m30s, burst: 1, failure_policy: local\n"
	c = loadFiles(t, LoadOptions{}, rules, File{"larder.yaml", []byte("rules: {d.a: {period: 90s, algorithm: gcra, burst: 1, failure_policy: local}}\n")})
	if got, _, _ := strings.Cut(c.Dump(), "d.b"); got != wantDump {
		t.Errorf("dump = %q, want %q", got, wantDump)
	}

	for text, want := range map[string]string{
		"rules: {d.c: {}}":                      "larder.yaml:1: rules.d.c: is not the path of a rule, such as domain.key_value.key",
		"rule: {}":                              "larder.yaml:1: rule: is not known",
		"rules:\n  d.a:\n    speed: 1":          "larder.yaml:3: rules.d.a.speed: is not known",
		"rules: {d.a: {algorithm: leaky}}":      "larder.yaml:1: rules.d.a.algorithm: must be fixed_window, sliding_window or gcra",
		"rules: {d.a: {burst: 5}}":              "larder.yaml:1: rules.d.a.burst: needs algorithm: gcra; a window has no burst",
		"rules: {d.a: {period: 1.5s}}":          "larder.yaml:1: rules.d.a.period: must be a duration of whole seconds, such as 90s or 15m, from 1s to 8784h",
		"rules: {d.a: {failure_policy: never}}": "larder.yaml:1: rules.d.a.failure_policy: must be fail_open, fail_closed or local",
	} {
		if _, err := Load([]File{rules, {"larder.yaml", []byte(text)}}, LoadOptions{}); err == nil || err.Error() != want {
			t.Errorf("Load with %s = %v, want %s", text, err, want)
		}
	}
}

// No text makes the loader panic, hang or need more than a little memory, and what it loads it can dump.
func FuzzLoad(f *testing.F) {
	f.Add(extended)
	f.Add("domain: d\ndescriptors: &a\n  - key: k\n    descriptors: *a\n")
	f.Add("domain: d\ndescriptors:\n  - &a\n    key: k\n    <<: *a\n")
	f.Add("domain: *a\n? [x]: y\n")
	f.Add("domain: d\ndescriptors:\n  - key: !!str 5\n    metadata: {a: [1, {b: !!binary aGk=}], 5: .nan, 1.5: 2001-01-01}\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Load([]File{{"a.yaml", []byte(text)}}, LoadOptions{})
		if (c == nil) != (err != nil) {
			t.Fatalf("Load = %v, %v, want one of them", c, err)
		}
		if err != nil {
			if faults := LoadErrors(nil); !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("Load = %v (%T), want faults", err, err)
			}
			return
		}
		if lines := strings.Count(c.Dump(), "shadow_mode: "); lines < len(c.Rules()) {
			t.Fatalf("Dump has %d lines, want %d", lines, len(c.Rules()))
		}
	})
}
