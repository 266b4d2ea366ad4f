// Package redistest runs real redis-server processes for tests: single
// servers, clusters and sentinel sets, with a TCP proxy to inject faults.
//
// Every topology starts in two ways: Start, StartCluster and StartSentinel tie
// it to a test, and the Main variants return a stop function, so that TestMain
// can share one among the tests of a package. A missing redis-server is an
// error and never a reason to skip.
package redistest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options configures a Server. The zero value is an open, empty server on a
// free loopback port.
type Options struct {
	// Password is the default user's password (requirepass).
	Password string
	// ACL holds configuration lines such as "user NAME on >pass ~* +@all".
	ACL []string
	// TLS makes the server speak TLS only, with these files.
	TLS *TLSFiles
	// Args holds extra configuration as name, value pairs. A value is written
	// as it is, so one directive may take several words; quote a word that
	// contains spaces.
	Args []string
	// Dir is the working directory; a temporary one when empty.
	Dir string
	// Port is the port to listen on; a free one when zero.
	Port int
}

// Server is one redis-server process. Its methods are safe for concurrent use.
type Server struct {
	// Addr is the host:port the server listens on, the same across restarts.
	Addr string

	opts  Options
	bin   string
	flags []string
	dir   string
	port  int
	admin string // password of adminUser, empty when the server needs no login

	mu      sync.Mutex
	proc    *process
	version string
}

// startTimeout bounds how long a server or topology may take to get ready. It
// is generous because tests of several packages share the machine.
const startTimeout = 30 * time.Second

var errPortTaken = errors.New("port is taken")

// Start runs a server until the test ends and returns once it answers PING.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, stop, err := StartMain(o)
	if err != nil {
		tb.Fatal(err)
	}
	onCleanup(tb, stop, s)
	return s
}

// StartMain is Start for TestMain: the caller must call the returned function,
// which kills the server and removes its temporary directory.
func StartMain(o Options) (*Server, func(), error) {
	s, err := start(o)
	if err != nil {
		return nil, nil, err
	}
	return s, s.close, nil
}

// start runs a server with extra command line flags, on another port when the
// one it picked was taken in the meantime.
func start(o Options, flags ...string) (*Server, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server not found: run `make redis`")
	}
	s := &Server{opts: o, bin: bin, flags: flags}
	if o.Dir == "" {
		s.dir, err = os.MkdirTemp("", "redistest-")
	} else {
		s.dir, err = filepath.Abs(o.Dir)
	}
	if err != nil {
		return nil, err
	}
	if err := s.startOnPort(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *Server) startOnPort() error {
	for attempt := 1; ; attempt++ {
		s.port = s.opts.Port
		if s.port == 0 {
			p, err := takePort()
			if err != nil {
				return err
			}
			s.port = p
		}
		s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
		if err := s.writeConfig(); err != nil {
			return err
		}
		err := s.launch()
		if err == nil || s.opts.Port != 0 || attempt == 10 || !errors.Is(err, errPortTaken) {
			return err
		}
		releasePort(s.port)
	}
}

// launch runs redis-server on the configuration file, which it leaves alone:
// sentinels and replicas record their state in it.
func (s *Server) launch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset := s.logSize()
	p, err := spawn(s.bin, s.dir, s.logPath(), append([]string{s.configPath()}, s.flags...)...)
	if err != nil {
		return err
	}
	s.proc = p
	version, err := s.waitReady(p)
	if err != nil {
		p.kill()
		err = fmt.Errorf("redis-server on %s: %w, its log:\n%s", s.Addr, err, s.log(offset))
		if s.logMentions(offset, "Address already in use") {
			err = errors.Join(errPortTaken, err)
		}
		return err
	}
	s.version = version
	return nil
}

// waitReady returns the server's version once it answers. It compares process
// ids since another process may have got the port first and answer instead.
func (s *Server) waitReady(p *process) (version string, err error) {
	deadline := time.After(startTimeout)
	for {
		if _, err = s.do(time.Second, "PING"); err == nil {
			var info map[string]string
			info, err = s.info("server")
			if err == nil && info["process_id"] == strconv.Itoa(p.pid()) {
				if v := info["valkey_version"]; v != "" {
					return "valkey " + v, nil
				}
				return info["redis_version"], nil
			}
		}
		select {
		case <-p.done:
			return "", errors.New("exited")
		case <-deadline:
			return "", fmt.Errorf("not ready after %v: %w", startTimeout, err)
		case <-time.After(pollInterval):
		}
	}
}

// URL returns redis://host:port, or rediss://host:port with TLS. It carries no
// credentials.
func (s *Server) URL() string {
	if s.opts.TLS != nil {
		return "rediss://" + s.Addr
	}
	return "redis://" + s.Addr
}

// Version returns the server's version, such as "7.0.15" or "valkey 8.1.1".
func (s *Server) Version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (s *Server) Kill() { s.process().kill() }

// Stop ends the process with SIGTERM and waits until it is gone. A primary
// first gives lagging replicas its shutdown-timeout to catch up.
func (s *Server) Stop() { s.process().terminate() }

// Restart starts the server again on the same port and directory, after
// stopping it if it runs. It keeps what redis-server recorded there, such as its
// cluster and the role a sentinel gave it, but data only if Args persist it.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Stop()
	if err := s.launch(); err != nil {
		tb.Fatal(err)
	}
}

// Pause freezes the process with SIGSTOP: connections stay open, unanswered.
func (s *Server) Pause(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGSTOP)
}

// Resume ends Pause.
func (s *Server) Resume(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGCONT)
}

func (s *Server) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := s.process().signal(sig); err != nil {
		tb.Fatalf("redis-server %s: %v: %v", s.Addr, sig, err)
	}
}

func (s *Server) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

func (s *Server) close() {
	if p := s.process(); p != nil {
		p.kill()
	}
	releasePort(s.port)
	if s.opts.Dir == "" {
		os.RemoveAll(s.dir)
	}
}

// StandaloneOnly skips a test that needs another topology than one server if the tests run with -short, as
// `make test-short` does: starting and disturbing a cluster takes most of the time of the suite.
func StandaloneOnly(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("-short runs on one server only")
	}
}
