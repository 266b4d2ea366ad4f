package redistest

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// adminUser is the ACL user this package logs in as, so that no restriction
// under test stands in the way of Do.
const adminUser = "redistest"

func (s *Server) configPath() string { return filepath.Join(s.dir, "redis.conf") }
func (s *Server) logPath() string    { return filepath.Join(s.dir, "redis.log") }

// writeConfig writes the configuration file for the server's port.
func (s *Server) writeConfig() error {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s %s\n", name, value) }
	set("bind", "127.0.0.1")
	set("daemonize", "no")
	set("dir", quote(s.dir))
	set("save", `""`)
	set("appendonly", "no")
	if t := s.opts.TLS; t != nil {
		set("port", "0")
		set("tls-port", strconv.Itoa(s.port))
		set("tls-ca-cert-file", quote(t.CA))
		set("tls-cert-file", quote(t.Cert))
		set("tls-key-file", quote(t.Key))
		set("tls-auth-clients", map[bool]string{true: "yes", false: "no"}[t.RequireClientCert])
	} else {
		set("port", strconv.Itoa(s.port))
	}
	if s.opts.Password != "" {
		set("requirepass", quote(s.opts.Password))
	}
	for _, line := range s.opts.ACL {
		b.WriteString(line + "\n")
	}
	if s.opts.Password != "" || len(s.opts.ACL) > 0 {
		s.admin = rand.Text()
		set("user", adminUser+" on >"+s.admin+" ~* &* +@all")
	}
	if len(s.opts.Args)%2 != 0 {
		return errors.New("redistest: Options.Args must be name, value pairs")
	}
	for i := 0; i < len(s.opts.Args); i += 2 {
		name, value := s.opts.Args[i], s.opts.Args[i+1]
		if value == "" {
			value = `""`
		}
		set(name, value)
	}
	return os.WriteFile(s.configPath(), []byte(b.String()), 0o600)
}

// quote makes value one word of redis-server's configuration syntax.
func quote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

func (s *Server) logSize() int64 {
	fi, err := os.Stat(s.logPath())
	if err != nil {
		return 0 // not written yet
	}
	return fi.Size()
}

// log returns the end of what the server logged since offset.
func (s *Server) log(offset int64) string {
	const most = 8 << 10
	b, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	b = b[min(offset, int64(len(b))):]
	return string(b[max(0, len(b)-most):])
}

func (s *Server) logMentions(offset int64, text string) bool {
	return strings.Contains(s.log(offset), text)
}

// Ports come from 10000-19999 and cluster bus ports, 10000 higher, from
// 20000-29999: the two never collide, and both lie below the range the kernel
// takes the ports of outgoing connections from.
const (
	firstPort = 10000
	portCount = 10000
	busOffset = 10000
)

var ports = struct {
	sync.Mutex
	taken map[int]bool // by servers of this program, running or to be restarted
}{taken: map[int]bool{}}

// takePort returns a port that is free and whose cluster bus port is as well.
// Another program may still win it, so starting a server must expect that.
func takePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		p := firstPort + mathrand.IntN(portCount)
		if !ports.taken[p] && portFree(p) && portFree(p+busOffset) {
			ports.taken[p] = true
			return p, nil
		}
	}
	return 0, errors.New("redistest: found no free port")
}

func releasePort(p int) {
	ports.Lock()
	defer ports.Unlock()
	delete(ports.taken, p)
}

func portFree(p int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
