package store

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
)

// BatchFound is what a batch read found under one key, or why it could not be read.
type BatchFound struct {
	Found
	Err error
}

// batchPortion is how many entries are read at a time: only as many values are in memory at once, whatever the size of a
// batch.
const batchPortion = 128

// BatchGetEach reads entries as BatchGet does, a portion at a time, and hands over what it found, first being the number
// of the portion's first key. It stops when use wants no more.
func (s *Store) BatchGetEach(ctx context.Context, namespace string, keys []string, useNear bool, use func(first int, found []BatchFound) (more bool)) error {
	for first := 0; first < len(keys); first += batchPortion {
		found, err := s.BatchGet(ctx, namespace, keys[first:min(first+batchPortion, len(keys))], useNear)
		if err != nil || !use(first, found) {
			return err
		}
	}
	return nil
}

// BatchGet reads entries one by one, in one round trip for each shard, and another where they depend on marks that the
// near cache does not know. Results are in the order of keys.
func (s *Store) BatchGet(ctx context.Context, namespace string, keys []string, useNear bool) ([]BatchFound, error) {
	results := make([]BatchFound, len(keys))
	hits := make([]bool, len(keys))
	var redisKeys []string // of those that are missing
	var tickets []near.Ticket
	var missing []int
	var room [keyRoom]byte
	for i, key := range keys {
		if useNear {
			if v, ok := s.near.GetBytes(s.appendCacheKey(room[:0], namespace, key)); ok {
				results[i].Entry, hits[i] = v.(*Entry), true
				continue
			}
		}
		if missing == nil {
			redisKeys, tickets, missing = make([]string, len(keys)), make([]near.Ticket, len(keys)), make([]int, 0, len(keys)-i)
		}
		redisKeys[i] = s.cacheKey(namespace, key)
		if useNear {
			tickets[i] = s.near.Begin(redisKeys[i])
		}
		missing = append(missing, i)
	}
	if err := s.batchRead(ctx, redisKeys, missing, useNear, results); err != nil {
		return nil, err
	}
	if useNear {
		for _, i := range missing {
			if results[i].Err == nil {
				size, ttl := s.keep(results[i].Entry)
				s.near.Put(redisKeys[i], tickets[i], results[i].Entry, size, ttl)
			}
		}
	}
	known, err := s.batchMarks(ctx, namespace, results, useNear)
	if err != nil {
		return nil, err
	}
	now, cleared := s.Now(), known[clearKey(namespace)]
	for i := range results {
		e := results[i].Entry
		results[i].Found = Found{Near: hits[i]}
		if e == nil || !e.Hard.IsZero() && !now.Before(e.Hard) {
			continue
		}
		verdict := entryValid
		if !e.AsOf.IsZero() {
			worst := cleared
			for _, t := range e.Tags {
				worst = worst.or(known[tagKey(namespace, t)])
			}
			verdict = s.compare(e, worst)
		}
		if verdict == entryValid || verdict == entryStale && !e.Negative {
			results[i].Entry, results[i].Stale = e, verdict == entryStale
		}
	}
	return results, nil
}

// batchRead reads the entries with the given indexes into results.
func (s *Store) batchRead(ctx context.Context, redisKeys []string, missing []int, useNear bool, results []BatchFound) error {
	if len(missing) == 0 {
		return nil
	}
	var plain []int
	err := s.batch(ctx, "get", reads, useNear, missing, func(b rueidis.Builder, i int) rueidis.Completed {
		return b.Get().Key(redisKeys[i]).Build()
	}, func(i int, r rueidis.RedisResult) error {
		raw, err := r.AsBytes()
		if rueidis.IsRedisNil(err) {
			return nil
		}
		if err != nil {
			return err
		}
		e, isPlain, err := s.parseEntry(redisKeys[i], raw)
		if isPlain {
			plain = append(plain, i)
		}
		results[i].Entry = e
		return err
	}, func(i int, err error) { results[i].Err = err })
	if err != nil || len(plain) == 0 {
		return err
	}
	return s.batch(ctx, "pttl", reads, useNear, plain, func(b rueidis.Builder, i int) rueidis.Completed {
		return b.Pttl().Key(redisKeys[i]).Build()
	}, func(i int, r rueidis.RedisResult) error {
		left, err := r.AsInt64()
		if err == nil {
			results[i].Entry = s.expiring(results[i].Entry, left)
		}
		return err
	}, func(i int, err error) { results[i] = BatchFound{Err: err} })
}

// batchMarks returns the marks that entries depend on, by their keys.
func (s *Store) batchMarks(ctx context.Context, namespace string, results []BatchFound, useNear bool) (map[string]mark, error) {
	known := make(map[string]mark)
	var missing []string
	look := func(key string) {
		if _, ok := known[key]; ok {
			return
		}
		known[key] = mark{}
		if useNear {
			if v, ok := s.near.Get(key); ok {
				known[key] = v.(mark)
				return
			}
		}
		missing = append(missing, key)
	}
	lookedAtClear := false
	for i := range results {
		r := &results[i]
		if r.Entry == nil || r.AsOf.IsZero() {
			continue
		}
		if !lookedAtClear {
			lookedAtClear = true
			look(clearKey(namespace))
		}
		for _, t := range r.Tags {
			look(tagKey(namespace, t))
		}
	}
	if len(missing) == 0 {
		return known, nil
	}
	marks, err := s.readMarks(ctx, missing, useNear)
	for i, key := range missing {
		known[key] = marks[i]
	}
	return known, err
}

