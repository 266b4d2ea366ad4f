package client

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/resolver"
)

// plaintextSchemes and tlsSchemes are schemes of URLs that are not gRPC targets. gRPC has no resolver for them and would
// look up the whole URL in DNS, so that the mistake would show only in the first call, as an unavailable server.
var (
	plaintextSchemes = []string{"http", "h2c", "grpc", "tcp", "larder", "redis"}
	tlsSchemes       = []string{"https", "h2", "grpcs", "tls", "ssl", "rediss"}
)

// checkTarget refuses a URL in place of a gRPC target and says what to write instead. It does not refuse other unknown
// schemes, because the dial options may bring a resolver for them.
func checkTarget(target string) error {
	scheme, rest, found := strings.Cut(target, "://")
	if !found {
		return nil
	}
	scheme = strings.ToLower(scheme)
	host, path := rest, ""
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		host, path = rest[:end], rest[end+1:]
	}
	host = host[strings.LastIndex(host, "@")+1:] // the error must not show a password
	if scheme == "dns" && path == "" && host != "" {
		return fmt.Errorf(`target "dns://%s" names a DNS server and no host; write %q`, host, host)
	}
	secure := slices.Contains(tlsSchemes, scheme)
	if !secure && !slices.Contains(plaintextSchemes, scheme) || resolver.Get(scheme) != nil {
		return nil
	}
	if host == "" {
		host = "larder"
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":50051"
	}
	advice := ""
	if secure {
		advice = " and set Options.TLS"
	}
	return fmt.Errorf(`the scheme %s:// of Target is that of a URL and not of a gRPC target; write %q%s`, scheme, host, advice)
}
