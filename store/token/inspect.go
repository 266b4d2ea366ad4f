package token

import (
	"context"
	"crypto/subtle"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// Inspected describes a token, without its payload.
type Inspected struct {
	// Verdict is what [Tokens.Consume] would return if the secret were right; [Accepted] means that the token is open.
	Verdict          Verdict
	ID               string
	Kind             Kind
	Subject, Purpose string
	CreatedAt        time.Time
	ExpiresAt        time.Time
	AttemptsLeft     int
	RecoveryLeft     int
}

// Inspect reads a token by its secret, which must be right, or by its id, without counting an attempt. Of p it reads Link, ID,
// Purpose, Binding and Limits; an empty purpose means any. Only a LINK can be named by its secret: nobody guesses 256 bits.
func (t *Tokens) Inspect(ctx context.Context, namespace string, p Presented) (Inspected, error) {
	id, secret, ok := p.ID, "", true
	if p.Link != "" {
		id, secret, ok = parseLink(p.Link)
	}
	part, ok := idOf(id, ok)
	if !ok {
		return Inspected{Verdict: Incorrect}, nil
	}
	m, err := session.Ask([]string{tokenKey(part, namespace, id)}, func(keys []string) (rueidis.RedisMessage, error) {
		return t.redis.RunRead(ctx, inspectScript, false, keys, id, statePrefix(part, namespace))
	})
	if err != nil {
		return Inspected{}, err
	}
	r, found, err := parseInspection(m, t.redis.Now())
	if err != nil {
		return Inspected{}, err
	}
	wrong := !found || p.Purpose != "" && p.Purpose != r.Purpose
	if found && p.Link != "" {
		right := subtle.ConstantTimeCompare([]byte(r.digest), []byte(secret)) & subtle.ConstantTimeCompare([]byte(r.binding), []byte(digest("binding", p.Binding)))
		wrong = wrong || r.Kind != Link || right != 1
	}
	if wrong {
		return Inspected{Verdict: Incorrect}, nil
	}
	r.ID = id
	r.Verdict = r.stands(p.Limits)
	return r.Inspected, nil
}

// inspection is what inspect.lua returns.
type inspection struct {
	Inspected

	digest, binding                    string
	used, listed                       bool
	attempts, maxAttempts              int64
	now, failures, windowEnd, straight int64
}

func parseInspection(m rueidis.RedisMessage, now time.Time) (r inspection, found bool, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 3 {
		return r, false, redis.ErrInternal
	}
	record, err1 := optional(parts[0])
	state, err2 := optional(parts[1])
	r.now, err = parts[2].AsInt64()
	if err1 != nil || err2 != nil || err != nil || len(record) != 0 && (len(record) != 12 || len(state) != 4) {
		return r, false, redis.ErrInternal
	}
	if len(record) == 0 {
		return r, false, nil
	}
	if r.now == 0 {
		r.now = now.UnixMilli()
	}
	n := numbers{ok: true}
	r.Kind, r.Subject, r.Purpose, r.digest, r.binding = Kind(record[0]), record[1], record[2], record[3], record[4]
	r.ExpiresAt, r.attempts, r.maxAttempts = time.UnixMilli(n.int64(record[5])), n.int64(record[6]), n.int64(record[7])
	r.used, r.RecoveryLeft, r.CreatedAt = record[8] != "", int(n.int64(record[9])), time.UnixMilli(n.int64(record[10]))
	r.listed, r.failures, r.windowEnd, r.straight = state[0] != "", n.int64(state[1]), n.int64(state[2]), n.int64(state[3])
	if r.maxAttempts > 0 {
		r.AttemptsLeft = int(max(r.maxAttempts-r.attempts, 0))
	}
	if !n.ok {
		return r, false, redis.Fail(redis.ErrCorrupt, nil)
	}
	return r, true, nil
}

// stands returns the verdict on a token whose secret is right.
func (r *inspection) stands(l Limits) Verdict {
	switch {
	case r.used || r.Kind == Recovery && r.RecoveryLeft == 0:
		return AlreadyUsed
	case r.now >= r.ExpiresAt.UnixMilli():
		return Expired
	case !r.listed:
		return Revoked
	case r.maxAttempts > 0 && r.AttemptsLeft == 0:
		return AttemptsExhausted
	case r.straight >= int64(l.Consecutive) || r.failures >= int64(l.Failures) && r.now < r.windowEnd:
		return SubjectLocked
	}
	return Accepted
}

// optional returns the strings of an array, in which nil is an empty one.
func optional(m rueidis.RedisMessage) ([]string, error) {
	parts, err := m.ToArray()
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(parts))
	for i, part := range parts {
		if part.IsNil() {
			continue
		}
		if texts[i], err = part.ToString(); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// numbers reads numbers of a record, in which an empty text is zero.
type numbers struct{ ok bool }

func (n *numbers) int64(text string) int64 {
	if text == "" {
		return 0
	}
	v, err := strconv.ParseInt(text, 10, 64)
	n.ok = n.ok && err == nil
	return v
}

// Revoke ends one token and reports whether it was open. Repeated within two minutes with the same [session.WithRequest], it
// reports what the first call did.
func (t *Tokens) Revoke(ctx context.Context, namespace, id string) (revoked bool, err error) {
	part, ok := parseID(id)
	if !ok {
		return false, nil
	}
	keys := []string{tokenKey(part, namespace, id), session.KeysOf(part, namespace).Events}
	n, err := t.revoke(ctx, revokeScript, part, namespace, keys, []string{namespace, id, statePrefix(part, namespace)}, "token", id)
	return n == 1, err
}

// RevokeAll ends all tokens of a subject and purpose and returns how many were open.
func (t *Tokens) RevokeAll(ctx context.Context, namespace, subject, purpose string) (int64, error) {
	part, hash := session.SubjectHash(namespace, subject)
	keys := []string{stateKey(part, namespace, hash, strings.TrimSuffix(purpose, GrantSuffix)), session.KeysOf(part, namespace).Events}
	return t.revoke(ctx, revokeAllScript, part, namespace, keys, []string{namespace, subject, purpose}, "tokens", hash, purpose)
}

func (t *Tokens) revoke(ctx context.Context, script *redis.Script, part session.Partition, namespace string, keys, args []string, operation ...string) (int64, error) {
	if key, ok := session.RequestKey(ctx, part, namespace, operation...); ok {
		keys = append(keys, key)
	} else {
		keys = append(keys, keys[1])
	}
	defer t.redis.Forget(keys[:2]...)
	m, err := session.Ask(keys, func(keys []string) (rueidis.RedisMessage, error) {
		return t.redis.Run(ctx, script, redis.Writes, keys, args...)
	})
	if err != nil {
		return 0, err
	}
	return m.AsInt64()
}
