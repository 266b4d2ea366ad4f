package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthcare/larder/client"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// Every option reaches the server, and each call that changes something has a request id of its own.
func TestTokenRequests(t *testing.T) {
	t.Parallel()
	b := serve(t, fail(larderError(codes.Unavailable, "REDIS_UNAVAILABLE")))
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop", MaxAttempts: 1})
	ctx := t.Context()
	ids := map[string]bool{}
	for name, tt := range map[string]struct {
		call func() error
		want proto.Message
	}{
		"Issue": {
			func() error {
				return second(c.Tokens.Issue(ctx, "ann", "p", client.TokenCode, client.IssueOptions{
					TTL: time.Minute, Payload: "x", Binding: "b", Alphabet: client.TokenCrockford, Length: 9, MaxAttempts: 2, MaxOpen: 3, RevokeSessions: true, Decoy: true,
				}))
			},
			&tokenv1.IssueTokenRequest{
				Namespace: "shop", Subject: "ann", Purpose: "p", Kind: tokenv1.TokenKind_TOKEN_KIND_CODE, Ttl: durationpb.New(time.Minute), Payload: "x", Binding: "b",
				Alphabet: tokenv1.CodeAlphabet_CODE_ALPHABET_CROCKFORD, Length: 9, MaxAttempts: 2, MaxOpen: 3, Decoy: true,
				OnSuccess: tokenv1.OnSuccess_ON_SUCCESS_REVOKE_SUBJECT_SESSIONS,
			},
		},
		"Issue recovery codes": {
			func() error {
				return second(c.Tokens.In("other").Issue(ctx, "ann", "p", client.TokenRecovery, client.IssueOptions{RecoveryCount: 5}))
			},
			&tokenv1.IssueTokenRequest{Namespace: "other", Subject: "ann", Purpose: "p", Kind: tokenv1.TokenKind_TOKEN_KIND_RECOVERY, RecoveryCount: 5},
		},
		"Consume a link": {
			func() error {
				return second(c.Tokens.Consume(ctx, "p", client.ByLink("l"), client.ConsumeTokenOptions{Binding: "b", Source: "ip", ExceptSessionID: "s"}))
			},
			&tokenv1.ConsumeTokenRequest{
				Namespace: "shop", Purpose: "p", Target: &tokenv1.ConsumeTokenRequest_Token{Token: "l"}, Binding: "b", Source: "ip", ExceptSessionId: "s",
			},
		},
		"Consume a code": {
			func() error {
				return second(c.Tokens.Consume(ctx, "p", client.ByCode("id", "1"), client.ConsumeTokenOptions{}))
			},
			&tokenv1.ConsumeTokenRequest{Namespace: "shop", Purpose: "p", Target: &tokenv1.ConsumeTokenRequest_TokenId{TokenId: "id"}, Code: "1"},
		},
		"Consume a recovery code": {
			func() error {
				return second(c.Tokens.Consume(ctx, "p", client.ByRecoveryCode("ann", "1"), client.ConsumeTokenOptions{}))
			},
			&tokenv1.ConsumeTokenRequest{Namespace: "shop", Purpose: "p", Target: &tokenv1.ConsumeTokenRequest_Subject{Subject: "ann"}, Code: "1"},
		},
		"Exchange": {
			func() error {
				return second(c.Tokens.Exchange(ctx, "p", client.ByCode("id", "1"), client.ExchangeOptions{Binding: "b", Source: "ip", GrantTTL: time.Minute, GrantBinding: "g"}))
			},
			&tokenv1.ExchangeTokenRequest{
				Namespace: "shop", Purpose: "p", Target: &tokenv1.ExchangeTokenRequest_TokenId{TokenId: "id"}, Code: "1", Binding: "b", Source: "ip",
				GrantTtl: durationpb.New(time.Minute), GrantBinding: "g",
			},
		},
		"Inspect": {
			func() error {
				return second(c.Tokens.Inspect(ctx, client.ByLink("l"), client.InspectOptions{Purpose: "p", Binding: "b"}))
			},
			&tokenv1.InspectTokenRequest{Namespace: "shop", Purpose: "p", Binding: "b", Target: &tokenv1.InspectTokenRequest_Token{Token: "l"}},
		},
		"RevokeID":       {func() error { return second(c.Tokens.RevokeID(ctx, "id")) }, &tokenv1.RevokeTokenRequest{Namespace: "shop", TokenId: "id"}},
		"Revoke":         {func() error { return second(c.Tokens.Revoke(ctx, "ann", "p")) }, &tokenv1.RevokeTokenRequest{Namespace: "shop", Subject: "ann", Purpose: "p"}},
		"InspectSubject": {func() error { return second(c.Tokens.InspectSubject(ctx, "ann", "p")) }, &tokenv1.InspectSubjectRequest{Namespace: "shop", Subject: "ann", Purpose: "p"}},
		"InspectSource":  {func() error { return second(c.Tokens.InspectSource(ctx, "ip")) }, &tokenv1.InspectSubjectRequest{Namespace: "shop", Source: "ip"}},
		"ResetSubject":   {func() error { return c.Tokens.ResetSubject(ctx, "ann", "p") }, &tokenv1.ResetSubjectRequest{Namespace: "shop", Subject: "ann", Purpose: "p"}},
		"ResetSource":    {func() error { return c.Tokens.ResetSource(ctx, "ip") }, &tokenv1.ResetSubjectRequest{Namespace: "shop", Source: "ip"}},
		"ClaimOnce": {
			func() error { return c.Tokens.ClaimOnce(ctx, "iss", "jti", time.Minute) },
			&tokenv1.ClaimOnceRequest{Namespace: "shop", Scope: "iss", Id: "jti", Ttl: durationpb.New(time.Minute)},
		},
		"ClaimCounter": {
			func() error { return second(c.Tokens.ClaimCounter(ctx, "totp", "ann", 7, time.Minute)) },
			&tokenv1.ClaimCounterRequest{Namespace: "shop", Scope: "totp", Id: "ann", Value: 7, Ttl: durationpb.New(time.Minute)},
		},
	} {
		if err := tt.call(); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%s = error %v, want ErrUnavailable", name, err)
		}
		got := b.last(t)
		if field := got.ProtoReflect().Descriptor().Fields().ByName("request_id"); field != nil {
			id := got.ProtoReflect().Get(field).String()
			if len(id) < 22 || ids[id] {
				t.Errorf("%s has the request id %q, want one of 128 bits that no other call has", name, id)
			}
			ids[id] = true
			got.ProtoReflect().Clear(field)
		}
		if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("request of %s (-want +got):\n%s", name, diff)
		}
	}
}

