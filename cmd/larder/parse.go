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

// parse reads a command line and the environment. The command is nil when help was asked for and has been printed.
//
// The environment is resolved here and not by kong, which would repeat a value that it cannot read, secret or not, and
// would stop at the first. An empty variable counts as unset: that is how Compose and Kubernetes pass one on.
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
			flag.Tag.Envs = nil // resolved by env; flag.Envs still names the variable
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
	switch asked := line.Selected().Target.Addr().Interface().(type) {
	case *serveCommand:
		asked.given, asked.faults = given(line), faults // shown together with what Options finds
		return asked, nil
	case command:
		return asked, errors.Join(faults...)
	default:
		return nil, fmt.Errorf("%s cannot be run", line.Command())
	}
}

// An environment gives flags that are not on the command line the values of their variables.
type environment struct {
	lookup lookupEnv
	faults []error
}

// Validate has nothing to check: a variable may be meant for somebody else.
func (*environment) Validate(*kong.Application) error { return nil }

// Resolve returns the value of a flag's variable, or nil if there is none to use. It tries the value first, so that all
// faults are known at once and each names its variable.
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

// given names the variables of all settings that were made, on the command line or in the environment.
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

// secretsIn finds the secrets on the command line, which every user of the machine can read.
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

// help prints what kong prints, and then the secrets, which have no flag.
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

// describe is the help of one flag, with its variable.
func describe(value *kong.Value) string {
	if value.Flag == nil || len(value.Flag.Envs) == 0 {
		return value.Help
	}
	return fmt.Sprintf("%s ($%s).", strings.TrimSuffix(value.Help, "."), strings.Join(value.Flag.Envs, ", $"))
}
