package client

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// Tokens issues secrets that are accepted once: links, codes and recovery codes. A token belongs to a subject and a purpose.
//
// That a token is not issued or not accepted is a [*TokenError], which matches [ErrTokenIncorrect], [ErrTokenLocked] and so on.
// Every other error is an [*Error]. Each call that changes something carries a request id of its own, so that it is retried
// safely: a lost answer is sent again, and no token is consumed twice.
//
// Tokens is safe for concurrent use. [Client] holds that of [Options].Namespace.
type Tokens struct {
	rpc       tokenv1.TokenServiceClient
	namespace string
}

// In returns the Tokens of another namespace, over the same connections. Empty means "default". The server checks the name as
// for [Cache.In].
func (t *Tokens) In(namespace string) *Tokens { return &Tokens{rpc: t.rpc, namespace: namespace} }

// The reasons for which a token is not issued or not accepted. Match them with [errors.Is].
var (
	// ErrTokenIncorrect means that the token is unknown, or that its secret, purpose or binding is wrong.
	ErrTokenIncorrect = errors.New("larder: the token is not correct")
	// ErrTokenExpired means that the secret is right and its time is over.
	ErrTokenExpired = errors.New("larder: the token has expired")
	// ErrTokenUsed means that the secret is right and was accepted before.
	ErrTokenUsed = errors.New("larder: the token was used before")
	// ErrTokenRevoked means that the secret is right, and that the token was revoked or replaced by a later one.
	ErrTokenRevoked = errors.New("larder: the token was revoked or replaced")
	// ErrTokenExhausted means that the token has had all of its attempts.
	ErrTokenExhausted = errors.New("larder: the token has had all of its attempts")
	// ErrTokenLocked means that the failure budget of the subject and purpose, or of the source, is spent.
	ErrTokenLocked = errors.New("larder: too many attempts have failed")
	// ErrTokenCooldown means that the last token was issued too short a time ago.
	ErrTokenCooldown = errors.New("larder: a token was issued a short time ago")
)

// A TokenError says why a token was not issued or not accepted.
type TokenError struct {
	// Outcome is the outcome of the call, such as INCORRECT, SUBJECT_LOCKED or SOURCE_LOCKED.
	Outcome Outcome
	// AttemptsLeft is how many attempts are left after an incorrect one.
	AttemptsLeft int
	// RetryAfter is when a lock or the cooldown ends. Zero for other outcomes, and if only [Tokens.ResetSubject] ends the lock.
	RetryAfter time.Duration

	reason error
}

// Error returns the text of the reason.
func (e *TokenError) Error() string { return e.reason.Error() }

// Unwrap returns the reason, such as [ErrTokenLocked].
func (e *TokenError) Unwrap() error { return e.reason }

// A TokenKind says what the secret of a token looks like. A kind that only a later server knows is [Unrecognized].
type TokenKind string

// The kinds of tokens.
const (
	// TokenLink is one string with 256 random bits, "lt1_" and 66 more characters, to be put into a link.
	TokenLink TokenKind = "LINK"
	// TokenCode is a short code that a person types, presented together with the ID of the token.
	TokenCode TokenKind = "CODE"
	// TokenRecovery is a set of codes of 128 random bits each, which are shown once and consumed one by one.
	TokenRecovery TokenKind = "RECOVERY"
)

// A TokenAlphabet says of which characters a [TokenCode] consists. Empty means [TokenDigits].
type TokenAlphabet string

// The alphabets of codes.
const (
	// TokenDigits is 0 to 9.
	TokenDigits TokenAlphabet = "DIGITS"
	// TokenCrockford is Crockford's base 32: digits and capital letters without I, L, O and U.
	TokenCrockford TokenAlphabet = "CROCKFORD"
)

// IssueOptions are the options of [Tokens.Issue].
type IssueOptions struct {
	// TTL is how long the token is accepted. Zero means the server's default: 1 h for a link, 10 min for a code and 10 years for
	// recovery codes, unless a policy says otherwise.
	TTL time.Duration
	// Payload is returned when the token is accepted, such as the address to be verified: at most 4096 bytes.
	Payload string
	// Binding ties a link or code to who has asked for it, such as a random cookie of the browser: at most 256 bytes.
	Binding string
	// Alphabet and Length say what a code looks like: 6 to 10 digits, 6 unless set, or 6 to 16 characters of Crockford's alphabet, 8
	// unless set.
	Alphabet TokenAlphabet
	Length   int
	// RecoveryCount is the number of recovery codes, 1 to 20. Zero means 10.
	RecoveryCount int
	// MaxAttempts is the maximum number of attempts to consume a link or code, which can only lower the server's limit. Zero means
	// that limit.
	MaxAttempts int
	// MaxOpen is the maximum number of open tokens of the subject and purpose, 1 to 5; the oldest ones are revoked. Zero means 1.
	MaxOpen int
	// RevokeSessions ends all sessions of the subject in the same step in which a link or code is accepted.
	RevokeSessions bool
	// Decoy makes a token that is never accepted, and otherwise looks and costs the same: for an account that does not exist.
	Decoy bool
}

