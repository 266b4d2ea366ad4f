package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout is how long a child may take to be ready: longer than Larder waits for its Redis by default.
	startTimeout = time.Minute
	// stopTimeout is how long a child may take to end after SIGTERM, before it is killed.
	stopTimeout = 10 * time.Second
)

// A child is a process that bench has started.
type child struct {
	name    string
	command *exec.Cmd
	ended   chan struct{}
	stdout  lines
	stderr  lines
}

// startChild starts a process and waits until ready returns true for a line of its standard output. It fails if the
// process ends before, and stops the process if that takes longer than startTimeout or if ctx ends.
func startChild(ctx context.Context, name, path string, env []string, ready func(line []byte) bool, args ...string) (*child, error) {
	c := &child{name: name, command: exec.Command(path, args...), ended: make(chan struct{})} //nolint:noctx // the end of ctx must stop it with SIGTERM, not kill it
	isReady := make(chan struct{})
	c.stdout.each = func(line []byte) {
		if ready != nil && ready(line) {
			ready = nil
			close(isReady)
		}
	}
	c.command.Env = append(os.Environ(), env...)
	c.command.Stdout, c.command.Stderr = &c.stdout, &c.stderr
	c.command.SysProcAttr = childAttributes()
	if err := c.command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = c.command.Wait() // the last line of its output says more than the exit code
		close(c.ended)
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	var err error
	select {
	case <-isReady:
		return c, nil
	case <-c.ended:
		err = fmt.Errorf("%s exited at the start: %s", name, c.lastWords())
	case <-timeout.C:
		err = fmt.Errorf("%s was not ready within %v: %s", name, startTimeout, c.lastWords())
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", name, ctx.Err())
	}
	c.stop()
	return nil, err
}

// lastWords returns the last line of standard error, or of standard output if standard error is empty.
func (c *child) lastWords() string {
	if text := c.stderr.last(); text != "" {
		return text
	}
	return c.stdout.last()
}

// stop ends the process, and kills it if it does not end within stopTimeout.
func (c *child) stop() {
	if c.command.Process.Signal(syscall.SIGTERM) != nil {
		_ = c.command.Process.Kill()
	}
	select {
	case <-c.ended:
	case <-time.After(stopTimeout):
		_ = c.command.Process.Kill()
		<-c.ended
	}
}

// lines is an io.Writer that splits the output of a process into lines and keeps the last one.
type lines struct {
	each func(line []byte) // is called with every line; nil for none

	mu      sync.Mutex
	partial []byte // an incomplete line
	line    string // the last line that was not empty
}

// Write takes a part of the output.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			return len(p), nil
		}
		if len(bytes.TrimSpace(line)) > 0 {
			l.line = strings.TrimPrefix(string(line), "larder: ")
		}
		if l.each != nil {
			l.each(line)
		}
		l.partial = rest
	}
}

// last returns the last line that was not empty, without the prefix that larder writes before its errors.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}

// startRedis starts a redis-server on a free port of loopback, without persistence. It returns [exec.ErrNotFound] if there
// is no redis-server on PATH.
func startRedis(ctx context.Context) (c *child, url string, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, "", err
	}
	ready := func(line []byte) bool { return bytes.Contains(line, []byte("Ready to accept connections")) }
	var last error
	for range 3 { // another process can take the free port before redis-server does
		port, err := freePort(ctx)
		if err != nil {
			return nil, "", err
		}
		c, err = startChild(ctx, "redis-server", path, nil, ready, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", os.TempDir())
		if err == nil {
			return c, "redis://127.0.0.1:" + port, nil
		}
		last = err
	}
	return nil, "", fmt.Errorf("redis-server was started three times: %w", last)
}

// freePort returns a port of loopback on which no process listens.
func freePort(ctx context.Context) (string, error) {
	var ports net.ListenConfig
	listener, err := ports.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, errors.Join(err, listener.Close())
}
