package store

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
)

// BatchVerdict is the answer to one Validation of a batch, or why there is none.
type BatchVerdict struct {
	Verdict
	Err error
}

// validating is one token of a batch on its way to a verdict.
type validating struct {
	Validation
	cred   credential
	record string // its key
	// near is what the near cache knows, of which the epoch is missing; nil if it knows nothing.
	near    *sessionRecord
	ticket  near.Ticket
	read    *sessionRecord
	as      standing
	decided bool
}

// ValidateAll checks tokens one by one. What the near cache knows costs nothing; the rest is read in one round trip for
// each shard, and another where a token is not active by what the near cache knew or has to be touched. Answers are in the
// order of vs.
func (s *Store) ValidateAll(ctx context.Context, namespace string, vs []Validation) ([]BatchVerdict, error) {
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
	if err := b.read(ctx, missing, epochs); err != nil {
		return nil, err
	}
	// What the near cache knew was not enough for a good verdict.
	var doubted []int
	for _, i := range epochs {
		if !items[i].decided && results[i].Err == nil {
			doubted = append(doubted, i)
		}
	}
	if err := b.read(ctx, doubted, nil); err != nil {
		return nil, err
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	return results, nil
}

// decideNear gives a good verdict where the near cache allows it.
func (s *Store) decideNear(namespace string, item *validating, result *BatchVerdict) bool {
	v, ok := s.near.Get(item.record)
	if !ok {
		return false
	}
	r := v.(*sessionRecord)
	epoch := int64(0)
	if r.subjectHash != "" {
		v, ok := s.near.Get(subjectKey(item.cred.partition, namespace, r.subjectHash))
		if !ok {
			item.near = r
			return false
		}
		epoch = v.(*subjectEpochs).of(r.session.Device.Class)
	}
	return item.decide(r, epoch, s.Now(), result)
}

// decide gives a good verdict by a record of the near cache and the epoch of its subject, if it is one.
func (item *validating) decide(r *sessionRecord, epoch int64, now time.Time, result *BatchVerdict) bool {
	if !r.active(epoch, now) {
		return false
	}
	verdict, as := r.weigh(item.cred, item.Validation, now)
	if verdict.Outcome != SessionActive {
		return false
	}
	result.Verdict, item.read, item.as, item.decided = verdict, r, as, true
	return true
}

type validationBatch struct {
	*Store
	namespace string
	items     []validating
	results   []BatchVerdict
}

// read asks Redis for the records with the indexes missing and decides them, and for the epochs that those of the near
// cache want. If any answer may be kept, all go over the connections that Redis tracks, which are the primaries' too.
func (b *validationBatch) read(ctx context.Context, missing, epochs []int) error {
	tracked := len(epochs) > 0
	for _, i := range missing {
		item := &b.items[i]
		tracked = tracked || item.Near
		item.ticket, item.near = b.near.Begin(item.record), nil
	}
	for _, i := range epochs {
		b.items[i].ticket = b.near.Begin(b.epochKey(i))
	}
	return b.scripts(ctx, sessionRead, reads, tracked, append(missing, epochs...), scriptBatch{
		command: func(c rueidis.Builder, i int) (rueidis.Completed, bool) {
			if b.items[i].near == nil {
				return rueidis.Completed{}, false
			}
			return c.Hgetall().Key(b.epochKey(i)).Build(), true
		},
		call: func(i int) (keys, args []string) {
			p, id := b.items[i].cred.partition, b.items[i].cred.id
			return []string{b.items[i].record, attributesKey(p, b.namespace, id)}, []string{subjectKey(p, b.namespace, "")}
		},
		read: func(i int, r rueidis.RedisResult) error {
			if b.items[i].near != nil {
				return b.readEpoch(i, r)
			}
			return b.readRecord(i, r, tracked)
		},
		fail: func(i int, err error) { b.results[i] = BatchVerdict{Err: err} },
	})
}

func (b *validationBatch) epochKey(i int) string {
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
	b.near.Put(b.epochKey(i), item.ticket, &e, e.size(), near.Longest)
	item.decide(item.near, e.of(item.near.session.Device.Class), b.Now(), &b.results[i])
	return nil
}

func (b *validationBatch) readRecord(i int, answer rueidis.RedisResult, tracked bool) error {
	m, err := answer.ToMessage()
	if err != nil {
		return err
	}
	item := &b.items[i]
	r, err := b.parseSession(m, sessionKey(item.cred.partition, b.namespace, item.cred.id), item.cred.id)
	if err != nil {
		return err
	}
	item.decided = true
	if r == nil || !r.active(r.readEpoch, r.readAt) {
		return nil
	}
	if tracked && item.Near {
		b.near.Put(item.record, item.ticket, r, r.size, min(near.Longest, r.session.ExpiresAt().Sub(r.readAt)))
	}
	b.results[i].Verdict, item.as = r.weigh(item.cred, item.Validation, r.readAt)
	item.read = r
	return nil
}

// settle has Redis told what follows from the verdicts, as Validate does.
func (b *validationBatch) settle(ctx context.Context) error {
	var now []int
	intervals := make(map[int]time.Duration)
	for i := range b.items {
		item, verdict := &b.items[i], b.results[i].Verdict
		if item.read == nil {
			continue
		}
		if interval, ok := item.settlesNow(verdict, item.as); ok {
			now, intervals[i] = append(now, i), interval
			continue
		}
		b.settleLater(b.namespace, item.cred, item.Validation, item.read, verdict, item.as)
	}
	keys := make([]string, len(now))
	for n, i := range now {
		keys[n] = b.items[i].record
	}
	defer b.forget(keys...)
	return b.scripts(ctx, sessionTouch, writes, false, now, scriptBatch{
		call: func(i int) (keys, args []string) { return touching(b.items[i].cred, b.namespace, intervals[i]) },
		read: func(i int, answer rueidis.RedisResult) error {
			last, err := answer.AsInt64()
			if err != nil {
				return err
			}
			b.results[i].Verdict = b.results[i].at(last)
			return nil
		},
		fail: func(i int, err error) { b.results[i] = BatchVerdict{Err: err} },
	})
}

// scriptBatch says how to run a script for each index of a batch.
type scriptBatch struct {
	// command, where it is set, may give another command for an index.
	command func(b rueidis.Builder, i int) (rueidis.Completed, bool)
	call    func(i int) (keys, args []string)
	read    func(i int, answer rueidis.RedisResult) error
	fail    func(i int, err error)
}

// scripts runs a script for each index in one round trip for each shard, by its hash, and again by its text for a server
// that does not know it yet.
func (s *Store) scripts(ctx context.Context, sc *script, eff effect, tracked bool, indexes []int, sb scriptBatch) error {
	var unknown []int
	run := func(indexes []int, byHash bool) error {
		if len(indexes) == 0 {
			return nil
		}
		return s.batch(ctx, sc.name, eff, tracked, indexes, func(b rueidis.Builder, i int) rueidis.Completed {
			if sb.command != nil {
				if c, ok := sb.command(b, i); ok {
					return c
				}
			}
			keys, args := sb.call(i)
			return sc.command(b, byHash, eff == reads, keys, args)
		}, func(i int, answer rueidis.RedisResult) error {
			var re *rueidis.RedisError
			if byHash && errors.As(answer.Error(), &re) && re.IsNoScript() {
				unknown = append(unknown, i)
				return nil
			}
			return sb.read(i, answer)
		}, sb.fail)
	}
	if err := run(indexes, true); err != nil {
		return err
	}
	return run(unknown, false)
}

// command returns the command that runs the script.
func (sc *script) command(b rueidis.Builder, byHash, readOnly bool, keys, args []string) rueidis.Completed {
	n := int64(len(keys))
	switch {
	case byHash && readOnly:
		return b.EvalshaRo().Sha1(sc.sha).Numkeys(n).Key(keys...).Arg(args...).Build()
	case byHash:
		return b.Evalsha().Sha1(sc.sha).Numkeys(n).Key(keys...).Arg(args...).Build()
	case readOnly:
		return b.EvalRo().Script(sc.text).Numkeys(n).Key(keys...).Arg(args...).Build()
	}
	return b.Eval().Script(sc.text).Numkeys(n).Key(keys...).Arg(args...).Build()
}
