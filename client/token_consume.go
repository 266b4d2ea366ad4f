package client

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// A TokenTarget is a token as somebody presents it. [ByLink], [ByCode] and [ByRecoveryCode] return one.
type TokenTarget struct{ link, id, subject, code string }

// ByLink presents the secret of a [TokenLink].
func ByLink(link string) TokenTarget { return TokenTarget{link: link} }

// ByCode presents a code together with the ID of its token, a [TokenCode] or a [TokenRecovery].
func ByCode(id, code string) TokenTarget { return TokenTarget{id: id, code: code} }

// ByRecoveryCode presents a recovery code of a subject.
func ByRecoveryCode(subject, code string) TokenTarget {
	return TokenTarget{subject: subject, code: code}
}

// String returns no secret: the ID of the token, or how it is presented.
func (t TokenTarget) String() string {
	switch {
	case t.link != "":
		return "(by link)"
	case t.subject != "":
		return "(by recovery code)"
	}
	return t.id
}

// GoString returns the same as String, so that no format verb shows a secret.
func (t TokenTarget) GoString() string { return t.String() }

// ConsumeTokenOptions are the options of [Tokens.Consume].
type ConsumeTokenOptions struct {
	// Binding is that of the token. Empty means none.
	Binding string
	// Source is where the attempt comes from, such as an IP address or a prefix of one, whose failures have a budget too. Empty
	// means that no source is counted.
	Source string
	// ExceptSessionID is the ID of one session that [IssueOptions].RevokeSessions keeps. Empty means none.
	ExceptSessionID string
}

// A ConsumedToken is a token that was accepted.
type ConsumedToken struct {
	// ID, Subject and Payload are those of the token.
	ID, Subject, Payload string
	// RecoveryCodesLeft is how many codes are left of a [TokenRecovery].
	RecoveryCodesLeft int
	// RevokedSessions is how many active sessions have ended because of [IssueOptions].RevokeSessions.
	RevokedSessions int64
}

