package token

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// Presented is a token as somebody presents it: a Link alone, or a Code together with an ID, or with a Subject for recovery
// codes.
type Presented struct {
	Link, ID, Subject string
	Code              string
	Purpose           string
	Binding           string
	// Source is where the attempt comes from; empty means that no source is counted.
	Source string
	// Request names the call; empty means that it cannot be repeated.
	Request string
	// Except is the id of a session that is kept if the token ends those of its subject.
	Except string
	// Longest is the maximum absolute timeout of any session.
	Longest time.Duration
	Limits  Limits
}

// Verdict is the outcome of an attempt to consume a token.
type Verdict string

// The verdicts. An attempt fails if it is Incorrect; the others mean that the secret is right, or that nothing was compared.
const (
	Accepted          Verdict = "accepted"
	Incorrect         Verdict = "incorrect"
	Expired           Verdict = "expired"
	AlreadyUsed       Verdict = "already_used"
	Revoked           Verdict = "revoked"
	AttemptsExhausted Verdict = "attempts_exhausted"
	SubjectLocked     Verdict = "subject_locked"
	SourceLocked      Verdict = "source_locked"
)

// Consumed is the result of [Tokens.Consume].
type Consumed struct {
	Verdict Verdict
	// ID, Payload and Subject are those of the token; empty unless it was accepted.
	ID, Payload, Subject string
	// AttemptsLeft is how many attempts are left after an incorrect one.
	AttemptsLeft int
	// RetryAfter is the time until a lock ends; negative means that only a reset ends it.
	RetryAfter time.Duration
	// Replayed means that the same request was accepted before.
	Replayed bool
	// RecoveryLeft is how many recovery codes are left.
	RecoveryLeft int
	// RevokedSessions is how many sessions of the subject have ended.
	RevokedSessions int64
	// Grant, GrantID and GrantExpires are of the token that [Tokens.Exchange] has made.
	Grant, GrantID string
	GrantExpires   time.Time
}

// Grant describes the token that takes the place of an exchanged one.
type Grant struct {
	TTL         time.Duration
	Binding     string
	MaxAttempts int
}

// Consume accepts a token once. A failure counts against the token, its subject and the source. The source's budget is in another
// slot: it is charged before the token is looked at, and what was no failure is refunded afterwards. If the process dies in
// between, the source has paid for an attempt too many, and never for one too few.
func (t *Tokens) Consume(ctx context.Context, namespace string, p Presented) (Consumed, error) {
	return t.charged(ctx, namespace, p, func() (Consumed, error) { return t.consume(ctx, namespace, p, nil) })
}

// Exchange consumes a token and issues a grant in its place, in one step.
func (t *Tokens) Exchange(ctx context.Context, namespace string, p Presented, g Grant) (Consumed, error) {
	return t.charged(ctx, namespace, p, func() (Consumed, error) { return t.consume(ctx, namespace, p, &g) })
}

// charged makes an attempt after it has been charged to its source.
func (t *Tokens) charged(ctx context.Context, namespace string, p Presented, attempt func() (Consumed, error)) (Consumed, error) {
	if p.Source == "" {
		return attempt()
	}
	key := sourceKey(namespace, p.Source)
	// That an attempt is counted twice is no harm, so a lost answer may be asked for again.
	m, err := t.redis.Run(ctx, sourceScript, redis.Writes, []string{key}, strconv.Itoa(p.Limits.SourceFailures), redis.Millis(p.Limits.SourceWindow))
	if err != nil {
		return Consumed{}, err
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) != 3 {
		return Consumed{}, redis.ErrInternal
	}
	counted, err1 := parts[0].AsInt64()
	window, err2 := parts[1].ToString()
	wait, err3 := parts[2].AsInt64()
	if err1 != nil || err2 != nil || err3 != nil {
		return Consumed{}, redis.ErrInternal
	}
	if counted == 0 {
		return Consumed{Verdict: SourceLocked, RetryAfter: time.Duration(wait) * time.Millisecond}, nil
	}
	c, err := attempt()
	if err == nil && c.Verdict != Incorrect || err != nil && nothingCompared(err) {
		// The source stays charged if this fails.
		_, _ = t.redis.Run(ctx, refundScript, redis.WritesOnce, []string{key}, window)
	}
	return c, err
}

// nothingCompared reports whether an error means that the attempt was not made.
func nothingCompared(err error) bool {
	return errors.Is(err, redis.ErrUnavailable) || errors.Is(err, redis.ErrOverloaded) || errors.Is(err, keyring.ErrKeyUnknown)
}

