package session

import (
	"context"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// BatchVerdict is the verdict on one token of a batch, or its error.
type BatchVerdict struct {
	Verdict
	Err error
}

// validating is the state of one token of a batch.
type validating struct {
	Validation
	cred   credential
	record string // key of the record
	// near is the record in the near cache, if the subject's epoch is not there too; nil otherwise.
	near    *record
	ticket  near.Ticket
	read    *record
	as      standing
	decided bool
	// again is set if Redis must be asked once more, for this token alone.
	again bool
}

// ValidateAll checks tokens independently of each other and returns the verdicts in the order of vs. Sessions in the near
// cache cost no round trip. The others are read in one round trip per shard. A second one follows for those that are not active by
// the near cache or by what was read for it, and a last one for touches that the answer waits for.
func (s *Sessions) ValidateAll(ctx context.Context, namespace string, vs []Validation) ([]BatchVerdict, error) {
	results := make([]BatchVerdict, len(vs))
	items := make([]validating, len(vs))
	var missing, epochs []int
	for i, v := range vs {
		cred, ok := parseToken(v.Token)
		items[i] = validating{Validation: v, cred: cred, record: sessionKey(cred.partition, namespace, cred.id), decided: !ok}
		switch {
		case !ok:
		case v.Near && s.decideNear(namespace, &items[i], &results[i]):
		case items[i].near != nil:
			epochs = append(epochs, i)
		default:
			missing = append(missing, i)
		}
	}
	b := &validationBatch{s, namespace, items, results}
	read := slices.Concat(missing, epochs)
	b.failAll(read, b.read(ctx, missing, epochs, true))
	// The near cache, or what was read to fill it, did not lead to an active verdict: only the primary may give another one. After
	// a failover the tracked connections may lead to the former one for a while.
	var doubted []int
	for _, i := range read {
		if !items[i].decided && results[i].Err == nil {
			doubted = append(doubted, i)
		}
	}
	b.failAll(doubted, b.read(ctx, doubted, nil, false))
	b.failAll(b.settle(ctx))
	return results, b.err(ctx)
}

// failAll gives items the error of the round trip that they share, unless it is nil. Those that the near cache has decided are not
// among them.
func (b *validationBatch) failAll(items []int, err error) {
	if err == nil {
		return
	}
	for _, i := range items {
		b.results[i] = BatchVerdict{Err: err}
	}
}

// err returns the error of the whole batch: if it has failed for every token and may be repeated.
func (b *validationBatch) err(ctx context.Context) error {
	if len(b.results) == 0 || slices.ContainsFunc(b.results, func(v BatchVerdict) bool { return !redis.Retryable(v.Err) }) {
		if slices.ContainsFunc(b.results, func(v BatchVerdict) bool { return v.Err != nil }) {
			return ctx.Err()
		}
		return nil
	}
	return b.results[0].Err
}

// decideNear decides a token from the near cache, if the verdict is active.
func (s *Sessions) decideNear(namespace string, item *validating, result *BatchVerdict) bool {
	v, ok := s.redis.Near.Get(item.record)
	if !ok {
		return false
	}
	r := v.(*record)
	epoch := int64(0)
	if r.subjectHash != "" {
		v, ok := s.redis.Near.Get(subjectKey(item.cred.partition, namespace, r.subjectHash))
		if !ok {
			item.near = r
			return false
		}
		epoch = v.(*subjectEpochs).endedBelow(r)
	}
	return item.decide(r, epoch, s.redis.Now(), result)
}

// decide decides a token by a record of the near cache and the epoch of its subject, if the verdict is active.
func (item *validating) decide(r *record, epoch int64, now time.Time, result *BatchVerdict) bool {
	if !r.active(epoch, now) {
		return false
	}
	verdict, as := r.weigh(item.cred, item.Validation, now)
	if verdict.Outcome != Active {
		return false
	}
	result.Verdict, item.read, item.as, item.decided = verdict, r, as, true
	return true
}

type validationBatch struct {
	*Sessions
	namespace string
	items     []validating
	results   []BatchVerdict
}

// read reads the records of the items in missing and decides them, and reads the subject's epochs for the items in epochs.
// If any answer may go into the near cache, all commands use the tracked connections, and decide nothing but active verdicts.
// Keep says whether answers may go there.
func (b *validationBatch) read(ctx context.Context, missing, epochs []int, keep bool) error {
	tracked := len(epochs) > 0
	for _, i := range missing {
		item := &b.items[i]
		tracked = tracked || keep && item.Near
		item.ticket, item.near = b.redis.Near.Begin(item.record), nil
	}
	for _, i := range epochs {
		b.items[i].ticket = b.redis.Near.Begin(b.subjectKeyOf(i))
	}
	items := slices.Concat(missing, epochs)
	err := b.redis.RunScripts(ctx, items, redis.ScriptBatch{
		Script: readScript, Effect: redis.Reads, Tracked: tracked,
		Command: func(c rueidis.Builder, i int) (rueidis.Completed, bool) {
			if b.items[i].near == nil {
				return rueidis.Completed{}, false
			}
			return c.Hgetall().Key(b.subjectKeyOf(i)).Build(), true
		},
		Call: func(i int) (keys, args []string) {
			return reading(b.items[i].cred.partition, b.namespace, b.items[i].cred.id)
		},
		Read: func(i int, r rueidis.RedisResult) error {
			if b.items[i].near != nil {
				return b.readEpoch(i, r)
			}
			return b.readRecord(i, r, tracked)
		},
		Fail: func(i int, err error) { b.results[i] = BatchVerdict{Err: err} },
	})
	for _, i := range items {
		if item := &b.items[i]; err == nil && item.again {
			item.again = false
			b.readAgain(ctx, i)
		}
	}
	return err
}

// readAgain decides a token whose keys Redis had not found: its slot may be moving.
func (b *validationBatch) readAgain(ctx context.Context, i int) {
	item := &b.items[i]
	r, err := b.Sessions.read(ctx, item.cred.partition, b.namespace, item.cred.id, false)
	if err != nil {
		b.results[i] = BatchVerdict{Err: err}
		return
	}
	item.decided = true
	if r != nil {
		b.results[i].Verdict, item.as = r.weigh(item.cred, item.Validation, r.readAt)
		item.read = r
	}
}

func (b *validationBatch) subjectKeyOf(i int) string {
	return subjectKey(b.items[i].cred.partition, b.namespace, b.items[i].near.subjectHash)
}

func (b *validationBatch) readEpoch(i int, answer rueidis.RedisResult) error {
	fields, err := answer.AsStrMap()
	if err != nil {
		return err
	}
	e, err := parseSubjectEpochs(fields)
	if err != nil {
		return err
	}
	item := &b.items[i]
	b.redis.Near.Put(b.subjectKeyOf(i), item.ticket, &e, e.size(), near.Longest)
	item.decide(item.near, e.endedBelow(item.near), b.redis.Now(), &b.results[i])
	return nil
}

func (b *validationBatch) readRecord(i int, answer rueidis.RedisResult, tracked bool) error {
	m, err := answer.ToMessage()
	if err != nil {
		return err
	}
	item := &b.items[i]
	if _, asked := missing(m); asked {
		item.again = true
		return nil
	}
	r, err := b.parseRecord(m, sessionKey(item.cred.partition, b.namespace, item.cred.id), item.cred.id)
	if err != nil {
		return err
	}
	item.decided = !tracked
	if r == nil || !r.active(r.readEpoch, r.readAt) {
		return nil
	}
	if tracked && item.Near {
		b.redis.Near.Put(item.record, item.ticket, r, r.size, min(near.Longest, r.session.ExpiresAt().Sub(r.readAt)))
	}
	verdict, as := r.weigh(item.cred, item.Validation, r.readAt)
	if item.decided = item.decided || verdict.Outcome == Active; item.decided {
		b.results[i].Verdict, item.read, item.as = verdict, r, as
	}
	return nil
}

// settle runs the touches that the verdicts call for, as [Sessions.settle] does, and returns the items that waited for one.
func (b *validationBatch) settle(ctx context.Context) (now []int, err error) {
	intervals := make(map[int]time.Duration)
	for i := range b.items {
		item, verdict := &b.items[i], b.results[i].Verdict
		if item.read == nil {
			continue
		}
		if interval, wait := b.settles(b.namespace, item.cred, item.Validation, item.read, verdict, item.as); wait {
			now, intervals[i] = append(now, i), interval
		}
	}
	keys := make([]string, len(now))
	for n, i := range now {
		keys[n] = b.items[i].record
	}
	defer b.redis.Forget(keys...)
	var again []int
	err = b.redis.RunScripts(ctx, now, redis.ScriptBatch{
		Script: touchScript, Effect: redis.Writes,
		Call: func(i int) (keys, args []string) { return touching(b.items[i].cred, b.namespace, intervals[i]) },
		Read: func(i int, answer rueidis.RedisResult) error {
			if m, err := answer.ToMessage(); err == nil && m.IsArray() {
				again = append(again, i) // it asks for further keys
				return nil
			}
			last, err := answer.AsInt64()
			if err != nil {
				return err
			}
			b.results[i].Verdict = b.results[i].at(last)
			return nil
		},
		Fail: func(i int, err error) { b.results[i] = BatchVerdict{Err: err} },
	})
	for _, i := range again {
		if last, err := b.touch(ctx, b.items[i].cred, b.namespace, intervals[i]); err != nil {
			b.results[i] = BatchVerdict{Err: err}
		} else {
			b.results[i].Verdict = b.results[i].at(last)
		}
	}
	return now, err
}
