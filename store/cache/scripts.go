package cache

import (
	"embed"

	"github.com/berthcare/larder/store/redis"
)

//go:embed *.lua
var files embed.FS

// A script's text is common.lua and the file of its own.
var (
	setScript        = script("set")
	deleteScript     = script("delete")
	touchScript      = script("touch")
	incrementScript  = script("increment")
	invalidateScript = script("invalidate")
	leaseScript      = script("lease")
	fillScript       = script("fill")
	releaseScript    = script("release")
)

func script(name string) *redis.Script {
	return redis.NewScript("cache_"+name, file("common")+file(name), map[string]error{"LARDER_TAGGED": ErrTagged})
}

func file(name string) string {
	b, err := files.ReadFile(name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}
