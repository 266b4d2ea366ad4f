package token

import (
	"embed"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

//go:embed *.lua
var files embed.FS

// The text of a script is the functions of package session that it needs, common.lua and its own file.
var (
	claimScript     = redis.NewScript("token_claim", session.Functions("common", "requests")+file("claim"), nil)
	consumeScript   = redis.NewFreeingScript("token_consume", consuming, keyErrors)
	exchangeScript  = redis.NewScript("token_exchange", consuming, keyErrors)
	inspectScript   = redis.NewReadScript("token_inspect", session.Functions("common")+file("common")+file("inspect"))
	issueScript     = redis.NewScript("token_issue", session.Functions("common")+file("common")+file("issue"), nil)
	refundScript    = redis.NewFreeingScript("token_refund", file("refund"), nil)
	resetScript     = redis.NewFreeingScript("token_reset", session.Functions("common")+file("reset"), nil)
	revokeScript    = freeing("revoke")
	revokeAllScript = freeing("revoke_all")
	sourceScript    = redis.NewFreeingScript("token_source", session.Functions("common")+file("source"), nil)

	// A token is accepted also if Redis has no memory left, as that takes it away; a grant adds one.
	consuming = session.Functions("common", "revocation") + file("common") + file("consume")
	keyErrors = map[string]error{"LARDER_KEY_UNKNOWN": keyring.ErrKeyUnknown}
)

// freeing returns a script that takes tokens away, and runs also if Redis has no memory left.
func freeing(name string) *redis.Script {
	return redis.NewFreeingScript("token_"+name, session.Functions("common", "requests")+file("common")+file(name), nil)
}

func file(name string) string {
	b, err := files.ReadFile(name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}
