package lock

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// State says who has a lock.
type State struct {
	// Name is the name of the lock.
	Name string
	// Holders are the holders whose locks end first, at most MaxShown.
	Holders []Holder
	// Count is the number of holders.
	Count int
	// Waiters is the number of callers that wait fairly, on all replicas.
	Waiters int
	// Fence is the highest fencing token given; 0 if none is known.
	Fence int64

	now time.Time // of Redis, when this was read
}

// has returns whether a holder has the lock; known is false if that cannot be told from the state.
func (s *State) has(id string) (has, known bool) {
	for _, h := range s.Holders {
		if h.id == id {
			return true, true
		}
	}
	return false, len(s.Holders) == s.Count
}

// Get returns who has a lock.
func (l *Locks) Get(ctx context.Context, namespace, name string) (State, error) {
	return l.state(ctx, lockKey{namespace, name}, false)
}

// state reads a lock from the primary. Tracked makes Redis tell of the next change of the holders, and leaves out what is not
// told.
func (l *Locks) state(ctx context.Context, k lockKey, tracked bool) (State, error) {
	keys := []string{k.holders(), k.records()}
	if !tracked {
		keys = append(keys, k.counter(), k.kept())
	}
	m, err := l.redis.RunRead(ctx, stateScript, tracked, keys, strconv.Itoa(MaxShown), clock())
	if err != nil {
		return State{}, err
	}
	return parseState(k.name, read(m))
}

// clock is the time of this process as an argument of a script, for the embedded store, which shares its clock.
func clock() string { return strconv.FormatInt(time.Now().UnixMicro(), 10) }

func parseState(name string, in *answer) (State, error) {
	s := State{Name: name, now: in.time(), Count: int(in.number()), Fence: in.number(), Waiters: int(in.number())}
	for in.err == nil && in.left() > 0 {
		id, ends, text := in.text(), in.time(), in.text()
		s.Holders = append(s.Holders, holder(id, text, ends.Sub(s.now)))
	}
	return s, in.failed()
}

// List returns about count locks of a namespace that are held and whose names match a glob pattern, an empty one meaning all,
// and the token of the next page, empty after the last. It fails with [redis.ErrPageToken] if the token is of another namespace
// or pattern.
func (l *Locks) List(ctx context.Context, namespace, pattern, token string, count int) (states []State, next string, err error) {
	if pattern == "" {
		pattern = "*"
	}
	w := redis.Walk{Of: "lock\x00" + namespace + "\x00" + pattern, Match: holdersPrefix + "{" + namespace + ":" + pattern + "}", Type: "zset"}
	var names []string
	for step := 1; ; step++ {
		var found []string
		if found, token, err = l.redis.Scan(ctx, w, token, int64(count)); err != nil {
			return nil, "", err
		}
		for _, redisKey := range found {
			if name, ok := lockName(namespace, redisKey); ok {
				names = append(names, name)
			}
		}
		if token == "" || len(names) >= count || step == redis.WalkSteps {
			break
		}
	}
	all := make([]State, len(names))
	var failed error
	err = l.redis.RunScripts(ctx, redis.Items(len(names)), redis.ScriptBatch{
		Script: stateScript, Effect: redis.Reads,
		Call: func(i int) (keys, args []string) {
			k := lockKey{namespace, names[i]}
			return []string{k.holders(), k.records(), k.counter(), k.kept()}, []string{strconv.Itoa(MaxShown), clock()}
		},
		Read: func(i int, r rueidis.RedisResult) error {
			m, err := r.ToMessage()
			if err == nil {
				all[i], err = parseState(names[i], read(m))
			}
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	if err == nil {
		err = failed // a list that leaves locks out would mislead
	}
	if err != nil {
		return nil, "", err
	}
	for _, s := range all {
		if s.Count > 0 {
			states = append(states, s)
		}
	}
	return states, token, nil
}

// Holds reports whether the holder with a fencing token has a lock.
func (l *Locks) Holds(ctx context.Context, namespace, name string, fence int64) (bool, error) {
	k := lockKey{namespace, name}
	m, err := l.redis.RunRead(ctx, holdsScript, false, []string{k.holders(), k.records()}, strconv.FormatInt(fence, 10), clock())
	if err != nil {
		return false, err
	}
	n, err := m.AsInt64()
	return n == 1, err
}

// Watch calls tell with the state of a lock, and again whenever its holders change. It calls it with nil after the time every
// without a change. It returns when ctx ends, or tell or a read fails.
func (l *Locks) Watch(ctx context.Context, namespace, name string, every time.Duration, tell func(*State) error) error {
	o := l.observe(lockKey{namespace, name})
	defer o.leave()
	quiet := time.NewTimer(every)
	defer quiet.Stop()
	var seen *observed
	for {
		now, changed := o.current()
		if now != nil && now != seen {
			if now.err != nil {
				return now.err
			}
			if seen == nil || !sameHolders(&seen.State, &now.State) {
				if err := tell(&now.State); err != nil {
					return err
				}
				quiet.Reset(every)
			}
			seen = now
		}
		select {
		case <-changed:
		case <-quiet.C:
			if err := tell(nil); err != nil {
				return err
			}
			quiet.Reset(every)
		case <-ctx.Done():
			return ctx.Err()
		case <-l.redis.Lifetime().Done():
			return redis.ErrUnavailable
		}
	}
}

// sameHolders reports whether two states show the same holders, whatever their ttl.
func sameHolders(a, b *State) bool {
	if a.Count != b.Count || len(a.Holders) != len(b.Holders) {
		return false
	}
	fences := make(map[int64]bool, len(a.Holders))
	for _, h := range a.Holders {
		fences[h.Fence] = true
	}
	for _, h := range b.Holders {
		if !fences[h.Fence] {
			return false
		}
	}
	return true
}
