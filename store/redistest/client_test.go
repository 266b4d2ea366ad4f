package redistest

import (
	"bufio"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// client is a connection through a proxy.
type client struct {
	net.Conn
	r *bufio.Reader
}

func connect(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("Dial(%s) = %v, want no error", addr, err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

// do sends a command and waits for its reply.
func (c *client) do(timeout time.Duration, args ...string) (any, error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	return roundTrip(c, c.r, args...)
}

func (c *client) ping(t *testing.T) {
	t.Helper()
	if v, err := c.do(commandTimeout, "PING"); v != "PONG" {
		t.Fatalf("PING = %v, %v, want PONG", v, err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error = %v, want a timeout", err)
	}
}

func wantClosed(t *testing.T, c *client) {
	t.Helper()
	if _, err := c.do(commandTimeout, "PING"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("PING = %v, want the error of a closed connection", err)
	}
}
