package lock

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// A Request asks for a lock.
type Request struct {
	// TTL is for how long the lock is held unless it is renewed, MinTTL to MaxTTL.
	TTL time.Duration
	// Wait is the maximum time to wait for the lock; 0 means not to wait, and a negative duration means without limit.
	Wait time.Duration
	// Permits is the maximum number of concurrent holders, at most MaxPermits; 0 means 1.
	Permits int
	// Fair makes callers that wait get the lock in the order in which they began to wait, on all replicas.
	Fair bool
	// Owner and Metadata are shown to others.
	Owner, Metadata string
	// ID is the request id of the caller, with which a repeated request is given the same grant; empty means that the caller does
	// not repeat it.
	ID string
}

// A Grant is a lock that was acquired.
type Grant struct {
	// Token is the secret of the holder.
	Token string
	// Fence is higher than that of every earlier grant of the lock.
	Fence int64
	// At is the time of Redis at which the lock was acquired.
	At time.Time
	// Ends is the time of this process until which the holder surely has the lock. It is counted from before the request to
	// Redis.
	Ends time.Time
	// Expiry is the time of Redis at which the lock ends.
	Expiry time.Time

	id  string
	ttl time.Duration
}

// Busy says why a lock was not acquired.
type Busy struct {
	// Holder is the holder whose lock ends first; nil if there are permits left for those who wait fairly and come first.
	Holder *Holder
	// Holders is the number of holders.
	Holders int
	// RetryAfter is when to ask again at the latest.
	RetryAfter time.Duration

	order int64 // of the caller's ticket; 0 without one
}

// Acquire acquires a lock. It returns a Grant, or Busy if others have the lock and the time to wait is over. Callers that wait
// are woken by Redis; of those of this process who wait for one lock only the first asks Redis for it.
func (l *Locks) Acquire(ctx context.Context, namespace, name string, r Request) (*Grant, *Busy, error) {
	return l.acquire(ctx, l.attempt(ctx, lockKey{namespace, name}, r), nil)
}

// An attempt is one request for a lock, which may be sent several times.
type attempt struct {
	Request

	key     lockKey
	request string // the caller's request id, or one of this process
	// named is the request of [WithRequest], which may be repeated while its context lasts; nil if it may not.
	named  *named
	id     string
	salt   string
	secret []byte
}

func (l *Locks) attempt(ctx context.Context, k lockKey, r Request) *attempt {
	a := &attempt{Request: r, key: k, request: r.ID, salt: newSalt()}
	a.Permits = max(a.Permits, 1)
	if a.request == "" {
		id := rand.Text()
		if n, ok := ctx.Value(requestKey{}).(*named); ok {
			a.named, id = n, n.id
		}
		a.request = "\x00" + id // which is no request id of a caller
	}
	a.id = holderID(k, a.request)
	a.secret = secretOf(k, a.request, a.salt)
	return a
}

// A place is what an attempt that fails does with its ticket in the queue, as acquire.lua takes it.
type place string

const (
	noPlace    place = "0" // the caller has none and wants none
	takePlace  place = "1" // takes one, or keeps the one that it has
	leavePlace place = "2" // gives it back
)

// try asks Redis for the lock once.
func (l *Locks) try(ctx context.Context, a *attempt, p place) (*Grant, *Busy, error) {
	k := a.key
	begin := time.Now()
	m, err := l.redis.Run(ctx, acquireScript, redis.Writes, []string{k.holders(), k.records(), k.counter(), k.queue(), k.kept()},
		a.id, a.salt, proofOf(a.secret), redis.Millis(a.TTL), strconv.Itoa(a.Permits), string(p), redis.Millis(ticketLife),
		strconv.Itoa(maxTickets), a.Owner, a.Metadata, redis.Millis(FenceMemory))
	if err != nil {
		return nil, nil, err
	}
	in := read(m)
	switch in.number() {
	case 1:
		left, text, expiry := in.micros(), in.text(), in.time()
		r, ok := parseRecord(text)
		if in.err != nil || !ok {
			return nil, nil, redis.Fail(redis.ErrInternal, cmp.Or(in.err, errUnreadable))
		}
		l.redis.Forget(k.holders())
		l.counts.acquired.Add(1)
		if a.named != nil {
			a.named.granted.Store(true)
		}
		return &Grant{
			Token: tokenOf(a.id, secretOf(k, a.request, r.salt)), Fence: r.fence, At: r.at, Ends: begin.Add(left - margin(left)),
			Expiry: expiry, id: a.id, ttl: r.ttl,
		}, nil, nil
	case 0:
		b := &Busy{RetryAfter: in.micros()}
		text := in.text()
		b.Holders, b.order = int(in.number()), in.number()
		if in.err != nil {
			return nil, nil, in.failed()
		}
		if text != "" {
			h := holder("", text, b.RetryAfter)
			b.Holder = &h
		}
		return nil, b, nil
	case -1:
		return nil, nil, redis.Fail(ErrTooManyWaiters, errors.New("too many tickets"))
	}
	return nil, nil, redis.Fail(redis.ErrInternal, cmp.Or(in.err, errUnreadable))
}

// abandon takes back what a request that has failed may have acquired, unless its caller has named it and can repeat it. If the
// attempts of a context are one request, it waits for the end of the context.
func (l *Locks) abandon(ctx context.Context, a *attempt, err error) {
	unsure := errors.Is(err, redis.ErrOutcomeUnknown) || err != nil && ctx.Err() != nil
	if !unsure || a.ID != "" {
		return
	}
	release := func() {
		if a.named != nil && a.named.granted.Load() {
			return
		}
		l.afterwards(func(ctx context.Context) error {
			_, err := l.release(ctx, a.key, credential{id: a.id})
			return err
		})
	}
	if a.named == nil {
		release()
		return
	}
	context.AfterFunc(ctx, release)
}

// leaveQueue gives the ticket of a request back.
func (l *Locks) leaveQueue(a *attempt) {
	l.afterwards(func(ctx context.Context) error {
		_, err := l.redis.Run(ctx, leaveScript, redis.Writes, []string{a.key.queue(), a.key.kept()}, a.id)
		return err
	})
}

// afterwards does what no caller waits for, and repeats it while Redis does not answer, for as long as a command may take. If it
// fails, what it should have removed expires.
func (l *Locks) afterwards(do func(ctx context.Context) error) {
	go func() {
		ctx, cancel := context.WithTimeout(l.redis.Lifetime(), l.redis.CommandTimeout())
		defer cancel()
		for redis.Retryable(do(ctx)) {
			select {
			case <-time.After(tryAgain):
			case <-ctx.Done():
				return
			}
		}
	}()
}
