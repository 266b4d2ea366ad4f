package service

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/token"
)

// Token answers larder.token.v1.TokenService.
type Token struct {
	tokenv1.UnimplementedTokenServiceServer

	store    *store.Store
	policies *policy.Policies
	metrics  *Metrics
	now      func() time.Time
	unkeyed  func() // warns once that codes are stored without a key
}

// NewToken returns a TokenService over a store. It warns in the log when the first CODE is issued without a keyring.
func NewToken(st *store.Store, p *policy.Policies, m *Metrics, log *slog.Logger) *Token {
	return &Token{
		store: st, policies: p, metrics: m, now: st.Redis.Now,
		unkeyed: sync.OnceFunc(func() {
			m.unkeyedCodes.Store(true)
			log.Warn("there is no keyring, so whoever reads Redis can find the codes of one-time tokens that are open by trying all of them", "setting", "LARDER_KEYRING_FILE")
		}),
	}
}

func (s *Token) fields() *fields { return newFields(s.policies, s.now) }

// outcomeOf counts an outcome, by the name of its value without the prefix.
func (s *Token) outcomeOf(method, prefix, value string) {
	s.metrics.tokenOutcomes.WithLabelValues(method, strings.ToLower(strings.TrimPrefix(value, prefix))).Inc()
}

