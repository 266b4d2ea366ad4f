package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	// childStart is how long a process may take to be ready, longer than Larder itself waits for its Redis.
	childStart = time.Minute
	// childStop is how long it may take to end before it is killed.
	childStop = 10 * time.Second
)

// A benchChild is a process that bench has started.
type benchChild struct {
	name    string
	command *exec.Cmd
	ended   chan struct{}
	output  childOutput // standard output
	errors  childOutput // standard error, which says why it has ended
}

// startChild starts a process and waits until a line that it has written on standard output shows that it is ready.
func startChild(ctx context.Context, name, path string, env []string, ready func(line []byte) bool, args ...string) (*benchChild, error) {
	c := &benchChild{name: name, command: exec.Command(path, args...), ended: make(chan struct{})} //nolint:noctx // is told to stop, not killed, when ctx ends
	isReady := make(chan struct{})
	c.output.each = func(line []byte) {
		if ready != nil && ready(line) {
			ready = nil
			close(isReady)
		}
	}
	c.command.Env = append(os.Environ(), env...)
	c.command.Stdout, c.command.Stderr = &c.output, &c.errors
	c.command.SysProcAttr = childAttributes()
	if err := c.command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = c.command.Wait() // its output says more
		close(c.ended)
	}()
	timeout := time.NewTimer(childStart)
	defer timeout.Stop()
	var err error
	select {
	case <-isReady:
		return c, nil
	case <-c.ended:
		err = fmt.Errorf("%s has ended: %s", name, c.why())
	case <-timeout.C:
		err = fmt.Errorf("%s was not ready within %v: %s", name, childStart, c.why())
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", name, ctx.Err())
	}
	c.stop()
	return nil, err
}

// why is the last that the process had to say.
func (c *benchChild) why() string {
	if text := c.errors.last(); text != "" {
		return text
	}
	return c.output.last()
}

func (c *benchChild) stop() {
	if c.command.Process.Signal(syscall.SIGTERM) != nil {
		_ = c.command.Process.Kill()
	}
	select {
	case <-c.ended:
	case <-time.After(childStop):
		_ = c.command.Process.Kill()
		<-c.ended
	}
}

// A childOutput takes what a process writes, line by line, and keeps the last line.
type childOutput struct {
	each func(line []byte)

	mu      sync.Mutex
	partial []byte
	line    string
}

// Write takes a part of the output.
func (o *childOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.partial = append(o.partial, p...)
	for {
		line, rest, found := bytes.Cut(o.partial, []byte("\n"))
		if !found {
			return len(p), nil
		}
		if len(bytes.TrimSpace(line)) > 0 {
			o.line = strings.TrimPrefix(string(line), "larder: ")
		}
		if o.each != nil {
			o.each(line)
		}
		o.partial = rest
	}
}

func (o *childOutput) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.line
}

// start starts this program as another command that logs JSON, waits until it has logged a message, and dials it.
func (s *benchSide) start(ctx context.Context, message string, connections int, env []string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var listening, connected struct{ Msg, Grpc, Admin, Mode, Version string }
	c, err := startChild(ctx, "larder "+args[0], self, env, func(line []byte) bool {
		record := listening
		if json.Unmarshal(line, &record) != nil {
			return false
		}
		switch record.Msg {
		case "listening":
			listening = record
		case "connected to redis":
			connected = record
		}
		return record.Msg == message
	}, args...)
	if err != nil {
		return err
	}
	s.children = append(s.children, c)
	s.pid = c.command.Process.Pid
	s.setMetrics(listening.Admin)
	if s.redis = connected.Mode; connected.Version != connected.Mode {
		s.redis += " " + connected.Version
	}
	return s.dial(listening.Grpc, connections)
}

// startFloor starts what Larder is compared with.
func (s *benchSide) startFloor(ctx context.Context, connections int) error {
	return s.start(ctx, "listening", connections, nil, "bench-floor")
}

// startLarder starts Larder with the settings of the environment.
func (s *benchSide) startLarder(ctx context.Context, env []string, connections int) error {
	return s.start(ctx, "connected to redis", connections, env,
		"serve", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--drain-delay=0s", "--log-level=info", "--log-format=json")
}

// startRedis starts a redis-server that keeps nothing. Without one on PATH it returns that error.
func startRedis(ctx context.Context) (c *benchChild, url string, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, "", err
	}
	ready := func(line []byte) bool { return bytes.Contains(line, []byte("Ready to accept connections")) }
	for range 3 { // somebody else may take the port in the meantime
		port, err := freePort(ctx)
		if err != nil {
			return nil, "", err
		}
		c, err = startChild(ctx, "redis-server", path, nil, ready, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", os.TempDir())
		if err == nil {
			return c, "redis://127.0.0.1:" + port, nil
		}
	}
	return nil, "", errors.New("redis-server does not start")
}

func freePort(ctx context.Context) (string, error) {
	var ports net.ListenConfig
	listener, err := ports.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}