// consume presents a token to the script, which makes a grant if there is one.
func (t *Tokens) consume(ctx context.Context, namespace string, p Presented, g *Grant) (c Consumed, err error) {
	id, link, kinds, subjectHash := p.ID, "", " code recovery ", ""
	var part session.Partition
	ok := true
	switch {
	case p.Link != "":
		id, link, ok = parseLink(p.Link)
		kinds = " link "
	case p.Subject != "":
		part, subjectHash = session.SubjectHash(namespace, p.Subject)
		id, kinds = recoveryID(part, namespace, p.Subject, p.Purpose), " recovery "
	}
	if part, ok = idOf(id, ok); !ok {
		return Consumed{Verdict: Incorrect}, nil
	}
	record, slot := tokenKey(part, namespace, id), session.KeysOf(part, namespace)
	keys := []string{record, slot.Events, slot.Epoch, slot.Ends, slot.Discarded}
	kept, keptAt := "", "0"
	if of, attributes, ok := session.KeysOfSession(part, namespace, p.Except); ok {
		kept, keptAt = p.Except, strconv.Itoa(len(keys)+1)
		keys = append(keys, of, attributes)
	}
	var grantID, grant, grantDigest string
	grantAt, script := "0", consumeScript
	if g == nil {
		g = &Grant{}
	} else {
		script, grantID = exchangeScript, newID(part)
		grant, grantDigest = newLink(grantID)
		keys = append(keys, tokenKey(part, namespace, grantID))
		grantAt = strconv.Itoa(len(keys))
	}
	if subjectHash != "" {
		keys = append(keys, stateKey(part, namespace, subjectHash, strings.TrimSuffix(p.Purpose, GrantSuffix)))
	}
	args := []string{
		namespace, id, statePrefix(part, namespace), slot.SubjectPrefix, slot.IndexPrefix, slot.ClassesPrefix, p.Purpose,
		digest("binding", p.Binding), subjectHash, p.Subject, digest("request", p.Request), kinds,
		strconv.Itoa(p.Limits.Failures), redis.Millis(p.Limits.Window), strconv.Itoa(p.Limits.Consecutive),
		" " + strings.Join(t.keyring.IDs(), " ") + " ", redis.Millis(p.Longest + session.EpochMemory), kept, keptAt,
		grantID, grantAt, redis.Millis(g.TTL), grantDigest, digest("binding", g.Binding), strconv.Itoa(g.MaxAttempts),
	}
	if link != "" {
		args = append(args, "", "", link)
	} else {
		args = append(args, recoveryDigest(p.Code))
		for _, mac := range t.keyring.MACs(record, []byte(normalize(p.Code))) {
			args = append(args, mac.Key, string(mac.Sum))
		}
	}
	defer t.redis.Forget(keys[:2]...)
	m, err := session.Ask(keys, func(keys []string) (rueidis.RedisMessage, error) {
		return t.redis.Run(ctx, script, effect(p.Request), keys, args...)
	})
	if err != nil {
		return c, err
	}
	a, err := parseAnswer(m)
	if err != nil {
		return c, err
	}
	if a.revoked {
		session.ForgetSubject(t.redis, part, namespace, a.hash, kept)
	}
	if a.Verdict != Accepted {
		return a.Consumed, nil
	}
	a.ID = id
	if grantID != "" {
		a.Grant, a.GrantID = grant, grantID
	}
	if keyring.Sealed([]byte(a.Payload)) {
		payload, err := t.keyring.Open(tokenKey(part, namespace, a.payloadID), payloadField, []byte(a.Payload))
		if err != nil {
			return c, redis.Fail(redis.ErrCorrupt, err)
		}
		a.Payload = string(payload)
	}
	return a.Consumed, nil
}

// idOf returns the partition of an id that is good so far.
func idOf(id string, ok bool) (session.Partition, bool) {
	if !ok {
		return 0, false
	}
	return parseID(id)
}

// GrantSuffix ends the purpose of a grant.
const GrantSuffix = ".grant"

// answer is what consume.lua returns.
type answer struct {
	Consumed

	payloadID, hash string
	revoked         bool
}

func parseAnswer(m rueidis.RedisMessage) (a answer, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 12 {
		return a, redis.ErrInternal
	}
	var failed error
	text := func(i int) string {
		s, err := parts[i].ToString()
		failed = errors.Join(failed, err)
		return s
	}
	number := func(i int) int64 {
		n, err := parts[i].AsInt64()
		failed = errors.Join(failed, err)
		return n
	}
	a.Verdict, a.Payload, a.payloadID, a.Subject = Verdict(text(0)), text(1), text(2), text(3)
	a.AttemptsLeft, a.RetryAfter, a.Replayed, a.RecoveryLeft = int(number(4)), time.Duration(number(5))*time.Millisecond, number(6) == 1, int(number(7))
	a.RevokedSessions, a.hash, a.revoked = number(8), text(9), number(10) == 1
	if expires := number(11); expires > 0 {
		a.GrantExpires = time.UnixMilli(expires)
	}
	if failed != nil {
		return answer{}, redis.ErrInternal
	}
	return a, nil
}
