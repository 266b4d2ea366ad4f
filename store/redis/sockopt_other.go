//go:build !linux

package redis

import (
	"syscall"
	"time"
)

// boundUnacknowledged does nothing: only Linux has such a bound. The pings of rueidis find a dead network out as well.
func boundUnacknowledged(syscall.RawConn, time.Duration) error { return nil }
