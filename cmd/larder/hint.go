package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/berthcare/larder/cmd/larder/setting"
	"github.com/berthcare/larder/store/redis"
)

// examples are calls for grpcurl: a method and a JSON request.
var examples = []struct{ method, request string }{
	{"larder.cache.v1.CacheService/Set", `{"key": "greeting", "value": "aGVsbG8=", "ttl": "60s"}`},
	{"larder.cache.v1.CacheService/Get", `{"key": "greeting"}`},
	{"larder.session.v1.SessionService/CreateSession", `{"subject": "ann", "attributes": {"role": "admin"}}`},
}

// hint shows example calls to a person who tries Larder: over the embedded store, or if standard output is a terminal. Without
// reflection it shows nothing, since grpcurl could not make the calls.
func (p *program) hint() {
	if !p.config.Log.Reflection || p.options.Redis.Mode != redis.Embedded && !isTerminal(p.stdout) {
		return
	}
	addr, err := setting.DialAddr(p.grpc.Addr().String())
	if err != nil {
		return
	}
	lines := []string{fmt.Sprintf("grpcurl -plaintext %s list", addr)}
	for _, e := range examples {
		lines = append(lines, fmt.Sprintf("grpcurl -plaintext -d '%s' %s %s", e.request, addr, e.method))
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

// isTerminal reports whether w is a file that is a terminal.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
