package bench

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// commandStatsTimeout bounds the request for the statistics of a Redis.
const commandStatsTimeout = 2 * time.Second

// commandStats returns the number of times that the Redis at addr has executed each command, commands inside scripts
// included. It returns nil if addr is empty or if Redis does not answer, for example because it requires a password.
func commandStats(ctx context.Context, addr string) map[string]float64 {
	if addr == "" {
		return nil
	}
	dialer := net.Dialer{Timeout: commandStatsTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(commandStatsTimeout))
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
	for lines.Scan() { // such as cmdstat_get:calls=21,usec=175,usec_per_call=8.33
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