// The attempts of one call have one request id, so that a lost answer is sent again.
func TestTokenRetriesAreOneRequest(t *testing.T) {
	t.Parallel()
	b := serve(t, refuse("0"))
	c := connect(t, client.Options{Target: b.addr})
	_, _ = c.Tokens.Consume(t.Context(), "p", client.ByLink("l"), client.ConsumeTokenOptions{})
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if diff := cmp.Diff(b.requests[0], r, protocmp.Transform()); diff != "" {
			t.Errorf("the attempts differ (-first +later):\n%s", diff)
		}
	}
	if len(b.requests) != 3 {
		t.Errorf("the server got %d calls, want 3", len(b.requests))
	}
}

// Whatever the server answers, only ACCEPTED and CLAIMED are no error, and nothing is returned together with one.
func TestTokenOutcomes(t *testing.T) {
	t.Parallel()
	wants := map[tokenv1.ConsumeTokenOutcome]error{
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_UNSPECIFIED:        client.ErrTokenIncorrect,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_INCORRECT:          client.ErrTokenIncorrect,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_EXPIRED:            client.ErrTokenExpired,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ALREADY_USED:       client.ErrTokenUsed,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_REVOKED:            client.ErrTokenRevoked,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ATTEMPTS_EXHAUSTED: client.ErrTokenExhausted,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SUBJECT_LOCKED:     client.ErrTokenLocked,
		tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SOURCE_LOCKED:      client.ErrTokenLocked,
		99: client.ErrTokenIncorrect, // of a later server
	}
	if want := len(tokenv1.ConsumeTokenOutcome_name); len(wants) != want {
		t.Errorf("%d outcomes are tried, want %d: all but ACCEPTED and one that is unknown", len(wants), want)
	}
	for outcome, want := range wants {
		b := serve(t, func(_ context.Context, req any) (any, error) {
			if _, ok := req.(*tokenv1.ExchangeTokenRequest); ok {
				return &tokenv1.ExchangeTokenResponse{Outcome: outcome, GrantToken: "grant", AttemptsLeft: 2, RetryAfter: durationpb.New(time.Minute)}, nil
			}
			return &tokenv1.ConsumeTokenResponse{Outcome: outcome, Payload: "payload", AttemptsLeft: 2, RetryAfter: durationpb.New(time.Minute)}, nil
		})
		c := connect(t, client.Options{Target: b.addr})
		token, err := c.Tokens.Consume(t.Context(), "p", client.ByLink("l"), client.ConsumeTokenOptions{})
		grant, err2 := c.Tokens.Exchange(t.Context(), "p", client.ByLink("l"), client.ExchangeOptions{})
		for _, err := range []error{err, err2} {
			var e *client.TokenError
			if !errors.Is(err, want) || !errors.As(err, &e) || e.AttemptsLeft != 2 || e.RetryAfter != time.Minute || token != nil || grant != nil {
				t.Errorf("outcome %v = %v, %v, %v; want nothing and %v", outcome, token, grant, err, want)
			}
		}
	}
	answers := map[string]proto.Message{}
	b := serve(t, func(_ context.Context, req any) (any, error) { return answers[fmt.Sprintf("%T", req)], nil })
	c := connect(t, client.Options{Target: b.addr})
	for outcome, want := range map[tokenv1.IssueTokenOutcome]error{
		tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_COOLDOWN: client.ErrTokenCooldown, tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_SUBJECT_LOCKED: client.ErrTokenLocked, 99: client.ErrTokenLocked,
	} {
		answers["*tokenv1.IssueTokenRequest"] = &tokenv1.IssueTokenResponse{Outcome: outcome, Token: "t", RetryAfter: durationpb.New(time.Hour)}
		token, err := c.Tokens.Issue(t.Context(), "ann", "p", client.TokenLink, client.IssueOptions{})
		var e *client.TokenError
		if !errors.Is(err, want) || !errors.As(err, &e) || e.RetryAfter != time.Hour || token != nil {
			t.Errorf("Issue with the outcome %v = %v, %v, want nothing and %v", outcome, token, err, want)
		}
	}
	for outcome, want := range map[tokenv1.ClaimOnceOutcome]error{1: nil, 0: client.ErrClaimed, 2: client.ErrClaimed, 3: client.ErrClaimUncertain, 99: client.ErrClaimed} {
		answers["*tokenv1.ClaimOnceRequest"] = &tokenv1.ClaimOnceResponse{Outcome: outcome}
		err := c.Tokens.ClaimOnce(t.Context(), "s", "id", time.Minute)
		if !errors.Is(err, want) || want != nil && !errors.Is(err, client.ErrClaimed) {
			t.Errorf("ClaimOnce with the outcome %v = %v, want %v", outcome, err, want)
		}
	}
	for outcome, want := range map[tokenv1.ClaimCounterOutcome]error{1: nil, 0: client.ErrClaimed, 2: client.ErrClaimed, 3: client.ErrClaimUncertain, 99: client.ErrClaimed} {
		answers["*tokenv1.ClaimCounterRequest"] = &tokenv1.ClaimCounterResponse{Outcome: outcome, LastValue: 7}
		if _, err := c.Tokens.ClaimCounter(t.Context(), "s", "id", 7, 0); !errors.Is(err, want) || want != nil && !errors.Is(err, client.ErrClaimed) {
			t.Errorf("ClaimCounter with the outcome %v = %v, want %v", outcome, err, want)
		}
	}
	at := timestamppb.New(time.Unix(1000, 0))
	answers["*tokenv1.InspectTokenRequest"] = &tokenv1.InspectTokenResponse{
		Outcome: tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_OPEN, TokenId: "id", Kind: tokenv1.TokenKind_TOKEN_KIND_CODE, Subject: "ann", Purpose: "p", CreateTime: at, ExpireTime: at, AttemptsLeft: 4, RecoveryCodesLeft: 3,
	}
	want := &client.InspectedToken{
		Outcome: client.TokenOpen, ID: "id", Kind: client.TokenCode, Subject: "ann", Purpose: "p", CreatedAt: at.AsTime(), ExpiresAt: at.AsTime(), AttemptsLeft: 4, RecoveryCodesLeft: 3,
	}
	if got, err := c.Tokens.Inspect(t.Context(), client.ByCode("id", ""), client.InspectOptions{}); err != nil || !got.Open() || cmp.Diff(want, got) != "" {
		t.Errorf("Inspect = %+v, %v, want %+v", got, err, want)
	}
	answers["*tokenv1.InspectSubjectRequest"] = &tokenv1.InspectSubjectResponse{
		Locked: true, RetryAfter: durationpb.New(time.Minute), Failures: 3, FailuresLeft: 2, ConsecutiveFailures: 9, IssueAfter: durationpb.New(time.Second),
		OpenTokens: []*tokenv1.OpenToken{{TokenId: "id", Kind: tokenv1.TokenKind_TOKEN_KIND_LINK, CreateTime: at, ExpireTime: at}},
	}
	wantBudget := &client.TokenBudget{
		Locked: true, RetryAfter: time.Minute, Failures: 3, Left: 2, Consecutive: 9, IssueAfter: time.Second,
		Open: []client.InspectedToken{{Outcome: client.TokenOpen, ID: "id", Kind: client.TokenLink, CreatedAt: at.AsTime(), ExpiresAt: at.AsTime()}},
	}
	if got, err := c.Tokens.InspectSubject(t.Context(), "ann", "p"); err != nil || cmp.Diff(wantBudget, got) != "" {
		t.Errorf("InspectSubject = %+v, %v, want %+v", got, err, wantBudget)
	}
	for _, refused := range []struct {
		field string
		err   error
	}{
		{"token_id", second(c.Tokens.RevokeID(t.Context(), ""))},
		{"source", second(c.Tokens.InspectSource(t.Context(), ""))},
		{"source", c.Tokens.ResetSource(t.Context(), "")},
	} {
		var e *client.Error
		if !errors.As(refused.err, &e) || !errors.Is(refused.err, client.ErrInvalid) || e.Field != refused.field {
			t.Errorf("error = %v, want ErrInvalid of %s", refused.err, refused.field)
		}
	}
}

// No format verb shows a secret.
func TestTokensAreNotPrinted(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	for _, v := range []any{
		client.ByLink(secret), client.ByCode("id", secret), client.ByRecoveryCode("ann", secret),
		client.IssuedToken{ID: "id", Link: secret, Code: secret, RecoveryCodes: []string{secret}},
		&client.IssuedToken{Link: secret},
		client.GrantedToken{ID: "id", Link: secret},
		&client.GrantedToken{Link: secret},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, secret) {
				t.Errorf("%T prints as %q with %s, want no secret", v, text, verb)
			}
		}
	}
}
