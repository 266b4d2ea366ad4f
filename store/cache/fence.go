package cache

import (
	"context"
	"errors"
	"strconv"

	"github.com/berthcare/larder/store/redis"
)

// A Fence is the lock under which a caller writes. An entry refuses the writes of those who had the lock before the last one that
// has written: the highest fencing token that has come with a write is kept beside the entry for at least 24 h after that write,
// and after the time that the token stands for.
type Fence struct {
	// Lock is the name of the lock, in the namespace of the entry.
	Lock string
	// Token is the fencing token that the caller was given with the lock.
	Token int64
}

// MaxFencingToken is the maximum fencing token: numbers of scripts are exact up to it.
const MaxFencingToken = 1<<53 - 1

// The outcomes of scripts that check a fence.
const (
	fenced       = -3
	fenceUnknown = -4
)

// underFence runs a script with the arguments of a fence, and fails with [ErrFenced] if the fence is refused. A token that is older
// than what entries remember, and of a lock that the entry does not know, is accepted if its holder still has the lock.
func (c *Cache) underFence(ctx context.Context, namespace string, f *Fence, run func(args []string) (outcome int64, err error)) (int64, error) {
	if f == nil {
		return run([]string{"", "0", "0"})
	}
	for _, vouched := range []string{"0", "1"} {
		n, err := run([]string{f.Lock, strconv.FormatInt(f.Token, 10), vouched})
		switch {
		case err != nil:
			return 0, err
		case n == fenced:
			return 0, redis.Fail(ErrFenced, errors.New("the fence is lower"))
		case n != fenceUnknown:
			return n, nil
		}
		holds := false
		if c.options.HoldsLock != nil {
			if holds, err = c.options.HoldsLock(ctx, namespace, f.Lock, f.Token); err != nil {
				return 0, err
			}
		}
		if !holds {
			return 0, redis.Fail(ErrFenced, errors.New("the fence is old and nobody has the lock with it"))
		}
	}
	return 0, redis.ErrInternal
}

// runFenced is runOnEntry under a fence, if there is one.
func (c *Cache) runFenced(ctx context.Context, sc *redis.Script, eff redis.Effect, namespace, key string, f *Fence, args ...string) (a onEntry, err error) {
	keys := []string{c.entryKey(namespace, key), c.leaseKey(namespace, key)}
	if f != nil {
		keys = append(keys, c.fencesKey(namespace, key))
	}
	_, err = c.underFence(ctx, namespace, f, func(fence []string) (int64, error) {
		a, err = c.runOnEntry(ctx, sc, eff, namespace, keys, append(args[:len(args):len(args)], fence...)...)
		return a.outcome, err
	})
	return a, err
}
