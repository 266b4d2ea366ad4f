package main

import (
	"fmt"
	"io"
	"os"

	"github.com/berthcare/larder/cmd/larder/setting"
	"github.com/berthcare/larder/store/redis"
)

// tries are calls to make by hand, as grpcurl takes them: a method and a JSON request.
var tries = []struct{ method, request string }{
	{"larder.cache.v1.CacheService/Set", `{"key": "greeting", "value": "aGVsbG8=", "ttl": "60s"}`},
	{"larder.cache.v1.CacheService/Get", `{"key": "greeting"}`},
	{"larder.session.v1.SessionService/CreateSession", `{"subject": "ann", "attributes": {"role": "admin"}}`},
}

// hint shows somebody who has just started Larder what to try next. Nobody is there to read it in production.
func (p *program) hint() {
	if !p.config.Log.Reflection || p.options.Redis.Mode != redis.Embedded && !isTerminal(p.stdout) {
		return
	}
	addr, err := setting.DialAddr(p.grpc.Addr().String())
	if err != nil {
		return
	}
	lines := []string{fmt.Sprintf("grpcurl -plaintext %s list", addr)}
	for _, try := range tries {
		lines = append(lines, fmt.Sprintf("grpcurl -plaintext -d '%s' %s %s", try.request, addr, try.method))
	}
	if p.config.Log.LogFormat == "json" {
		p.log.Info("try", "commands", lines)
		return
	}
	_, _ = fmt.Fprintln(p.stdout, "\nTry, in another terminal:")
	for _, line := range lines {
		_, _ = fmt.Fprintln(p.stdout, "  "+line)
	}
	_, _ = fmt.Fprintln(p.stdout)
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
