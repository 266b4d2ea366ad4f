package redistest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// silence is how long a test watches that nothing arrives.
const silence = 150 * time.Millisecond

func wantConns(t *testing.T, p *Proxy, want int) {
	t.Helper()
	eventually(t, func() error {
		if p.Conns() != want {
			return errors.New("wrong number of connections")
		}
		return nil
	})
}

func TestProxyConnections(t *testing.T) {
	s := Start(t, Options{})
	p := StartProxy(t, s.Addr)
	a, b := connect(t, p.Addr), connect(t, p.Addr)
	a.ping(t)
	b.ping(t)
	if p.Conns() != 2 {
		t.Errorf("Conns = %d, want 2", p.Conns())
	}
	a.Close()
	wantConns(t, p, 1)

	p.CutAll()
	if p.Conns() != 0 {
		t.Errorf("Conns after CutAll = %d, want 0", p.Conns())
	}
	wantClosed(t, b)
	c := connect(t, p.Addr)
	c.ping(t)

	p.Refuse(true)
	wantClosed(t, connect(t, p.Addr))
	c.ping(t)
	p.Refuse(false)
	connect(t, p.Addr).ping(t)

	other := Start(t, Options{})
	other.Do(t, "SET", "k", "other")
	p.SetTarget(other.Addr)
	if v, err := connect(t, p.Addr).do(commandTimeout, "GET", "k"); v != "other" {
		t.Errorf("GET from the new target = %v, %v, want other", v, err)
	}
	if v, err := c.do(commandTimeout, "GET", "k"); v != nil || err != nil {
		t.Errorf("GET on an old connection = %v, %v, want nil", v, err)
	}

	s.Kill()
	wantClosed(t, c)
	other.Kill()
	wantClosed(t, connect(t, p.Addr))
}

func TestProxyBlackhole(t *testing.T) {
	s := Start(t, Options{})
	p := StartProxy(t, s.Addr)
	old := connect(t, p.Addr)
	old.ping(t)
	p.Blackhole(true)
	p.Blackhole(true)
	fresh := connect(t, p.Addr)
	for _, c := range []*client{old, fresh} {
		_, err := c.do(silence, "INCR", "n")
		wantTimeout(t, err)
	}
	if got := s.Do(t, "GET", "n"); got != nil {
		t.Errorf("n = %v after requests into the black hole, want nil", got)
	}
	wantConns(t, p, 2)
	p.Blackhole(false)
	p.Blackhole(false)
	for _, c := range []*client{old, fresh} {
		if err := c.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
			t.Fatalf("SetDeadline = %v, want no error", err)
		}
		if v, err := readReply(c.r); err != nil {
			t.Errorf("the reply held back = %v, %v, want no error", v, err)
		}
	}
	if got := s.Do(t, "GET", "n"); got != "2" {
		t.Errorf("n = %v, want 2", got)
	}

	p.Blackhole(true)
	_, err := old.do(silence, "PING")
	wantTimeout(t, err)
	p.CutAll()
	wantClosed(t, old)
	wantClosed(t, fresh)
}

func TestProxyDelay(t *testing.T) {
	s := Start(t, Options{})
	p := StartProxy(t, s.Addr)
	c := connect(t, p.Addr)
	p.Delay(silence)
	begin := time.Now()
	c.ping(t)
	if d := time.Since(begin); d < silence {
		t.Errorf("answered after %v, want at least %v", d, silence)
	}

	// Latency: replies on their way at the same time arrive together.
	const requests = 20
	begin = time.Now()
	for i := range requests {
		if _, err := c.Write([]byte("PING\r\n")); err != nil {
			t.Fatalf("Write = %v, want no error", err)
		}
		// Each request is a separate packet to the server and back.
		eventually(t, func() error {
			if calls := s.CommandCalls(t)["ping"]; calls < int64(i) {
				return errors.New("the request did not arrive")
			}
			return nil
		})
	}
	for range requests {
		if _, err := readReply(c.r); err != nil {
			t.Fatalf("reply = %v, want no error", err)
		}
	}
	if d := time.Since(begin); d > requests*silence/2 {
		t.Errorf("%d pipelined replies took %v, want at most %v", requests, d, requests*silence/2)
	}

	p.Delay(0)
	c.ping(t)
	p.Delay(time.Hour)
	_, err := c.do(silence, "PING")
	wantTimeout(t, err)
	p.CutAll() // returns although a reply is due in an hour
	wantClosed(t, c)
}

func TestProxyDropReplies(t *testing.T) {
	s := Start(t, Options{})
	p := StartProxy(t, s.Addr)
	c := connect(t, p.Addr)
	c.ping(t)
	p.DropReplies(true)
	_, err := c.do(silence, "SET", "k", "v")
	wantTimeout(t, err)
	if got := s.Do(t, "GET", "k"); got != "v" {
		t.Errorf("k = %v after a request without a reply, want v", got)
	}
	p.DropReplies(false)
	c.ping(t)
}

func TestProxySlice(t *testing.T) {
	s := Start(t, Options{})
	value := strings.Repeat("x", 100<<10)
	s.Do(t, "SET", "k", value)
	p := StartProxy(t, s.Addr)
	p.Slice(true)
	c := connect(t, p.Addr)
	if _, err := c.Write([]byte("GET k\r\n")); err != nil {
		t.Fatalf("Write = %v, want no error", err)
	}
	reads, got := 0, make([]byte, 0, len(value)+16)
	for !strings.HasSuffix(string(got[max(0, len(got)-2):]), "\r\n") || len(got) < len(value) {
		n, err := c.Read(got[len(got):cap(got)])
		if err != nil {
			t.Fatalf("Read = %v, want no error", err)
		}
		got = got[:len(got)+n]
		reads++
	}
	if !strings.Contains(string(got), value) {
		t.Errorf("GET = %d bytes that lack the value, want the value of %d bytes", len(got), len(value))
	}
	if reads < 100 {
		t.Errorf("%d bytes arrived in %d pieces, want at least 100", len(got), reads)
	}
}

func TestProxyStopsWithTest(t *testing.T) {
	s := Start(t, Options{})
	var c *client
	var addr string
	t.Run("run", func(t *testing.T) {
		p := StartProxy(t, s.Addr)
		addr = p.Addr
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("Dial = %v, want no error", err)
		}
		c = &client{conn, bufio.NewReader(conn)}
		c.ping(t)
		p.Blackhole(true)
	})
	defer c.Close()
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("reading from a connection of a proxy that has ended = %v, want %v", err, io.EOF)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Errorf("Dial(%s) = no error after the proxy has ended, want one", addr)
	}
}

func TestProxyBlackholeOnly(t *testing.T) {
	s := Start(t, Options{})
	p := StartProxy(t, s.Addr)
	held, free := connect(t, p.Addr), connect(t, p.Addr)
	free.ping(t)
	if _, err := held.do(commandTimeout, "CLIENT", "SETNAME", "held"); err != nil {
		t.Fatalf("CLIENT SETNAME = %v, want no error", err)
	}
	p.BlackholeOnly("SETNAME")
	if v, err := held.do(silence, "PING"); err == nil {
		t.Errorf("PING into the black hole = %v, want a timeout", v)
	}
	free.ping(t)
	connect(t, p.Addr).ping(t)
	p.Blackhole(false)
}
