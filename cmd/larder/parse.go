package main

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/berthcare/larder/cmd/larder/bench"
	"github.com/berthcare/larder/cmd/larder/setting"
)

// lookupEnv reads an environment variable, as os.LookupEnv does.
type lookupEnv func(name string) (value string, ok bool)

// parse reads a command line and the environment. The command is nil if the command line asks for help, which parse prints.
//
// parse resolves the environment itself: kong would stop at the first value that it cannot parse, and repeat that value in
// its error, secret or not. An empty variable counts as unset, since Compose and Kubernetes pass unset variables on as empty
// ones.
func parse(args []string, lookup lookupEnv, stdout io.Writer) (command, error) {
	all := commands{Bench: bench.Command{Version: release()}}
	helped := false
	env := &environment{lookup: lookup}
	parser, err := kong.New(&all,
		kong.Name("larder"),
		kong.Description("A shared cache and session store over gRPC, kept in Redis."),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { helped = true }),
		kong.Help(help),
		kong.ValueFormatter(describe),
		kong.Resolvers(env),
	)
	if err != nil {
		return nil, err
	}
	for _, node := range parser.Model.Children {
		for _, flag := range node.Flags {
			flag.Tag.Envs = nil // keeps kong from resolving them; flag.Envs still names them
		}
	}
	line, err := parser.Parse(args)
	switch {
	case helped:
		return nil, nil
	case err != nil:
		return nil, err
	}
	faults := slices.Concat(env.faults, secretsIn(line))
	switch chosen := line.Selected().Target.Addr().Interface().(type) {
	case *serveCommand:
		chosen.given, chosen.faults = given(line), faults // Options reports them together with its own
		return chosen, nil
	case command:
		return chosen, errors.Join(faults...)
	default:
		return nil, fmt.Errorf("%s cannot be run", line.Command())
	}
}

// An environment resolves the flags that are not on the command line from their environment variables.
type environment struct {
	lookup lookupEnv
	faults []error // values that could not be parsed
}

// Validate accepts every variable: those that no flag has belong to other programs.
func (*environment) Validate(*kong.Application) error { return nil }

// Resolve returns the value of a flag's variable, or nil if the variable is unset or cannot be parsed. It parses the value
// itself before kong does, so that all faults are reported at once and each names its variable.
func (e *environment) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		value, _ := e.lookup(name)
		if value == "" {
			continue
		}
		scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value})
		trial := reflect.New(flag.Target.Type()).Elem()
		if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, trial); err != nil {
			e.faults = append(e.faults, fmt.Errorf("%s: %w", name, err))
			return nil, nil
		}
		return value, nil
	}
	return nil, nil
}

// given returns the variables of all settings that are on the command line or in the environment.
func given(line *kong.Context) map[string]bool {
	names := make(map[string]bool)
	for _, step := range line.Path {
		if step.Flag == nil {
			continue
		}
		for _, name := range step.Flag.Envs {
			names[name] = true
		}
	}
	return names
}

// secretsIn returns an error for each secret on the command line, which every user of the machine can read.
func secretsIn(line *kong.Context) []error {
	var faults []error
	for _, step := range line.Path {
		if step.Flag == nil || step.Resolved {
			continue
		}
		switch value := step.Flag.Target.Interface().(type) {
		case setting.Secret:
			faults = append(faults, fmt.Errorf("--%s is refused, the process list would show it: set %s or %[2]s_FILE", step.Flag.Name, step.Flag.Envs[0]))
		case setting.RedisURL:
			if _, password := value.Credentials(); password != "" {
				faults = append(faults, errors.New("--redis-url with a password is refused, the process list would show it: set REDIS_URL or REDIS_PASSWORD"))
			}
		}
	}
	return faults
}

// help prints kong's help of the flags, and then the secrets, which can be set in the environment only.
func help(options kong.HelpOptions, line *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, line); err != nil {
		return err
	}
	node := line.Selected()
	if node == nil {
		return nil
	}
	title := "\nSecrets, from the environment only:\n"
	for _, flag := range node.Flags {
		if _, secret := flag.Target.Interface().(setting.Secret); !secret {
			continue
		}
		if _, err := fmt.Fprintf(line.Stdout, "%s  $%-26s %s\n", title, flag.Envs[0], flag.Help); err != nil {
			return err
		}
		title = ""
	}
	return nil
}

// describe returns the help of a flag, followed by its variables.
func describe(value *kong.Value) string {
	if value.Flag == nil || len(value.Flag.Envs) == 0 {
		return value.Help
	}
	return fmt.Sprintf("%s ($%s).", strings.TrimSuffix(value.Help, "."), strings.Join(value.Flag.Envs, ", $"))
}
