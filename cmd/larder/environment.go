package main

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/berthcare/larder/cmd/larder/setting"
)

// An environment holds environment variables by name.
type environment map[string]string

// environmentOf returns the variables that [os.Environ] lists.
func environmentOf(list []string) environment {
	env := make(environment, len(list))
	for _, variable := range list {
		if name, value, ok := strings.Cut(variable, "="); ok {
			env[name] = value
		}
	}
	return env
}

// value returns the value of a variable. An empty variable counts as unset, since Compose and Kubernetes pass unset variables
// on as empty ones. A line break at the end is left out: the commands that make secrets add one, and no setting ends with one.
func (e environment) value(name string) string { return strings.TrimRight(e[name], "\r\n") }

// An envResolver resolves the flags that are not on the command line from their environment variables.
type envResolver struct {
	env    environment
	faults []error // values that could not be parsed
}

// Validate accepts every variable: those that no flag has are looked at by unknown.
func (*envResolver) Validate(*kong.Application) error { return nil }

// Resolve returns the value of a flag's variable, or nil if the variable is unset or cannot be parsed. It parses the value
// itself before kong does, so that all faults are reported at once and each names its variable.
func (r *envResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		value := r.env.value(name)
		if value == "" {
			continue
		}
		scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value})
		trial := reflect.New(flag.Target.Type()).Elem()
		if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, trial); err != nil {
			r.faults = append(r.faults, fmt.Errorf("%s: %w", name, err))
			return nil, nil
		}
		return value, nil
	}
	return nil, nil
}

// durations decodes the values of flags that are durations.
var durations = kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := setting.ParseDuration(text)
	if err != nil {
		return err
	}
	target.Set(reflect.ValueOf(d))
	return nil
})

// The prefixes of the variables of settings. Those that begin with own belong to Larder alone; Redis has other clients.
const (
	own        = "LARDER_"
	redisOwned = "REDIS_"
)

// unknown returns a fault for each variable that begins with LARDER_ and is no setting, and a hint for each that begins with
// REDIS_ and is close to one. Neither has the value of a variable.
func (e environment) unknown(known []string) (faults []error, hints []string) {
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if e.value(name) == "" || slices.Contains(known, name) || e.ofKubernetes(name) {
			continue
		}
		switch meant := meantBy(name, known); {
		case strings.HasPrefix(name, own) && meant != "":
			faults = append(faults, fmt.Errorf("%s: is not a setting; did you mean %s?", name, meant))
		case strings.HasPrefix(name, own):
			faults = append(faults, fmt.Errorf("%s: is not a setting; larder serve --help lists them", name))
		case strings.HasPrefix(name, redisOwned) && meant != "":
			hints = append(hints, fmt.Sprintf("%s is not a setting of Larder; did you mean %s?", name, meant))
		}
	}
	return faults, hints
}

// meantBy returns the variable that was likely meant by another one, or "".
func meantBy(name string, known []string) string {
	if rest := strings.TrimPrefix(name, own); rest != name && slices.Contains(known, rest) {
		return rest // LARDER_REDIS_URL
	}
	if slices.Contains(known, own+name) {
		return own + name // REDIS_TIMEOUT
	}
	for _, prefix := range []string{own, redisOwned} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		var rests []string
		for _, k := range known {
			if k, ok := strings.CutPrefix(k, prefix); ok {
				rests = append(rests, k)
			}
		}
		if closest := setting.Closest(rest, rests); closest != "" {
			return prefix + closest
		}
	}
	return ""
}

var (
	serviceLink  = regexp.MustCompile(`^(.+)_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$`)
	portLink     = regexp.MustCompile(`_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$`)
	portLinkForm = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// ofKubernetes reports whether Kubernetes has made a variable for a Service, such as one named larder or larder-admin.
func (e environment) ofKubernetes(name string) bool {
	if m := serviceLink.FindStringSubmatch(name); m != nil {
		return e[m[1]+"_SERVICE_HOST"] != "" && e[m[1]+"_SERVICE_PORT"] != ""
	}
	if m := portLink.FindStringSubmatch(name); m != nil {
		return m[1] != "" || portLinkForm.MatchString(e[name])
	}
	return false
}
