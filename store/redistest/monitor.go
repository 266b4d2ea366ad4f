package redistest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// A Monitor listens to the commands that a server runs.
type Monitor struct {
	server *Server
	conn   net.Conn
	lines  *bufio.Reader
}

// StartMonitor begins to listen.
func (s *Server) StartMonitor(tb testing.TB) *Monitor {
	tb.Helper()
	conn, err := s.dial(commandTimeout)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	m := &Monitor{s, conn, bufio.NewReader(conn)}
	if s.admin != "" {
		_, err = roundTrip(conn, m.lines, "AUTH", adminUser, s.admin)
	}
	if err == nil {
		_, err = roundTrip(conn, m.lines, "MONITOR")
	}
	if err != nil {
		tb.Fatalf("redis-server %s: MONITOR: %v", s.Addr, err)
	}
	return m
}

// Stop returns how often each command ran since StartMonitor, by name as in
// CommandCalls: those that clients have sent, its own left out, and those that
// scripts have called.
func (m *Monitor) Stop(tb testing.TB) (sent, scripted map[string]int64) {
	tb.Helper()
	defer m.conn.Close()
	if err := m.conn.SetReadDeadline(time.Now().Add(commandTimeout)); err != nil {
		tb.Fatal(err)
	}
	last := fmt.Sprintf("last-%p", m)
	m.server.Do(tb, "ECHO", last)
	sent, scripted = map[string]int64{}, map[string]int64{}
	for {
		line, err := m.lines.ReadString('\n')
		if err != nil {
			tb.Fatalf("redis-server %s: MONITOR: %v", m.server.Addr, err)
		}
		if strings.Contains(line, last) {
			return sent, scripted
		}
		if from, name, ok := monitored(line); ok && from == "lua" {
			scripted[name]++
		} else if ok {
			sent[name]++
		}
	}
}

// containers are commands whose first argument is a part of their name.
var containers = map[string]bool{"client": true, "cluster": true, "config": true, "script": true, "acl": true, "xinfo": true}

// monitored reads who ran which command from a line such as +1.2 [0 lua] "GET" "k".
func monitored(line string) (from, name string, ok bool) {
	_, rest, ok := strings.Cut(line, " [")
	source, command, ok2 := strings.Cut(rest, `] "`)
	if !ok || !ok2 {
		return "", "", false
	}
	_, from, _ = strings.Cut(source, " ")
	words := strings.Split(strings.TrimSpace(command), `"`)
	name = strings.ToLower(words[0])
	if containers[name] && len(words) > 2 {
		name += "|" + strings.ToLower(words[2])
	}
	return from, name, true
}
