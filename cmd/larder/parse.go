package main

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/berthcare/larder/cmd/larder/bench"
	"github.com/berthcare/larder/cmd/larder/setting"
)

// parse reads a command line and the environment. The command is nil if the command line asks for help, which parse prints.
//
// parse resolves the environment itself: kong would stop at the first value that it cannot parse, and repeat that value in
// its error, secret or not.
func parse(args []string, env environment, stdout io.Writer) (command, error) {
	all := commands{Bench: bench.Command{Version: release()}}
	helped := false
	resolved := &envResolver{env: env}
	parser, err := kong.New(&all,
		kong.Name("larder"),
		kong.Description("A shared cache and session store over gRPC, kept in Redis."),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { helped = true }),
		kong.Help(help),
		kong.ValueFormatter(describe),
		kong.Resolvers(resolved),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), durations),
	)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, node := range parser.Model.Children {
		for _, flag := range node.Flags {
			known = append(known, flag.Envs...)
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
	unknown, hints := env.unknown(known)
	faults := slices.Concat(resolved.faults, secretsIn(line))
	switch chosen := line.Selected().Target.Addr().Interface().(type) {
	case *serveCommand:
		// Options reports the faults together with its own.
		chosen.given, chosen.faults, chosen.hints = given(line), slices.Concat(unknown, faults), hints
		return chosen, nil
	case command:
		return chosen, errors.Join(faults...)
	default:
		return nil, fmt.Errorf("%s cannot be run", line.Command())
	}
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
