package session

import (
	"embed"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

//go:embed *.lua
var files embed.FS

// The text of a script is common.lua, the functions that it needs, and its own file.
var (
	createScript         = script("create", "limit")
	listScript           = redis.NewReadScript("session_list", file("common")+file("list"))
	promoteScript        = script("promote", "secrets")
	leaseScript          = freeing("session_sweep_lease", file("lease"))
	promotedScript       = freeing("session_promoted", file("common")+file("promoted"))
	readScript           = redis.NewReadScript("session_read", file("common")+file("read"))
	reauthenticateScript = script("reauthenticate", "secrets")
	revokeScript         = freeing("session_revoke", file("common")+file("secrets")+file("requests")+file("revoke"))
	revokeSubjectScript  = freeing("session_revoke_subject", file("common")+file("requests")+file("revocation")+file("revoke_subject"))
	rotateScript         = script("rotate", "secrets")
	sweepScript          = freeing("session_sweep", file("common")+file("sweep"))
	touchScript          = freeing("session_touch", file("common")+file("secrets")+file("touch"))
	updateScript         = script("update", "secrets")

	// eventsScript is sent as text with each call, and so goes without common.lua.
	eventsScript = redis.NewReadScript("session_events", file("events"))
)

func script(name string, functions ...string) *redis.Script {
	text := file("common")
	for _, f := range functions {
		text += file(f)
	}
	return redis.NewScript("session_"+name, text+file(name), map[string]error{
		"LARDER_SUBJECT_EPOCH_CHANGED": ErrSubjectEpochChanged,
		"LARDER_TOO_MANY_ATTRIBUTES":   ErrTooManyAttributes,
		"LARDER_KEY_UNKNOWN":           keyring.ErrKeyUnknown,
	})
}

// freeing returns a script that runs even if Redis has no memory left: one that takes rights or keys away, or that keeps a
// session in use from expiring, and adds little.
func freeing(name, text string) *redis.Script { return redis.NewFreeingScript(name, text, nil) }

func file(name string) string {
	b, err := files.ReadFile(name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}
