package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/berthcare/larder/store/redis"
)

// unusable turns the reason why Redis cannot be used into one line that tells the operator what to check.
func (p *program) unusable(err error) error {
	cause := strings.Join(strings.Fields(redis.Cause(err)), " ")
	within := p.config.Serving.StartupTimeout
	switch {
	case errors.Is(err, redis.ErrWrongMode) && strings.Contains(cause, "has no database"):
		return fmt.Errorf("REDIS_DB: %s has no database %d; databases in redis.conf sets the number of databases", p.redis(), p.options.Redis.DB)
	case errors.Is(err, redis.ErrWrongMode):
		why := strings.TrimPrefix(cause, redis.ErrWrongMode.Error()+": ")
		return fmt.Errorf("%s cannot be used: %s; check REDIS_URL, REDIS_CLUSTER_NODES and REDIS_SENTINEL_NODES", p.redis(), why)
	case errors.Is(err, redis.ErrUnsafe):
		return fmt.Errorf("LARDER_REDIS_STRICT: %s: %s", p.redis(), cause)
	case !errors.Is(err, redis.ErrRefused) && p.options.Redis.TLS != nil:
		return fmt.Errorf("%s could not be reached over TLS within %v: %s; check %s", p.redis(), within, cause, toCheck(cause, "REDIS_TLS and that Redis serves TLS on this port"))
	case !errors.Is(err, redis.ErrRefused):
		check := toCheck(cause, "")
		if check == "" && (strings.Contains(cause, "connection reset by peer") || strings.HasSuffix(cause, "EOF")) {
			check = "that this is the port of Redis, and REDIS_TLS if it is its TLS port, which ends connections without TLS"
		}
		if check != "" {
			cause += "; check " + check
		}
		return fmt.Errorf("%s could not be reached within %v: %s", p.redis(), within, cause)
	case strings.Contains(cause, "client|tracking"):
		return fmt.Errorf("redis refused a command to this user: allow client|tracking in its ACL, or set LARDER_NEAR_CACHE_BYTES=0 (%s)", cause)
	case strings.Contains(cause, "NOPERM"):
		return fmt.Errorf("redis refused a command to this user: check its ACL (%s)", cause)
	case p.options.Redis.Mode == redis.Sentinel:
		return fmt.Errorf("redis refused the credentials: check REDIS_USERNAME and REDIS_PASSWORD, REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD (%s)", cause)
	default:
		return fmt.Errorf("redis refused the credentials: check REDIS_USERNAME and REDIS_PASSWORD (%s)", cause)
	}
}

// checks are what to check where a reason contains a text. The texts are those of store/redis and of Go's crypto/tls and
// crypto/x509.
var checks = []struct{ contains, check string }{
	{"as a port without TLS", "that this is the TLS port; redis:// and REDIS_TLS=false are for one without"},
	{"as by a port without TLS", "that this is the TLS port; redis:// and REDIS_TLS=false are for one without"},
	{"it answers in TLS", "REDIS_TLS; rediss:// or REDIS_TLS=true is for a TLS port"},
	{"legacy Common Name", "the certificate, which has no subject alternative name; REDIS_TLS_ALLOW_CN=true accepts its common name"},
	{"doesn't contain any IP SANs", "the certificate, or set REDIS_TLS_SERVER_NAME to a name that it has; REDIS_TLS_ALLOW_CN=true accepts a common name"},
	{"not valid for any names", "the certificate, which has no subject alternative name; REDIS_TLS_ALLOW_CN=true accepts its common name"},
	{"certificate is valid for", "REDIS_TLS_SERVER_NAME"},
	{"unknown authority", "REDIS_TLS_CA_FILE"},
	{"asks for a client certificate", "REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE"},
	{"bad certificate", "REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE"},
}

// toCheck returns what the operator can check about a reason, or otherwise what is given.
func toCheck(cause, otherwise string) string {
	for _, c := range checks {
		if strings.Contains(cause, c.contains) {
			return c.check
		}
	}
	return otherwise
}