// Consume accepts a token once. It returns no token together with an error, so that a caller who overlooks the error has none
// either.
func (t *Tokens) Consume(ctx context.Context, purpose string, target TokenTarget, o ConsumeTokenOptions) (*ConsumedToken, error) {
	req := &tokenv1.ConsumeTokenRequest{
		Namespace: t.namespace, Purpose: purpose, Code: target.code, Binding: o.Binding, Source: o.Source, RequestId: rand.Text(),
		ExceptSessionId: o.ExceptSessionID,
	}
	switch {
	case target.link != "":
		req.Target = &tokenv1.ConsumeTokenRequest_Token{Token: target.link}
	case target.id != "":
		req.Target = &tokenv1.ConsumeTokenRequest_TokenId{TokenId: target.id}
	case target.subject != "":
		req.Target = &tokenv1.ConsumeTokenRequest_Subject{Subject: target.subject}
	}
	r, err := t.rpc.ConsumeToken(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := refusal(r); err != nil {
		return nil, err
	}
	return &ConsumedToken{
		ID: r.GetTokenId(), Subject: r.GetSubject(), Payload: r.GetPayload(), RecoveryCodesLeft: int(r.GetRecoveryCodesLeft()),
		RevokedSessions: r.GetRevokedSessions(),
	}, nil
}

// ExchangeOptions are the options of [Tokens.Exchange].
type ExchangeOptions struct {
	// Binding and Source are as in [ConsumeTokenOptions].
	Binding, Source string
	// GrantTTL is how long the grant is accepted, at most 1 h. Zero means 10 min.
	GrantTTL time.Duration
	// GrantBinding ties the grant to who has exchanged the token, such as a random cookie of the browser.
	GrantBinding string
}

// A GrantedToken is the token that takes the place of an exchanged one.
type GrantedToken struct {
	// ID is the public handle, and Link the secret, to be consumed with the purpose of the token and ".grant".
	ID, Link string
	// ExpiresAt is when it expires.
	ExpiresAt time.Time
	// Subject is that of the token.
	Subject string
	// RecoveryCodesLeft is how many codes are left of a [TokenRecovery].
	RecoveryCodesLeft int
}

// String returns the ID, so that the secret is not shown by accident.
func (t GrantedToken) String() string { return t.ID }

// GoString returns the same as String, so that no format verb shows the secret.
func (t GrantedToken) GoString() string { return t.String() }

// Exchange consumes a token and returns a grant in its place: a link of the same subject and payload, and of the purpose with
// ".grant" appended.
func (t *Tokens) Exchange(ctx context.Context, purpose string, target TokenTarget, o ExchangeOptions) (*GrantedToken, error) {
	req := &tokenv1.ExchangeTokenRequest{
		Namespace: t.namespace, Purpose: purpose, Code: target.code, Binding: o.Binding, Source: o.Source, RequestId: rand.Text(),
		GrantTtl: duration(o.GrantTTL), GrantBinding: o.GrantBinding,
	}
	switch {
	case target.link != "":
		req.Target = &tokenv1.ExchangeTokenRequest_Token{Token: target.link}
	case target.id != "":
		req.Target = &tokenv1.ExchangeTokenRequest_TokenId{TokenId: target.id}
	case target.subject != "":
		req.Target = &tokenv1.ExchangeTokenRequest_Subject{Subject: target.subject}
	}
	r, err := t.rpc.ExchangeToken(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := refusal(r); err != nil {
		return nil, err
	}
	return &GrantedToken{
		ID: r.GetGrantTokenId(), Link: r.GetGrantToken(), ExpiresAt: timeOf(r.GetGrantExpireTime()), Subject: r.GetSubject(),
		RecoveryCodesLeft: int(r.GetRecoveryCodesLeft()),
	}, nil
}

// refusals are the reasons of the outcomes. Any other outcome is incorrect.
var refusals = map[tokenv1.ConsumeTokenOutcome]error{
	tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_EXPIRED:            ErrTokenExpired,
	tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ALREADY_USED:       ErrTokenUsed,
	tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_REVOKED:            ErrTokenRevoked,
	tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ATTEMPTS_EXHAUSTED: ErrTokenExhausted,
	tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SUBJECT_LOCKED:     ErrTokenLocked,
	tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SOURCE_LOCKED:      ErrTokenLocked,
}

// refusal returns the error of an answer, nil only if the token was accepted.
func refusal(r interface {
	GetOutcome() tokenv1.ConsumeTokenOutcome
	GetAttemptsLeft() int32
	GetRetryAfter() *durationpb.Duration
},
) error {
	if r.GetOutcome() == tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ACCEPTED {
		return nil
	}
	reason := refusals[r.GetOutcome()]
	if reason == nil {
		reason = ErrTokenIncorrect
	}
	return &TokenError{
		Outcome: Outcome(text(r.GetOutcome(), "CONSUME_TOKEN_OUTCOME_")), AttemptsLeft: int(r.GetAttemptsLeft()),
		RetryAfter: r.GetRetryAfter().AsDuration(), reason: reason,
	}
}

// InspectOptions are the options of [Tokens.Inspect].
type InspectOptions struct {
	// Purpose is the purpose that the token must have. Empty means any.
	Purpose string
	// Binding is that of the token; it is ignored if the token is named by its ID.
	Binding string
}

// An InspectedToken describes a token, without its payload.
type InspectedToken struct {
	// Outcome is OPEN if the token can be consumed. Otherwise it is UNKNOWN, EXPIRED, ALREADY_USED, REVOKED, ATTEMPTS_EXHAUSTED or
	// SUBJECT_LOCKED; all other fields are zero if it is UNKNOWN.
	Outcome Outcome
	// ID is the public handle.
	ID               string
	Kind             TokenKind
	Subject, Purpose string
	// CreatedAt is when the token was issued, and ExpiresAt when it expires.
	CreatedAt, ExpiresAt time.Time
	// AttemptsLeft is how many attempts a link or code has left, and RecoveryCodesLeft how many codes a set has.
	AttemptsLeft, RecoveryCodesLeft int
}

// Open reports whether the token can be consumed.
func (t *InspectedToken) Open() bool { return t.Outcome == TokenOpen }

// Inspect says how a token stands, named by its link ([ByLink]) or by its ID ([ByCode], whose code is ignored). It counts no
// attempt, so that a page can be shown for a link which a mail scanner may have opened before its reader.
func (t *Tokens) Inspect(ctx context.Context, target TokenTarget, o InspectOptions) (*InspectedToken, error) {
	req := &tokenv1.InspectTokenRequest{Namespace: t.namespace, Purpose: o.Purpose, Binding: o.Binding}
	switch {
	case target.link != "":
		req.Target = &tokenv1.InspectTokenRequest_Token{Token: target.link}
	case target.id != "":
		req.Target = &tokenv1.InspectTokenRequest_TokenId{TokenId: target.id}
	}
	r, err := t.rpc.InspectToken(ctx, req)
	if err != nil {
		return nil, err
	}
	return &InspectedToken{
		Outcome: Outcome(text(r.GetOutcome(), "INSPECT_TOKEN_OUTCOME_")), ID: r.GetTokenId(), Kind: TokenKind(text(r.GetKind(), "TOKEN_KIND_")),
		Subject: r.GetSubject(), Purpose: r.GetPurpose(), CreatedAt: timeOf(r.GetCreateTime()), ExpiresAt: timeOf(r.GetExpireTime()),
		AttemptsLeft: int(r.GetAttemptsLeft()), RecoveryCodesLeft: int(r.GetRecoveryCodesLeft()),
	}, nil
}
