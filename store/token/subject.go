package token

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// Open is a token that is listed as open.
type Open struct {
	ID                   string
	Kind                 Kind
	CreatedAt, ExpiresAt time.Time
}

// Budget describes a failure budget.
type Budget struct {
	// Locked means that the budget is spent; RetryAfter is the time until the lock ends, negative if only a reset ends it.
	Locked     bool
	RetryAfter time.Duration
	// Failures counts those of the current window, and Left those that are still allowed. Consecutive counts those in a row.
	Failures, Left, Consecutive int
	// IssueAfter is the time until another token can be issued; zero means now.
	IssueAfter time.Duration
	// Open are the open tokens, the oldest one first.
	Open []Open
}

// InspectSubject reads the budget of a subject and purpose.
func (t *Tokens) InspectSubject(ctx context.Context, namespace, subject, purpose string, l Limits) (Budget, error) {
	part, hash := session.SubjectHash(namespace, subject)
	fields, err := t.fields(ctx, stateKey(part, namespace, hash, purpose))
	if err != nil {
		return Budget{}, err
	}
	now, n := t.redis.Now(), numbers{ok: true}
	b := budget(fields, now, l.Failures, &n)
	if b.Consecutive = int(n.int64(fields["st"])); b.Consecutive >= l.Consecutive {
		b.Locked, b.RetryAfter = true, -1
	}
	b.Left = max(min(b.Left, l.Consecutive-b.Consecutive), 0)
	if l.Cooldown > 0 {
		b.IssueAfter = max(time.UnixMilli(n.int64(fields["ca"])).Sub(now), 0)
	}
	for name, value := range fields {
		id, ok := strings.CutPrefix(name, "t:")
		if !ok {
			continue
		}
		parts := strings.Fields(value)
		if len(parts) != 3 {
			return Budget{}, redis.Fail(redis.ErrCorrupt, nil)
		}
		o := Open{ID: id, Kind: Kind(parts[2]), CreatedAt: time.UnixMilli(n.int64(parts[0])), ExpiresAt: time.UnixMilli(n.int64(parts[1]))}
		if o.ExpiresAt.After(now) {
			b.Open = append(b.Open, o)
		}
	}
	if !n.ok {
		return Budget{}, redis.Fail(redis.ErrCorrupt, nil)
	}
	slices.SortFunc(b.Open, func(x, y Open) int { return cmp.Or(x.CreatedAt.Compare(y.CreatedAt), cmp.Compare(x.ID, y.ID)) })
	return b, nil
}

// InspectSource reads the budget of a source.
func (t *Tokens) InspectSource(ctx context.Context, namespace, source string, l Limits) (Budget, error) {
	fields, err := t.fields(ctx, sourceKey(namespace, source))
	if err != nil {
		return Budget{}, err
	}
	n := numbers{ok: true}
	b := budget(fields, t.redis.Now(), l.SourceFailures, &n)
	if !n.ok {
		return Budget{}, redis.Fail(redis.ErrCorrupt, nil)
	}
	return b, nil
}

// budget reads the fields that every budget has.
func budget(fields map[string]string, now time.Time, most int, n *numbers) Budget {
	b := Budget{Left: most}
	if left := time.UnixMilli(n.int64(fields["fu"])).Sub(now); left > 0 {
		b.Failures = int(n.int64(fields["f"]))
		b.Left = max(most-b.Failures, 0)
		if b.Left == 0 {
			b.Locked, b.RetryAfter = true, left
		}
	}
	return b
}

// fields reads a hash on the primary.
func (t *Tokens) fields(ctx context.Context, key string) (map[string]string, error) {
	return redis.RoundTrip(ctx, t.redis, "hgetall", redis.Reads, func(ctx context.Context, conns *redis.Conns) (map[string]string, error) {
		c := conns.Primary
		return c.Do(ctx, c.B().Hgetall().Key(key).Build()).AsStrMap()
	})
}

// ResetSubject clears the failures and the cooldown of a subject and purpose. Its tokens stay open.
func (t *Tokens) ResetSubject(ctx context.Context, namespace, subject, purpose string) error {
	part, hash := session.SubjectHash(namespace, subject)
	keys := []string{stateKey(part, namespace, hash, purpose), session.KeysOf(part, namespace).Events}
	defer t.redis.Forget(keys...)
	_, err := t.redis.Run(ctx, resetScript, redis.Writes, keys, namespace, subject, purpose)
	return err
}

// ResetSource clears the failures of a source.
func (t *Tokens) ResetSource(ctx context.Context, namespace, source string) error {
	_, err := redis.RoundTrip(ctx, t.redis, "unlink", redis.Writes, func(ctx context.Context, conns *redis.Conns) (int64, error) {
		c := conns.Primary
		return c.Do(ctx, c.B().Unlink().Key(sourceKey(namespace, source)).Build()).AsInt64()
	})
	return err
}

// Claim identifies what is claimed.
type Claim struct {
	// Scope is what the ID is unique in.
	Scope, ID string
	TTL       time.Duration
	// Request names the call; empty means that it cannot be repeated.
	Request string
}

// Claimed is the result of a claim.
type Claimed struct {
	// OK means that it was claimed. Uncertain means that it was not, because Redis has evicted claims that are in force until
	// RetryAfter has passed.
	OK, Uncertain bool
	RetryAfter    time.Duration
	// Last is the greatest number.
	Last int64
}

// ClaimOnce claims an identifier the first time it is asked to, within the claim's TTL.
func (t *Tokens) ClaimOnce(ctx context.Context, namespace string, c Claim) (Claimed, error) {
	return t.claim(ctx, namespace, "once", c, "")
}

// numberDigits is the number of decimal digits of the greatest 64-bit number. Scripts compare numbers of that many digits as
// strings, because those of Lua are exact up to 2^53 only.
const numberDigits = 19

// ClaimCounter claims a number, which is not negative, if it is greater than all that were claimed before.
func (t *Tokens) ClaimCounter(ctx context.Context, namespace string, c Claim, value int64) (Claimed, error) {
	text := strconv.FormatInt(value, 10)
	return t.claim(ctx, namespace, "counter", c, strings.Repeat("0", numberDigits-len(text))+text)
}

func (t *Tokens) claim(ctx context.Context, namespace, what string, c Claim, number string) (claimed Claimed, err error) {
	part, member := claimOf(namespace, what, c)
	keys := claimKeys(part)
	keys = append(keys, keys[2])
	if c.Request != "" {
		keys[3], _ = session.RequestKey(session.WithRequest(ctx, c.Request), part, namespace, "claim", member, number)
	}
	m, err := t.redis.Run(ctx, claimScript, effect(c.Request), keys, member, redis.Millis(c.TTL), number)
	if err != nil {
		return claimed, err
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) != 3 {
		return claimed, redis.ErrInternal
	}
	outcome, err1 := parts[0].ToString()
	last, err2 := parts[1].ToString()
	wait, err3 := parts[2].AsInt64()
	n := numbers{ok: err1 == nil && err2 == nil && err3 == nil}
	claimed = Claimed{OK: outcome == "claimed", Uncertain: outcome == "uncertain", RetryAfter: time.Duration(wait) * time.Millisecond, Last: n.int64(last)}
	if !n.ok || !claimed.OK && !claimed.Uncertain && outcome != "refused" {
		return Claimed{}, redis.ErrInternal
	}
	return claimed, nil
}