// IssueToken issues a token.
func (s *Token) IssueToken(ctx context.Context, r *tokenv1.IssueTokenRequest) (*tokenv1.IssueTokenResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	n := f.issue(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	if n.Kind == token.Code && !s.store.Tokens.Keyed() {
		s.unkeyed()
	}
	issued, err := s.store.Tokens.Issue(ctx, ns, n)
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.IssueTokenResponse{RetryAfter: waitView(issued.RetryAfter)}
	switch {
	case issued.Locked:
		resp.Outcome = tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_SUBJECT_LOCKED
	case issued.Cooldown:
		resp.Outcome = tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_COOLDOWN
	default:
		resp.Outcome = tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_ISSUED
		resp.TokenId, resp.Token, resp.Code, resp.RecoveryCodes = issued.ID, issued.Link, issued.Code, issued.RecoveryCodes
		resp.ExpireTime, resp.ExpiresIn = timestamppb.New(issued.ExpiresAt), durationpb.New(inWords(n.TTL))
	}
	s.outcomeOf("IssueToken", "ISSUE_TOKEN_OUTCOME_", resp.GetOutcome().String())
	return resp, nil
}

// inWords returns a ttl as a message to people tells it: in whole minutes, unless it is less than one.
func inWords(ttl time.Duration) time.Duration {
	if ttl < time.Minute {
		return ttl
	}
	return ttl.Truncate(time.Minute)
}

// waitView returns the time to wait as it appears in responses: nil for none, and for one that no time ends.
func waitView(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}

// consumeOutcomes are the verdicts of the store as callers see them.
var consumeOutcomes = map[token.Verdict]tokenv1.ConsumeTokenOutcome{
	token.Accepted:          tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ACCEPTED,
	token.Incorrect:         tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_INCORRECT,
	token.Expired:           tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_EXPIRED,
	token.AlreadyUsed:       tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ALREADY_USED,
	token.Revoked:           tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_REVOKED,
	token.AttemptsExhausted: tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ATTEMPTS_EXHAUSTED,
	token.SubjectLocked:     tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SUBJECT_LOCKED,
	token.SourceLocked:      tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SOURCE_LOCKED,
}

// consumed counts a verdict and returns it as callers see it.
func (s *Token) consumed(method string, v token.Verdict) tokenv1.ConsumeTokenOutcome {
	outcome := consumeOutcomes[v]
	s.outcomeOf(method, "CONSUME_TOKEN_OUTCOME_", outcome.String())
	return outcome
}

// ConsumeToken accepts a token once.
func (s *Token) ConsumeToken(ctx context.Context, r *tokenv1.ConsumeTokenRequest) (*tokenv1.ConsumeTokenResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	p := f.presented(r, f.purpose(r.GetPurpose(), true))
	if r.GetExceptSessionId() != "" {
		p.Except = f.sessionID("except_session_id", r.GetExceptSessionId())
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.store.Tokens.Consume(ctx, ns, p)
	if err != nil {
		return nil, err
	}
	return &tokenv1.ConsumeTokenResponse{
		Outcome: s.consumed("ConsumeToken", c.Verdict), Payload: c.Payload, Subject: c.Subject, TokenId: c.ID,
		AttemptsLeft: int32(c.AttemptsLeft), RetryAfter: waitView(c.RetryAfter), RecoveryCodesLeft: int32(c.RecoveryLeft), //nolint:gosec // at most 100 and 20
		Replayed: c.Replayed, RevokedSessions: c.RevokedSessions,
	}, nil
}

// ExchangeToken consumes a token and issues a grant in its place.
func (s *Token) ExchangeToken(ctx context.Context, r *tokenv1.ExchangeTokenRequest) (*tokenv1.ExchangeTokenResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	p := f.presented(r, f.purpose(r.GetPurpose(), false))
	g := token.Grant{TTL: defaultGrantTTL, Binding: r.GetGrantBinding(), MaxAttempts: f.rules.Tokens.MaxAttempts}
	if r.GetGrantTtl() != nil {
		g.TTL = f.duration("grant_ttl", r.GetGrantTtl(), policy.MinTokenTTL, maxGrantTTL)
	}
	f.text("grant_binding", g.Binding, 0, maxBindingBytes)
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.store.Tokens.Exchange(ctx, ns, p, g)
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.ExchangeTokenResponse{
		Outcome: s.consumed("ExchangeToken", c.Verdict), GrantToken: c.Grant, GrantTokenId: c.GrantID, Subject: c.Subject,
		AttemptsLeft: int32(c.AttemptsLeft), RetryAfter: waitView(c.RetryAfter), RecoveryCodesLeft: int32(c.RecoveryLeft), //nolint:gosec // at most 100 and 20
	}
	if c.Grant != "" {
		resp.GrantExpireTime = timestamppb.New(c.GrantExpires)
	}
	return resp, nil
}

// inspectOutcomes are the verdicts of the store as callers of InspectToken see them.
var inspectOutcomes = map[token.Verdict]tokenv1.InspectTokenOutcome{
	token.Accepted:          tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_OPEN,
	token.Incorrect:         tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_UNKNOWN,
	token.Expired:           tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_EXPIRED,
	token.AlreadyUsed:       tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_ALREADY_USED,
	token.Revoked:           tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_REVOKED,
	token.AttemptsExhausted: tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_ATTEMPTS_EXHAUSTED,
	token.SubjectLocked:     tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_SUBJECT_LOCKED,
}

// kindViews are the kinds of the store as callers see them.
var kindViews = map[token.Kind]tokenv1.TokenKind{
	token.Link: tokenv1.TokenKind_TOKEN_KIND_LINK, token.Code: tokenv1.TokenKind_TOKEN_KIND_CODE, token.Recovery: tokenv1.TokenKind_TOKEN_KIND_RECOVERY,
}

// InspectToken says how a token stands.
func (s *Token) InspectToken(ctx context.Context, r *tokenv1.InspectTokenRequest) (*tokenv1.InspectTokenResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	p := token.Presented{Link: r.GetToken(), ID: r.GetTokenId(), Purpose: r.GetPurpose(), Binding: r.GetBinding(), Limits: f.rules.Tokens.Limits}
	if p.Purpose != "" {
		f.purpose(p.Purpose, true)
	}
	if p.Link == "" && p.ID == "" {
		f.add("target", "must have a token or a token_id")
	}
	f.text("binding", p.Binding, 0, maxBindingBytes)
	if err := f.err(); err != nil {
		return nil, err
	}
	i, err := s.store.Tokens.Inspect(ctx, ns, p)
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.InspectTokenResponse{Outcome: inspectOutcomes[i.Verdict]}
	if i.Verdict != token.Incorrect {
		resp.TokenId, resp.Kind, resp.Subject, resp.Purpose = i.ID, kindViews[i.Kind], i.Subject, i.Purpose
		resp.CreateTime, resp.ExpireTime = timestamppb.New(i.CreatedAt), timestamppb.New(i.ExpiresAt)
		resp.AttemptsLeft, resp.RecoveryCodesLeft = int32(i.AttemptsLeft), int32(i.RecoveryLeft) //nolint:gosec // at most 10 and 20
	}
	return resp, nil
}