// An IssuedToken is a token with its secret, which the server cannot return again.
type IssuedToken struct {
	// ID is the public handle of the token, which is safe to log.
	ID string
	// Link is the secret of a [TokenLink], Code that of a [TokenCode], and RecoveryCodes are those of a [TokenRecovery].
	Link, Code    string
	RecoveryCodes []string
	// ExpiresAt is when the token expires, and ExpiresIn how long it is good for, in whole minutes, for the text of the message.
	ExpiresAt time.Time
	ExpiresIn time.Duration
	// ResendAfter is when another token can be issued. Zero means at once.
	ResendAfter time.Duration
}

// String returns the ID, so that no secret is shown by accident.
func (t IssuedToken) String() string { return t.ID }

// GoString returns the same as String, so that no format verb shows a secret.
func (t IssuedToken) GoString() string { return t.String() }

// Issue issues a token for a subject and a purpose. It replaces earlier ones of the same subject and purpose. The error is
// [ErrTokenCooldown] if the last one was issued too short a time ago, and [ErrTokenLocked] if too many attempts have failed.
func (t *Tokens) Issue(ctx context.Context, subject, purpose string, kind TokenKind, o IssueOptions) (*IssuedToken, error) {
	k, err := number[tokenv1.TokenKind]("kind", kind, "TOKEN_KIND_", tokenv1.TokenKind_value)
	if err != nil {
		return nil, err
	}
	alphabet, err := number[tokenv1.CodeAlphabet]("alphabet", o.Alphabet, "CODE_ALPHABET_", tokenv1.CodeAlphabet_value)
	if err != nil {
		return nil, err
	}
	req := &tokenv1.IssueTokenRequest{
		Namespace: t.namespace, Subject: subject, Purpose: purpose, Kind: k, Ttl: duration(o.TTL), Payload: o.Payload, Binding: o.Binding,
		Alphabet: alphabet, Length: toInt32(o.Length), RecoveryCount: toInt32(o.RecoveryCount), MaxAttempts: toInt32(o.MaxAttempts),
		MaxOpen: toInt32(o.MaxOpen), Decoy: o.Decoy, RequestId: rand.Text(),
	}
	if o.RevokeSessions {
		req.OnSuccess = tokenv1.OnSuccess_ON_SUCCESS_REVOKE_SUBJECT_SESSIONS
	}
	r, err := t.rpc.IssueToken(ctx, req)
	if err != nil {
		return nil, err
	}
	refused := &TokenError{Outcome: Outcome(text(r.GetOutcome(), "ISSUE_TOKEN_OUTCOME_")), RetryAfter: r.GetRetryAfter().AsDuration()}
	switch r.GetOutcome() {
	case tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_ISSUED:
	case tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_COOLDOWN:
		refused.reason = ErrTokenCooldown
		return nil, refused
	default:
		refused.reason = ErrTokenLocked
		return nil, refused
	}
	return &IssuedToken{
		ID: r.GetTokenId(), Link: r.GetToken(), Code: r.GetCode(), RecoveryCodes: r.GetRecoveryCodes(), ExpiresAt: timeOf(r.GetExpireTime()),
		ExpiresIn: r.GetExpiresIn().AsDuration(), ResendAfter: r.GetRetryAfter().AsDuration(),
	}, nil
}

// RevokeID ends one token and reports whether it was open.
func (t *Tokens) RevokeID(ctx context.Context, id string) (revoked bool, err error) {
	if id == "" {
		return false, invalid("token_id", "must not be empty")
	}
	r, err := t.rpc.RevokeToken(ctx, &tokenv1.RevokeTokenRequest{Namespace: t.namespace, TokenId: id})
	return r.GetRevokedCount() > 0, err
}

// Revoke ends all tokens of a subject and purpose, recovery codes and grants included, and returns how many were open.
func (t *Tokens) Revoke(ctx context.Context, subject, purpose string) (int64, error) {
	r, err := t.rpc.RevokeToken(ctx, &tokenv1.RevokeTokenRequest{Namespace: t.namespace, Subject: subject, Purpose: purpose})
	return r.GetRevokedCount(), err
}
