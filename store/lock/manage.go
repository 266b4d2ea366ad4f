package lock

import (
	"context"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// Renew prolongs a lock to ttl from now, 0 meaning the ttl with which it was acquired, and never shortens it. It fails with
// [ErrNotHeld] if the caller does not have the lock.
func (l *Locks) Renew(ctx context.Context, namespace, name, token string, ttl time.Duration) (*Grant, error) {
	c, ok := parseToken(token)
	if !ok {
		return nil, ErrNotHeld
	}
	g, err := l.renew(ctx, lockKey{namespace, name}, c, ttl)
	if g != nil {
		g.Token = token
	}
	return g, err
}

func (l *Locks) renew(ctx context.Context, k lockKey, c credential, ttl time.Duration) (*Grant, error) {
	begin := time.Now()
	m, err := l.redis.Run(ctx, renewScript, redis.Writes, []string{k.holders(), k.records()}, c.id, c.proof, redis.Millis(ttl))
	if err != nil {
		return nil, err
	}
	in := read(m)
	if in.number() != 1 {
		if in.err != nil {
			return nil, in.failed()
		}
		return nil, ErrNotHeld
	}
	left, text, expiry := in.micros(), in.text(), in.time()
	r, ok := parseRecord(text)
	if in.err != nil || !ok {
		return nil, redis.ErrInternal
	}
	return &Grant{Fence: r.fence, At: r.at, Ends: begin.Add(left - margin(left)), Expiry: expiry, id: c.id, ttl: r.ttl}, nil
}

// Released says what a release did.
type Released struct {
	// Held says that the caller had the lock.
	Held bool
	// At is the time of Redis at which the lock was free.
	At time.Time
}

// Release releases a lock.
func (l *Locks) Release(ctx context.Context, namespace, name, token string) (Released, error) {
	c, ok := parseToken(token)
	if !ok {
		return Released{}, nil
	}
	return l.release(ctx, lockKey{namespace, name}, c)
}

// ReleaseRequest releases the lock that a request of [Locks.Acquire] has acquired, if it has.
func (l *Locks) ReleaseRequest(ctx context.Context, namespace, name, request string) (Released, error) {
	k := lockKey{namespace, name}
	return l.release(ctx, k, credential{id: holderID(k, request)})
}

// release releases a lock. A credential without proof is of a caller that has made the request.
func (l *Locks) release(ctx context.Context, k lockKey, c credential) (r Released, err error) {
	defer l.redis.Forget(k.holders())
	m, err := l.redis.Run(ctx, releaseScript, redis.Writes, []string{k.holders(), k.records()}, c.id, c.proof)
	if err != nil {
		return r, err
	}
	in := read(m)
	return Released{Held: in.number() == 1, At: in.time()}, in.failed()
}

// Forced is the result of [Locks.ForceRelease].
type Forced struct {
	// Holders are those from whom the lock was taken, at most MaxShown, and Count is their number.
	Holders []Holder
	Count   int
	// At is the time of Redis at which that was.
	At time.Time
}

// ForceRelease takes a lock away from the holder with a fencing token, 0 meaning all holders.
func (l *Locks) ForceRelease(ctx context.Context, namespace, name string, fence int64) (f Forced, err error) {
	k := lockKey{namespace, name}
	defer l.redis.Forget(k.holders())
	m, err := l.redis.Run(ctx, forceScript, redis.Writes, []string{k.holders(), k.records(), k.taken()},
		strconv.FormatInt(fence, 10), redis.Millis(takenMemory), strconv.Itoa(MaxShown))
	if err != nil {
		return f, err
	}
	in := read(m)
	f.At, f.Count = in.time(), int(in.number())
	for in.err == nil && in.left() > 0 {
		ends, text := in.time(), in.text()
		f.Holders = append(f.Holders, holder("", text, ends.Sub(f.At)))
	}
	l.counts.forced.Add(int64(f.Count))
	return f, in.failed()
}
