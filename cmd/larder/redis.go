package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
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
		if socket := r.URL.Socket(); socket != "" {
			o.Redis.Addrs = []string{socket}
		} else {
			o.Redis.Addrs, addrFaults = hostPorts("REDIS_URL", []string{r.URL.Parts().Host}, redisPort)
		}
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
	addresses, mapFaults := addressMap(r.AddressMap)
	o.Redis.AddressMap = addresses
	faults = append(faults, mapFaults...)
	if len(addresses) > 0 && nodes == 0 {
		fault("REDIS_ADDRESS_MAP: is set without REDIS_CLUSTER_NODES or REDIS_SENTINEL_NODES, whose addresses it is for")
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
	o.Redis.PasswordFile, o.Redis.SentinelPasswordFile = r.PasswordFile, r.SentinelPasswordFile
	var tlsFaults []error
	if o.Redis.TLS, tlsFaults = r.tls(given, o); o.Redis.TLS != nil {
		o.Redis.TLSCommonName = r.TLSAllowCN
		o.Redis.TLSFiles = redis.TLSFiles{CA: r.TLSCAFile, Cert: r.TLSCertFile, Key: r.TLSKeyFile}
	}
	return o, errors.Join(append(faults, tlsFaults...)...)
}

// tls returns the TLS configuration for connections to Redis, or nil if they are in the clear.
func (r *redisSettings) tls(given map[string]bool, o store.Options) (*tls.Config, []error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	secure := r.URL.TLS() && o.Redis.Mode == redis.Standalone
	if secure && given["REDIS_TLS"] && !r.TLS {
		fault("REDIS_TLS: is false and REDIS_URL is rediss:// or valkeys://, which means TLS")
	}
	if !secure && !r.TLS {
		for _, name := range []string{"REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE", "REDIS_TLS_SERVER_NAME", "REDIS_TLS_ALLOW_CN"} {
			if given[name] {
				fault("%s: is set without TLS; set REDIS_TLS=true or use rediss://", name)
			}
		}
		return nil, faults
	}
	if r.URL.Socket() != "" && o.Redis.Mode == redis.Standalone {
		fault("REDIS_TLS: is true and REDIS_URL is a Unix socket, which takes no TLS")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: r.TLSServerName}
	if config.ServerName == "" && o.Redis.Mode == redis.Standalone {
		config.ServerName = r.URL.Parts().Hostname() // in the other modes the name of each node is expected
	}
	files := redis.TLSFiles{CA: r.TLSCAFile, Cert: r.TLSCertFile, Key: r.TLSKeyFile}
	if (files.Cert == "") != (files.Key == "") {
		fault("REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: set both or neither")
		files.Cert, files.Key = "", ""
	}
	config, ca, pair := redis.LoadTLS(config, files)
	if ca != nil {
		fault("REDIS_TLS_CA_FILE: %w", ca)
	}
	if pair != nil {
		fault("REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: %w", pair)
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
	content, err := redis.ReadSecret(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return content, nil
}

// addressMap parses pairs of an address that Redis tells and the one to connect to instead.
func addressMap(pairs []string) (addresses map[string]string, faults []error) {
	for _, pair := range pairs {
		from, to, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || !isAddress(from) || !isAddress(to) {
			return nil, []error{errors.New("REDIS_ADDRESS_MAP: expected pairs such as 10.0.0.5:6379=redis.example:7001, or 10.0.0.5=redis.example for every port")}
		}
		if addresses == nil {
			addresses = make(map[string]string)
		}
		if _, twice := addresses[from]; twice {
			faults = append(faults, fmt.Errorf("REDIS_ADDRESS_MAP: %s occurs twice", from))
		}
		addresses[from] = to
	}
	return addresses, faults
}

// isAddress reports whether text is a host, or a host and a port.
func isAddress(text string) bool {
	_, faults := hostPorts("", []string{text}, redisPort)
	return len(faults) == 0
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