// batch sends one command for each index in one round trip and hands each answer to read. An error of one command goes
// to fail, with its index, unless every command failed of the same cause, which makes the whole batch fail.
func (s *Store) batch(ctx context.Context, name string, eff effect, useNear bool, indexes []int,
	build func(rueidis.Builder, int) rueidis.Completed, read func(int, rueidis.RedisResult) error, fail func(int, error),
) error {
	results, err := trip(ctx, s, name, eff, func(ctx context.Context, c *clients) ([]rueidis.RedisResult, error) {
		client := c.primary
		if useNear {
			client = c.tracked
		}
		commands := make([]rueidis.Completed, len(indexes))
		for n, i := range indexes {
			commands[n] = build(client.B(), i)
		}
		return client.DoMulti(ctx, commands...), nil
	})
	if err != nil {
		return err
	}
	var first error
	failed := 0
	for n, r := range results {
		err := read(indexes[n], r)
		if err == nil {
			continue
		}
		failed++
		err = classify(ctx, err, eff)
		if first == nil {
			first = err
		}
		fail(indexes[n], err)
	}
	if ctxErr := ctx.Err(); ctxErr != nil && failed > 0 {
		return ctxErr
	}
	if failed == len(indexes) && Retryable(first) {
		return first
	}
	return nil
}

// BatchWrite is one entry of a batch.
type BatchWrite struct {
	Key string
	Write
}

// BatchStored is what became of one entry of a batch.
type BatchStored struct {
	// ETag is that of the entry; empty if Err is set.
	ETag string
	Err  error
}

// BatchSet writes entries one by one, in one round trip for each shard. Results are in the order of items.
func (s *Store) BatchSet(ctx context.Context, namespace string, items []BatchWrite) ([]BatchStored, error) {
	results := make([]BatchStored, len(items))
	redisKeys := make([]string, len(items))
	var steps []int
	for i := range items {
		if err := s.sealable(&items[i].Write); err != nil {
			return nil, err
		}
		redisKeys[i] = s.cacheKey(namespace, items[i].Key)
		if revokes(items[i].Fresh + items[i].Stale) {
			steps = append(steps, leaseStep(i))
		}
		steps = append(steps, entryStep(i))
	}
	defer s.forget(redisKeys...)
	now, earliest := s.Now(), s.clock.earliest()
	entries, ttls := make([]*Entry, len(items)), make([]time.Duration, len(items))
	for i := range items {
		entries[i], ttls[i] = items[i].entry(s.recent.after(earliest, namespace, items[i].Tags), now)
		results[i].ETag = entries[i].ETag.String()
	}
	err := s.batch(ctx, "set", writes, false, steps, func(b rueidis.Builder, step int) rueidis.Completed {
		i := step / 2
		if step == leaseStep(i) {
			return b.Unlink().Key(s.leaseKey(namespace, items[i].Key)).Build()
		}
		return s.setCommand(b, redisKeys[i], entries[i], ttls[i])
	}, func(_ int, r rueidis.RedisResult) error {
		return r.Error()
	}, func(step int, err error) { results[step/2] = BatchStored{Err: err} })
	if err != nil {
		return nil, err
	}
	return results, nil
}

// The commands of a batch that revokes leases go two for a key, the lease's first: a Fill between the two is refused, and
// what one wrote before them is overwritten or removed.
func leaseStep(i int) int { return 2 * i }
func entryStep(i int) int { return 2*i + 1 }

// BatchDeleted is what became of one key of a batch.
type BatchDeleted struct {
	// Deleted says that there was an entry.
	Deleted bool
	Err     error
}

// BatchDelete removes entries one by one and revokes their leases, in one round trip for each shard. Results are in the
// order of keys.
func (s *Store) BatchDelete(ctx context.Context, namespace string, keys []string) ([]BatchDeleted, error) {
	results := make([]BatchDeleted, len(keys))
	redisKeys := make([]string, len(keys))
	for i, key := range keys {
		redisKeys[i] = s.cacheKey(namespace, key)
	}
	defer s.forget(redisKeys...)
	err := s.batch(ctx, "unlink", writes, false, all(2*len(keys)), func(b rueidis.Builder, step int) rueidis.Completed {
		i := step / 2
		if step == leaseStep(i) {
			return b.Unlink().Key(s.leaseKey(namespace, keys[i])).Build()
		}
		return b.Unlink().Key(redisKeys[i]).Build()
	}, func(step int, r rueidis.RedisResult) error {
		n, err := r.AsInt64()
		if step == entryStep(step/2) {
			results[step/2].Deleted = n > 0
		}
		return err
	}, func(step int, err error) { results[step/2] = BatchDeleted{Err: err} })
	if err != nil {
		return nil, err
	}
	return results, nil
}

func all(n int) []int {
	indexes := make([]int, n)
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}
