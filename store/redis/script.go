package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by their SHA-1
	"encoding/hex"
	"errors"
	"strings"

	"github.com/redis/rueidis"
)

// Script is a Lua script that Redis runs.
type Script struct {
	name   string
	text   string
	sha    string
	errors map[string]error
	lua    *rueidis.Lua
	// embedded is the script for the embedded store, if it is another one there.
	embedded *Script
}

// NewScript returns a script that may write. Name labels metrics. Errors maps the codes that the script raises, such as
// LARDER_TAGGED, to what they mean.
func NewScript(name, text string, errors map[string]error) *Script {
	return newScript(name, text, errors, rueidis.NewLuaScript(text))
}

// allowOOM begins a script that Redis runs when its memory is full. The embedded store does not know the line, and its memory is
// never full.
const allowOOM = "#!lua flags=allow-oom\n"

// NewFreeingScript returns a script that may write also when Redis has no memory left: one that takes away what is there, such as
// a session or the validity of an entry, and adds little.
func NewFreeingScript(name, text string, errors map[string]error) *Script {
	s := NewScript(name, allowOOM+text, errors)
	s.embedded = NewScript(name, text, errors)
	return s
}

// NewReadScript returns a script that only reads, which Redis runs with EVALSHA_RO. Redis tracks the keys that it declares.
func NewReadScript(name, text string) *Script {
	return newScript(name, text, nil, rueidis.NewLuaScriptReadOnly(text))
}

func newScript(name, text string, errors map[string]error, lua *rueidis.Lua) *Script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // see the import
	return &Script{name: name, text: text, sha: hex.EncodeToString(sum[:]), errors: errors, lua: lua}
}

// Name returns the script's name in metrics.
func (s *Script) Name() string { return s.name }

// Text returns the script itself.
func (s *Script) Text() string { return s.text }

// script returns the script as this client's Redis runs it.
func (c *Client) script(s *Script) *Script {
	if c.options.Mode == Embedded && s.embedded != nil {
		return s.embedded
	}
	return s
}

// Run runs a script on the primary in one round trip.
func (c *Client) Run(ctx context.Context, s *Script, eff Effect, keys []string, args ...string) (rueidis.RedisMessage, error) {
	s = c.script(s)
	return RoundTripTo(ctx, c, firstOf(keys), s.name, eff, func(ctx context.Context, conns *Conns) (rueidis.RedisMessage, error) {
		answer, err := s.lua.Exec(ctx, conns.Primary, keys, args).ToMessage()
		return answer, s.translate(err)
	})
}

// RunRead runs a script that only reads in one round trip. Tracked sends it over the tracked connections, so that the answer
// may be kept in the near cache.
func (c *Client) RunRead(ctx context.Context, s *Script, tracked bool, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return RoundTripTo(ctx, c, firstOf(keys), s.name, Reads, func(ctx context.Context, conns *Conns) (rueidis.RedisMessage, error) {
		client := conns.Primary
		if tracked {
			client = conns.Tracked
		}
		return s.lua.Exec(ctx, client, keys, args).ToMessage()
	})
}

// RunBulk is RunRead over the connections for large answers, for one that is not kept.
func (c *Client) RunBulk(ctx context.Context, s *Script, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return RoundTripTo(ctx, c, firstOf(keys), s.name, Reads, func(ctx context.Context, conns *Conns) (rueidis.RedisMessage, error) {
		return s.lua.Exec(ctx, conns.Bulk, keys, args).ToMessage()
	})
}

// firstOf returns the first key, whose slot is that of all; empty for none.
func firstOf(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[0]
}

// command returns the command that runs the script.
func (s *Script) command(b rueidis.Builder, byHash, readOnly bool, keys, args []string) rueidis.Completed {
	n := int64(len(keys))
	switch {
	case byHash && readOnly:
		return b.EvalshaRo().Sha1(s.sha).Numkeys(n).Key(keys...).Arg(args...).Build()
	case byHash:
		return b.Evalsha().Sha1(s.sha).Numkeys(n).Key(keys...).Arg(args...).Build()
	case readOnly:
		return b.EvalRo().Script(s.text).Numkeys(n).Key(keys...).Arg(args...).Build()
	}
	return b.Eval().Script(s.text).Numkeys(n).Key(keys...).Arg(args...).Build()
}

// translate turns an error that the script has raised into what its code means.
func (s *Script) translate(err error) error {
	var re *rueidis.RedisError
	if err == nil || !errors.As(err, &re) {
		return err
	}
	for code, kind := range s.errors {
		if begins(re.Error(), code) {
			return Fail(kind, errors.New(code))
		}
	}
	return err
}

// begins reports whether an error of Redis begins with a code. Redis 7 wraps what a command in a script has answered, and
// miniredis what a script has raised, so that the code comes first or not far behind.
func begins(text, code string) bool {
	return strings.HasPrefix(strings.TrimPrefix(text, "ERR "), code) || strings.Contains(text, code+" ")
}
