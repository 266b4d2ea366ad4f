package lock

import (
	"embed"

	"github.com/berthcare/larder/store/redis"
)

//go:embed *.lua
var files embed.FS

// The text of a script is common.lua followed by the script's own file.
var (
	acquireScript = redis.NewScript("lock_acquire", file("common")+file("acquire"), nil)
	// renewScript adds nothing, and must not lose a lock because Redis has no memory left.
	renewScript   = redis.NewFreeingScript("lock_renew", file("common")+file("renew"), nil)
	releaseScript = redis.NewFreeingScript("lock_release", file("common")+file("release"), nil)
	forceScript   = redis.NewFreeingScript("lock_force", file("common")+file("force"), nil)
	leaveScript   = redis.NewFreeingScript("lock_leave", file("leave"), nil)
	stateScript   = redis.NewReadScript("lock_state", file("common")+file("state"))
	holdsScript   = redis.NewReadScript("lock_holds", file("common")+file("holds"))
)

func file(name string) string {
	b, err := files.ReadFile(name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}
