package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// redisStatsTimeout bounds how long Redis may take to tell what it has done.
const redisStatsTimeout = 2 * time.Second

// executed returns how often a Redis has executed each command, those inside scripts included; nil if it does not tell, as
// where it asks for a password.
func executed(ctx context.Context, addr string) map[string]float64 {
	if addr == "" {
		return nil
	}
	dialer := net.Dialer{Timeout: redisStatsTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(redisStatsTimeout))
	if _, err := conn.Write([]byte("INFO commandstats\r\n")); err != nil {
		return nil
	}
	reply := bufio.NewReader(conn)
	head, err := reply.ReadString('\n')
	size, numberErr := strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(head, "$")), 10, 64)
	if err != nil || numberErr != nil || head[0] != '$' {
		return nil
	}
	calls := make(map[string]float64)
	lines := bufio.NewScanner(io.LimitReader(reply, size))
	for lines.Scan() {
		name, figures, found := strings.Cut(strings.TrimPrefix(lines.Text(), "cmdstat_"), ":calls=")
		if !found {
			continue
		}
		text, _, _ := strings.Cut(figures, ",")
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			calls[name] = n
		}
	}
	return calls
}
