package service

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/store/token"
)

// RevokeToken ends one token, or all tokens of a subject and purpose.
func (s *Token) RevokeToken(ctx context.Context, r *tokenv1.RevokeTokenRequest) (*tokenv1.RevokeTokenResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	switch {
	case r.GetTokenId() == "":
		f.subject(r.GetSubject(), 1)
		f.purpose(r.GetPurpose(), false)
	case r.GetSubject() != "" || r.GetPurpose() != "":
		f.add("token_id", "must be empty if subject or purpose is set")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if r.GetTokenId() == "" {
		n, err := s.store.Tokens.RevokeAll(ctx, ns, r.GetSubject(), r.GetPurpose())
		if err != nil {
			return nil, err
		}
		return &tokenv1.RevokeTokenResponse{RevokedCount: n}, nil
	}
	revoked, err := s.store.Tokens.Revoke(ctx, ns, r.GetTokenId())
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.RevokeTokenResponse{}
	if revoked {
		resp.RevokedCount = 1
	}
	return resp, nil
}

// InspectSubject reads a failure budget.
func (s *Token) InspectSubject(ctx context.Context, r *tokenv1.InspectSubjectRequest) (*tokenv1.InspectSubjectResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	f.budget(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	var b token.Budget
	var err error
	if limits := f.rules.Tokens.Limits; r.GetSource() != "" {
		b, err = s.store.Tokens.InspectSource(ctx, ns, r.GetSource(), limits)
	} else {
		b, err = s.store.Tokens.InspectSubject(ctx, ns, r.GetSubject(), r.GetPurpose(), limits)
	}
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.InspectSubjectResponse{
		Locked: b.Locked, RetryAfter: waitView(b.RetryAfter), IssueAfter: waitView(b.IssueAfter),
		Failures: int32(b.Failures), FailuresLeft: int32(b.Left), ConsecutiveFailures: int32(b.Consecutive), //nolint:gosec // at most 1000000
	}
	for _, o := range b.Open {
		resp.OpenTokens = append(resp.OpenTokens, &tokenv1.OpenToken{
			TokenId: o.ID, Kind: kindViews[o.Kind], CreateTime: timestamppb.New(o.CreatedAt), ExpireTime: timestamppb.New(o.ExpiresAt),
		})
	}
	return resp, nil
}

// ResetSubject clears a failure budget.
func (s *Token) ResetSubject(ctx context.Context, r *tokenv1.ResetSubjectRequest) (*tokenv1.ResetSubjectResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	f.budget(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	var err error
	if r.GetSource() != "" {
		err = s.store.Tokens.ResetSource(ctx, ns, r.GetSource())
	} else {
		err = s.store.Tokens.ResetSubject(ctx, ns, r.GetSubject(), r.GetPurpose())
	}
	if err != nil {
		return nil, err
	}
	return &tokenv1.ResetSubjectResponse{}, nil
}

// ClaimOnce claims an identifier.
func (s *Token) ClaimOnce(ctx context.Context, r *tokenv1.ClaimOnceRequest) (*tokenv1.ClaimOnceResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	claim := f.claim(r, 0)
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.store.Tokens.ClaimOnce(ctx, ns, claim)
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.ClaimOnceResponse{Outcome: tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_ALREADY_CLAIMED, RetryAfter: waitView(c.RetryAfter)}
	switch {
	case c.OK:
		resp.Outcome = tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_CLAIMED
	case c.Uncertain:
		resp.Outcome = tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_UNCERTAIN
	}
	s.outcomeOf("ClaimOnce", "CLAIM_ONCE_OUTCOME_", resp.GetOutcome().String())
	return resp, nil
}

// ClaimCounter claims a number.
func (s *Token) ClaimCounter(ctx context.Context, r *tokenv1.ClaimCounterRequest) (*tokenv1.ClaimCounterResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	claim := f.claim(r, defaultCounterTTL)
	if r.GetValue() < 0 {
		f.add("value", "must not be negative")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.store.Tokens.ClaimCounter(ctx, ns, claim, r.GetValue())
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.ClaimCounterResponse{
		Outcome:   tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_NOT_GREATER,
		LastValue: c.Last, RetryAfter: waitView(c.RetryAfter),
	}
	switch {
	case c.OK:
		resp.Outcome = tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_CLAIMED
	case c.Uncertain:
		resp.Outcome = tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_UNCERTAIN
	}
	s.outcomeOf("ClaimCounter", "CLAIM_COUNTER_OUTCOME_", resp.GetOutcome().String())
	return resp, nil
}
