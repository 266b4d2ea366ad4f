package client

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// The reasons for which something is not claimed. Match them with [errors.Is].
var (
	// ErrClaimed means that the identifier was claimed before, or that the number is not greater than one that was.
	ErrClaimed = errors.New("larder: claimed before")
	// ErrClaimUncertain means that Redis has evicted claims that are still in force. It is an [ErrClaimed] too, because the
	// identifier may have been claimed.
	ErrClaimUncertain error = uncertain{}
)

type uncertain struct{}

func (uncertain) Error() string { return "larder: claimed before, perhaps: claims were evicted" }

func (uncertain) Unwrap() error { return ErrClaimed }

// ClaimOnce claims an identifier, such as the jti of a JWT, in a scope, such as its issuer, for as long as the identifier would be
// accepted, at most 720 h. It returns nil the first time, and [ErrClaimed] from then on.
func (t *Tokens) ClaimOnce(ctx context.Context, scope, id string, ttl time.Duration) error {
	r, err := t.rpc.ClaimOnce(ctx, &tokenv1.ClaimOnceRequest{Namespace: t.namespace, Scope: scope, Id: id, Ttl: duration(ttl), RequestId: rand.Text()})
	switch {
	case err != nil:
		return err
	case r.GetOutcome() == tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_CLAIMED:
		return nil
	case r.GetOutcome() == tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_UNCERTAIN:
		return ErrClaimUncertain
	}
	return ErrClaimed
}

// ClaimCounter claims a number for an identifier in a scope, such as the time step of a TOTP code for a factor of a user, if it is
// greater than every number claimed before. It returns [ErrClaimed] if it is not. Last is the greatest number, that of the call
// included. The number is remembered for ttl; zero means 24 h.
func (t *Tokens) ClaimCounter(ctx context.Context, scope, id string, value int64, ttl time.Duration) (last int64, err error) {
	r, err := t.rpc.ClaimCounter(ctx, &tokenv1.ClaimCounterRequest{
		Namespace: t.namespace, Scope: scope, Id: id, Value: value, Ttl: duration(ttl), RequestId: rand.Text(),
	})
	switch {
	case err != nil:
		return 0, err
	case r.GetOutcome() == tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_CLAIMED:
		return r.GetLastValue(), nil
	case r.GetOutcome() == tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_UNCERTAIN:
		return 0, ErrClaimUncertain
	}
	return r.GetLastValue(), ErrClaimed
}

// A TokenBudget describes a failure budget.
type TokenBudget struct {
	// Locked means that the budget is spent. RetryAfter is when the lock ends; zero if only a reset ends it.
	Locked     bool
	RetryAfter time.Duration
	// Failures counts the attempts that have failed in the current window, and Left those that still may. Consecutive counts those
	// since the last success.
	Failures, Left, Consecutive int
	// IssueAfter is when another token can be issued. Zero means now.
	IssueAfter time.Duration
	// Open are the open tokens, the oldest one first, with ID, Kind, CreatedAt and ExpiresAt.
	Open []InspectedToken
}

// InspectSubject reads the budget of a subject and purpose.
func (t *Tokens) InspectSubject(ctx context.Context, subject, purpose string) (*TokenBudget, error) {
	return t.budget(ctx, &tokenv1.InspectSubjectRequest{Namespace: t.namespace, Subject: subject, Purpose: purpose})
}

// InspectSource reads the budget of a source of attempts, [ConsumeTokenOptions].Source.
func (t *Tokens) InspectSource(ctx context.Context, source string) (*TokenBudget, error) {
	if source == "" {
		return nil, invalid("source", "must not be empty")
	}
	return t.budget(ctx, &tokenv1.InspectSubjectRequest{Namespace: t.namespace, Source: source})
}

func (t *Tokens) budget(ctx context.Context, req *tokenv1.InspectSubjectRequest) (*TokenBudget, error) {
	r, err := t.rpc.InspectSubject(ctx, req)
	if err != nil {
		return nil, err
	}
	b := &TokenBudget{
		Locked: r.GetLocked(), RetryAfter: r.GetRetryAfter().AsDuration(), Failures: int(r.GetFailures()), Left: int(r.GetFailuresLeft()),
		Consecutive: int(r.GetConsecutiveFailures()), IssueAfter: r.GetIssueAfter().AsDuration(),
	}
	for _, o := range r.GetOpenTokens() {
		b.Open = append(b.Open, InspectedToken{
			Outcome: TokenOpen, ID: o.GetTokenId(), Kind: TokenKind(text(o.GetKind(), "TOKEN_KIND_")), CreatedAt: timeOf(o.GetCreateTime()),
			ExpiresAt: timeOf(o.GetExpireTime()),
		})
	}
	return b, nil
}

// ResetSubject clears the failures and the cooldown of a subject and purpose, as an administrator does for a user who is locked
// out. Open tokens stay as they are.
func (t *Tokens) ResetSubject(ctx context.Context, subject, purpose string) error {
	_, err := t.rpc.ResetSubject(ctx, &tokenv1.ResetSubjectRequest{Namespace: t.namespace, Subject: subject, Purpose: purpose})
	return err
}

// ResetSource clears the failures of a source.
func (t *Tokens) ResetSource(ctx context.Context, source string) error {
	if source == "" {
		return invalid("source", "must not be empty")
	}
	_, err := t.rpc.ResetSubject(ctx, &tokenv1.ResetSubjectRequest{Namespace: t.namespace, Source: source})
	return err
}
