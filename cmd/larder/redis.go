package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/berthcare/larder/cmd/larder/setting"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// The ports of Redis and of Sentinel that an address without a port means.
const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// options returns the options of the store that say how to reach Redis, and all faults in the settings joined. Which settings
// are given decides the mode of Redis; the mode is not detected. Settings that contradict each other are faults.
func (r *redisSettings) options(given map[string]bool) (store.Options, error) {
	o := store.Options{Redis: redis.Options{Mode: redis.Standalone, DB: r.DB, SentinelMaster: r.SentinelMaster, SentinelUsername: r.SentinelUsername, CommandTimeout: r.Timeout, Strict: r.Strict}}
	var faults, addrFaults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case len(r.ClusterNodes) > 0:
		o.Redis.Mode = redis.Cluster
		o.Redis.Addrs, addrFaults = hostPorts("REDIS_CLUSTER_NODES", r.ClusterNodes, redisPort)
	case len(r.SentinelNodes) > 0:
		o.Redis.Mode = redis.Sentinel
		o.Redis.Addrs, addrFaults = hostPorts("REDIS_SENTINEL_NODES", r.SentinelNodes, sentinelPort)
	case r.URL == setting.Embedded:
		o.Redis.Mode = redis.Embedded
	default:
		o.Redis.Addrs, addrFaults = hostPorts("REDIS_URL", []string{r.URL.Parts().Host}, redisPort)
		if !given["REDIS_DB"] {
			o.Redis.DB = r.URL.Database()
		}
	}
	faults = append(faults, addrFaults...)

	nodes := len(r.ClusterNodes) + len(r.SentinelNodes)
	if len(r.ClusterNodes) > 0 && len(r.SentinelNodes) > 0 {
		fault("REDIS_CLUSTER_NODES and REDIS_SENTINEL_NODES: both are set; set one of them")
	} else if nodes > 0 && given["REDIS_URL"] {
		fault("REDIS_URL: is set together with a list of nodes; set one of them")
	}
	if o.Redis.Mode == redis.Sentinel && r.SentinelMaster == "" {
		fault("REDIS_SENTINEL_MASTER: is required with REDIS_SENTINEL_NODES")
	}
	if len(r.SentinelNodes) == 0 {
		for _, name := range []string{"REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD", "REDIS_SENTINEL_PASSWORD_FILE"} {
			if given[name] {
				fault("%s: is set without REDIS_SENTINEL_NODES", name)
			}
		}
	}
	if o.Redis.DB < 0 {
		fault("REDIS_DB: must not be below zero")
	} else if o.Redis.DB != 0 && o.Redis.Mode == redis.Cluster {
		fault("REDIS_DB: must be 0 with REDIS_CLUSTER_NODES, a cluster has no other")
	}
	if r.Timeout <= 0 {
		fault("LARDER_REDIS_TIMEOUT: must be above zero")
	}

	var username string
	if nodes == 0 {
		username, o.Redis.Password = r.URL.Credentials()
	}
	o.Redis.Username = cmp.Or(r.Username, username)
	var err error
	if o.Redis.Password, err = secret("REDIS_PASSWORD", r.Password, r.PasswordFile, o.Redis.Password); err != nil {
		faults = append(faults, err)
	} else if o.Redis.Username != "" && o.Redis.Password == "" {
		fault("REDIS_USERNAME: is set without REDIS_PASSWORD")
	}
	if o.Redis.SentinelPassword, err = secret("REDIS_SENTINEL_PASSWORD", r.SentinelPassword, r.SentinelPasswordFile, ""); err != nil {
		faults = append(faults, err)
	}
	var tlsFaults []error
	o.Redis.TLS, tlsFaults = r.tls(given, o)
	return o, errors.Join(append(faults, tlsFaults...)...)
}

// tls returns the TLS configuration for connections to Redis, or nil if they are in the clear.
func (r *redisSettings) tls(given map[string]bool, o store.Options) (*tls.Config, []error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	secure := r.URL.Parts().Scheme == "rediss" && o.Redis.Mode == redis.Standalone
	if secure && given["REDIS_TLS"] && !r.TLS {
		fault("REDIS_TLS: is false and REDIS_URL is rediss://, which means TLS")
	}
	if !secure && !r.TLS {
		for _, name := range []string{"REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE", "REDIS_TLS_SERVER_NAME"} {
			if given[name] {
				fault("%s: is set without TLS; set REDIS_TLS=true or use rediss://", name)
			}
		}
		return nil, faults
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: r.TLSServerName}
	if config.ServerName == "" && o.Redis.Mode == redis.Standalone {
		config.ServerName = r.URL.Parts().Hostname() // in the other modes tls.Dialer expects the name of each node
	}
	if r.TLSCAFile != "" {
		config.RootCAs = x509.NewCertPool()
		if text, err := os.ReadFile(r.TLSCAFile); err != nil {
			fault("REDIS_TLS_CA_FILE: %w", err)
		} else if !config.RootCAs.AppendCertsFromPEM(text) {
			fault("REDIS_TLS_CA_FILE: %s holds no PEM certificate", r.TLSCAFile)
		}
	}
	switch {
	case r.TLSCertFile == "" && r.TLSKeyFile == "":
	case r.TLSCertFile == "" || r.TLSKeyFile == "":
		fault("REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: set both or neither")
	default:
		if pair, err := tls.LoadX509KeyPair(r.TLSCertFile, r.TLSKeyFile); err != nil {
			fault("REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: %w", err)
		} else {
			config.Certificates = []tls.Certificate{pair}
		}
	}
	return config, faults
}

// secret returns the value of a secret setting: that of its variable, that in its file, or else that in the URL.
func secret(name string, value setting.Secret, file, inURL string) (string, error) {
	switch {
	case value != "" && file != "":
		return "", fmt.Errorf("%s and %[1]s_FILE: both are set; set one of them", name)
	case file == "":
		return cmp.Or(string(value), inURL), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	// Most editors end a file with a line break. Passwords do not end with one.
	content := strings.TrimRight(string(text), "\r\n")
	if content == "" {
		return "", fmt.Errorf("%s_FILE: %s is empty", name, file)
	}
	return content, nil
}

// hostPorts checks addresses, and adds the port to those that have none.
func hostPorts(name string, nodes []string, port string) (addrs []string, faults []error) {
	for _, node := range nodes {
		node = strings.TrimSpace(node)
		host, number, err := net.SplitHostPort(node)
		if err != nil {
			host, number = strings.Trim(node, "[]"), port
		}
		// A colon is left in an IPv6 address only. Anything else is a mistake, such as a URL instead of host:port, and the error
		// does not repeat it, because it can contain a password.
		badHost := host == "" || strings.ContainsAny(host, "/@[] ") || strings.Contains(host, ":") && net.ParseIP(host) == nil
		if n, err := strconv.ParseUint(number, 10, 16); badHost || err != nil || n == 0 {
			faults = append(faults, fmt.Errorf("%s: expected host or host:port, with a port up to 65535", name))
			continue
		}
		addrs = append(addrs, net.JoinHostPort(host, number))
	}
	return addrs, faults
}
