package redistest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// commandTimeout bounds one command of Do, blocking ones included.
const commandTimeout = 10 * time.Second

// replyError is an error reply.
type replyError string

func (e replyError) Error() string { return string(e) }

// Do sends one command over a connection of its own and returns its RESP2
// reply: a string, an int64, nil or a []any of these, in which an error reply
// is an error. It fails the test on any other error. It always has full
// rights, whatever Password and ACL say.
func (s *Server) Do(tb testing.TB, args ...string) any {
	tb.Helper()
	v, err := s.TryDo(args...)
	if err != nil {
		tb.Fatalf("redis-server %s: %s: %v", s.Addr, strings.Join(args, " "), err)
	}
	return v
}

// TryDo is Do which returns the error instead. An error reply's text is the
// error's text.
func (s *Server) TryDo(args ...string) (any, error) { return s.do(commandTimeout, args...) }

// CommandCalls returns how often each command ran since the server started or
// ResetCommandCalls, by lower-case name, with subcommands as "client|caching".
// It leaves nothing out: commands of this package and those that a script
// calls count as well.
func (s *Server) CommandCalls(tb testing.TB) map[string]int64 {
	tb.Helper()
	stats, err := s.info("commandstats")
	if err != nil {
		tb.Fatal(err)
	}
	calls := make(map[string]int64, len(stats))
	for name, fields := range stats {
		n, _, _ := strings.Cut(strings.TrimPrefix(fields, "calls="), ",")
		count, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			tb.Fatalf("INFO commandstats: %s:%s: %v", name, fields, err)
		}
		calls[strings.ToLower(strings.TrimPrefix(name, "cmdstat_"))] = count
	}
	return calls
}

// ResetCommandCalls sets all counts of CommandCalls to zero, except for its
// own "config|resetstat".
func (s *Server) ResetCommandCalls(tb testing.TB) {
	tb.Helper()
	s.Do(tb, "CONFIG", "RESETSTAT")
}

// info returns the fields of a section of INFO.
func (s *Server) info(section string) (map[string]string, error) {
	v, err := s.TryDo("INFO", section)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	text, _ := v.(string)
	for line := range strings.SplitSeq(text, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = value
		}
	}
	return fields, nil
}

func (s *Server) do(timeout time.Duration, args ...string) (v any, err error) {
	err = s.session(timeout, func(conn net.Conn, r *bufio.Reader) error {
		v, err = roundTrip(conn, r, args...)
		return err
	})
	return v, err
}

// pipeline sends commands together and returns the first error.
func (s *Server) pipeline(commands [][]string) error {
	return s.session(commandTimeout, func(conn net.Conn, r *bufio.Reader) error {
		var b []byte
		for _, args := range commands {
			b = appendCommand(b, args)
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
		for range commands {
			v, err := readReply(r)
			if err != nil {
				return err
			}
			if e, ok := v.(replyError); ok {
				return e
			}
		}
		return nil
	})
}

// session opens a connection for a few commands.
func (s *Server) session(timeout time.Duration, use func(conn net.Conn, r *bufio.Reader) error) error {
	conn, err := s.dial(timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	if s.admin != "" {
		if _, err := roundTrip(conn, r, "AUTH", adminUser, s.admin); err != nil {
			return err
		}
	}
	return use(conn, r)
}

func (s *Server) dial(timeout time.Duration) (net.Conn, error) {
	d := &net.Dialer{Timeout: timeout}
	if s.opts.TLS == nil {
		return d.Dial("tcp", s.Addr)
	}
	config, err := s.opts.TLS.clientConfig()
	if err != nil {
		return nil, err
	}
	config.InsecureSkipVerify = true // its certificate may be one that clients must refuse
	return tls.DialWithDialer(d, "tcp", s.Addr, config)
}

// roundTrip sends a command and reads its reply; an error reply is the error.
func roundTrip(w io.Writer, r *bufio.Reader, args ...string) (any, error) {
	if _, err := w.Write(appendCommand(nil, args)); err != nil {
		return nil, err
	}
	v, err := readReply(r)
	if err != nil {
		return nil, err
	}
	if e, ok := v.(replyError); ok {
		return nil, e
	}
	return v, nil
}

func appendCommand(b []byte, args []string) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// readReply reads one RESP2 value.
func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, fmt.Errorf("empty line instead of a RESP2 reply")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return replyError(rest), nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("not a RESP2 reply: %q", line)
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		b := make([]byte, n+2)
		_, err := io.ReadFull(r, b)
		return string(b[:n]), err
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			if list[i], err = readReply(r); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("not a RESP2 reply: %q", line)
}
