package store

import (
	"crypto/sha1" //nolint:gosec // see newScript
	"embed"
	"encoding/hex"
	"strings"

	"github.com/redis/rueidis"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// A script is a file in lua, by its name without the ending.
type script struct {
	name string
	text string
	sha  string
	lua  *rueidis.Lua
}

// newScript reads lua/<name>.lua with the functions of its feature, lua/<feature>.lua, before it, and after those any that
// only some scripts of the feature need.
func newScript(name string, load func(string, ...rueidis.LuaOption) *rueidis.Lua, functions ...string) *script {
	feature, _, _ := strings.Cut(name, "_")
	text := luaFile(feature)
	for _, f := range functions {
		text += luaFile(f)
	}
	text += luaFile(name)
	sum := sha1.Sum([]byte(text)) //nolint:gosec // it is how Redis names scripts
	return &script{name: name, text: text, sha: hex.EncodeToString(sum[:]), lua: load(text)}
}

// readerScript reads lua/<name>.lua alone, for a script that is sent with each call and better short.
func readerScript(name string) *script {
	text := luaFile(name)
	return &script{name: name, text: text, lua: rueidis.NewLuaScriptReadOnly(text)}
}

func luaFile(name string) string {
	b, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}

var (
	cacheSet        = newScript("cache_set", rueidis.NewLuaScript)
	cacheDelete     = newScript("cache_delete", rueidis.NewLuaScript)
	cacheTouch      = newScript("cache_touch", rueidis.NewLuaScript)
	cacheIncrement  = newScript("cache_increment", rueidis.NewLuaScript)
	cacheInvalidate = newScript("cache_invalidate", rueidis.NewLuaScript)
	cacheLease      = newScript("cache_lease", rueidis.NewLuaScript)
	cacheFill       = newScript("cache_fill", rueidis.NewLuaScript)
	cacheRelease    = newScript("cache_release", rueidis.NewLuaScript)

	sessionCreate        = newScript("session_create", rueidis.NewLuaScript, "session_limit")
	sessionRead          = newScript("session_read", rueidis.NewLuaScriptReadOnly)
	sessionList          = newScript("session_list", rueidis.NewLuaScriptReadOnly)
	sessionTouch         = newScript("session_touch", rueidis.NewLuaScript)
	sessionUpdate        = newScript("session_update", rueidis.NewLuaScript)
	sessionRotate        = newScript("session_rotate", rueidis.NewLuaScript)
	sessionReauth        = newScript("session_reauthenticate", rueidis.NewLuaScript)
	sessionPromote       = newScript("session_promote", rueidis.NewLuaScript)
	sessionPromoted      = newScript("session_promoted", rueidis.NewLuaScript)
	sessionRevoke        = newScript("session_revoke", rueidis.NewLuaScript)
	sessionRevokeSubject = newScript("session_revoke_subject", rueidis.NewLuaScript)
	sessionEvents        = readerScript("session_events")
	sessionSweep         = newScript("session_sweep", rueidis.NewLuaScript)
)
