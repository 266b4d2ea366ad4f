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
		t.Errorf("%d connections", p.Conns())
	}
	a.Close()
	wantConns(t, p, 1)

	p.CutAll()
	if p.Conns() != 0 {
		t.Errorf("%d connections after CutAll", p.Conns())
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
		t.Errorf("GET from the new target: %v, %v", v, err)
	}
	if v, err := c.do(commandTimeout, "GET", "k"); v != nil || err != nil {
		t.Errorf("GET on an old connection: %v, %v", v, err)
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
		t.Errorf("a request got through: %v", got)
	}
	wantConns(t, p, 2)
	p.Blackhole(false)
	p.Blackhole(false)
	for _, c := range []*client{old, fresh} {
		if err := c.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
			t.Fatal(err)
		}
		if v, err := readReply(c.r); err != nil {
			t.Errorf("the held back reply: %v, %v", v, err)
		}
	}
	if got := s.Do(t, "GET", "n"); got != "2" {
		t.Errorf("n is %v", got)
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
		t.Errorf("answered after %v", d)
	}

	// Latency: replies on their way at the same time arrive together.
	const requests = 20
	begin = time.Now()
	for i := range requests {
		if _, err := c.Write([]byte("PING\r\n")); err != nil {
			t.Fatal(err)
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
			t.Fatal(err)
		}
	}
	if d := time.Since(begin); d > requests*silence/2 {
		t.Errorf("%d pipelined replies took %v", requests, d)
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
		t.Errorf("the request did not arrive: %v", got)
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
		t.Fatal(err)
	}
	reads, got := 0, make([]byte, 0, len(value)+16)
	for !strings.HasSuffix(string(got[max(0, len(got)-2):]), "\r\n") || len(got) < len(value) {
		n, err := c.Read(got[len(got):cap(got)])
		if err != nil {
			t.Fatal(err)
		}
		got = got[:len(got)+n]
		reads++
	}
	if !strings.Contains(string(got), value) {
		t.Errorf("the value was changed")
	}
	if reads < 100 {
		t.Errorf("%d bytes arrived in %d pieces", len(got), reads)
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
			t.Fatal(err)
		}
		c = &client{conn, bufio.NewReader(conn)}
		c.ping(t)
		p.Blackhole(true)
	})
	defer c.Close()
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is left: %v", err)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the proxy still listens")
	}
}

func TestProxyBlackholeOnly(t *testing.T) {
	s := Start(t, Options{})
	p := StartProxy(t, s.Addr)
	held, free := connect(t, p.Addr), connect(t, p.Addr)
	free.ping(t)
	if _, err := held.do(commandTimeout, "CLIENT", "SETNAME", "held"); err != nil {
		t.Fatal(err)
	}
	p.BlackholeOnly("SETNAME")
	if v, err := held.do(silence, "PING"); err == nil {
		t.Errorf("answered %v", v)
	}
	free.ping(t)
	connect(t, p.Addr).ping(t)
	p.Blackhole(false)
}
