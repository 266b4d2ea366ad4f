package token

import (
	"context"
	"crypto/rand"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// Issue describes a token to be issued.
type Issue struct {
	// Subject is whom the token is for, and Purpose what it is good for.
	Subject, Purpose string
	Kind             Kind
	TTL              time.Duration
	// Payload is returned when the token is accepted.
	Payload string
	// Binding must be presented with the token; empty means none. [Recovery] ignores it.
	Binding string
	// Alphabet and Length are those of a [Code].
	Alphabet string
	Length   int
	// Count is the number of codes of a [Recovery] set.
	Count int
	// MaxAttempts is the maximum number of attempts; [Recovery] ignores it.
	MaxAttempts int
	// MaxOpen is the maximum number of open tokens of the subject and purpose, this one included.
	MaxOpen int
	// RevokeSessions ends the sessions of the subject when the token is accepted.
	RevokeSessions bool
	// Decoy makes a token that is never accepted.
	Decoy bool
	// Request names the call; empty means that it cannot be repeated.
	Request string
	Limits  Limits
}

// Issued is the result of [Tokens.Issue].
type Issued struct {
	// Locked and Cooldown mean that no token was issued.
	Locked, Cooldown bool
	ID               string
	// Link, Code or RecoveryCodes are the secret.
	Link, Code    string
	RecoveryCodes []string
	ExpiresAt     time.Time
	// RetryAfter is the time until another token can be issued; negative means that only a reset ends the lock.
	RetryAfter time.Duration
}

// Issue issues a token.
func (t *Tokens) Issue(ctx context.Context, namespace string, n Issue) (issued Issued, err error) {
	p, hash := session.SubjectHash(namespace, n.Subject)
	id := newID(p)
	if n.Kind == Recovery {
		id = recoveryID(p, namespace, n.Subject, n.Purpose)
	}
	record := tokenKey(p, namespace, id)
	fields := []string{"sh", hash}
	secret, digests := t.secrets(record, id, n)
	fields = append(fields, digests...)
	if n.Kind != Recovery {
		fields = append(fields, "max", strconv.Itoa(n.MaxAttempts))
	} else {
		fields = append(fields, "max", "0")
	}
	if n.Binding != "" {
		fields = append(fields, "bd", digest("binding", n.Binding))
	}
	if n.RevokeSessions {
		fields = append(fields, "on", "1")
	}
	if n.Payload != "" {
		payload, key := t.seal(record, n.Payload)
		fields = append(fields, "pl", payload, "pk", key, "pi", id)
	}
	reason := ""
	if n.Decoy {
		reason = "decoy"
	}
	keys := []string{record, stateKey(p, namespace, hash, n.Purpose), session.KeysOf(p, namespace).Events}
	args := append([]string{
		namespace, id, string(n.Kind), n.Subject, n.Purpose, redis.Millis(n.TTL), strconv.Itoa(n.MaxOpen),
		redis.Millis(n.Limits.Cooldown), redis.Millis(n.Limits.MaxCooldown), strconv.Itoa(n.Limits.Failures), strconv.Itoa(n.Limits.Consecutive),
		digest("request", n.Request), reason,
	}, fields...)
	defer t.redis.Forget(keys...)
	m, err := t.redis.Run(ctx, issueScript, effect(n.Request), keys, args...)
	if err != nil {
		return issued, err
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) != 3 {
		return issued, redis.ErrInternal
	}
	outcome, err1 := parts[0].ToString()
	wait, err2 := parts[1].AsInt64()
	expires, err3 := parts[2].AsInt64()
	if err1 != nil || err2 != nil || err3 != nil {
		return issued, redis.ErrInternal
	}
	result := Issued{RetryAfter: time.Duration(wait) * time.Millisecond}
	switch outcome {
	case "locked":
		result.Locked = true
	case "cooldown":
		result.Cooldown = true
	case "issued":
		result.ID, result.ExpiresAt = id, time.UnixMilli(expires)
		result.Link, result.Code, result.RecoveryCodes = secret.Link, secret.Code, secret.RecoveryCodes
	default:
		return issued, redis.ErrInternal
	}
	return result, nil
}

// secrets returns a new secret, and the fields that hold its digests. Those of a decoy are random: no secret has them.
func (t *Tokens) secrets(record, id string, n Issue) (secret Issued, fields []string) {
	digestOf := func(digest string) string {
		if n.Decoy {
			b := make([]byte, len(digest))
			_, _ = rand.Read(b)
			return string(b)
		}
		return digest
	}
	switch n.Kind {
	case Link:
		link, digest := newLink(id)
		secret.Link, fields = link, []string{"h", digestOf(digest), "kid", ""}
	case Code:
		secret.Code = newCode(n.Alphabet, n.Length)
		mac := t.keyring.Sign(record, []byte(normalize(secret.Code)))
		fields = []string{"h", digestOf(string(mac.Sum)), "kid", mac.Key}
	case Recovery:
		fields = append(make([]string, 0, 2+2*n.Count), "left", strconv.Itoa(n.Count))
		for range n.Count {
			code := newRecoveryCode()
			secret.RecoveryCodes, fields = append(secret.RecoveryCodes, code), append(fields, "c:"+digestOf(recoveryDigest(code)), "")
		}
	}
	return secret, fields
}

// payloadField is the name of the payload to the keyring.
const payloadField = "payload"

// seal returns a payload as it is stored and the id of the key that encrypts it; empty without a keyring.
func (t *Tokens) seal(record, payload string) (stored, key string) {
	if t.keyring == nil {
		return payload, ""
	}
	sealed := t.keyring.Seal(record, payloadField, []byte(payload))
	return string(sealed), keyring.KeyOf(sealed)
}
