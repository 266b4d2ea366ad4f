package cache

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"strconv"
	"sync"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// leasing shares one request for a lease among the callers of this process that want the same lease.
type leasing struct {
	mu   sync.Mutex
	busy map[string]*leaseRequest // by Redis key of the lease
}

// leaseRequest is a request for a lease that is under way. Done is closed once held and err are set.
type leaseRequest struct {
	done chan struct{}
	held time.Duration
	err  error
}

// requestLease requests the lease of a key that held e when it was read, and puts it into l if it is given. Otherwise it
// returns the remaining time of another caller's lease; 0 means that the key no longer holds e.
func (c *Cache) requestLease(ctx context.Context, redisKey, leaseKey string, e *Entry, ttl time.Duration, l *Leased) (held time.Duration, err error) {
	c.leasing.mu.Lock()
	if r := c.leasing.busy[leaseKey]; r != nil {
		c.leasing.mu.Unlock()
		select {
		case <-r.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if r.err != nil && ctx.Err() == nil {
			return 0, nil // that request may have failed because of its own caller's deadline
		}
		return r.held, ctx.Err()
	}
	r := &leaseRequest{done: make(chan struct{}), err: redis.ErrUnavailable} // the error remains if the request panics
	if c.leasing.busy == nil {
		c.leasing.busy = make(map[string]*leaseRequest)
	}
	c.leasing.busy[leaseKey] = r
	c.leasing.mu.Unlock()
	defer func() {
		c.leasing.mu.Lock()
		delete(c.leasing.busy, leaseKey)
		c.leasing.mu.Unlock()
		close(r.done)
	}()

	var random [leaseRandom]byte
	_, _ = rand.Read(random[:])
	seen := ""
	if e != nil {
		seen = e.ETag.String()
	}
	m, err := c.redis.Run(ctx, leaseScript, redis.WritesOnce, []string{redisKey, leaseKey}, seen, string(random[:]), redis.Millis(ttl),
		strconv.FormatInt(c.redis.AsOf(ctx).UnixMicro(), 10))
	if r.err = err; err != nil {
		return 0, err
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return 0, redis.ErrInternal
	}
	outcome, err1 := parts[0].AsInt64()
	text, err2 := parts[1].ToString()
	if err1 != nil || err2 != nil {
		return 0, redis.ErrInternal
	}
	switch outcome {
	case 1:
		c.redis.Forget(leaseKey)
		l.Token, l.LeaseTTL = base64.RawURLEncoding.EncodeToString([]byte(text)), ttl
		r.held = ttl
	case 0:
		left, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, redis.ErrInternal
		}
		r.held = max(time.Duration(left)*time.Millisecond, time.Millisecond)
	default:
		c.redis.Near.Forget(redisKey)
	}
	return r.held, nil
}
