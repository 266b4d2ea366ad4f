package service

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/testing/protocmp"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

const (
	accepted  = tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ACCEPTED
	incorrect = tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_INCORRECT
	isLink    = tokenv1.TokenKind_TOKEN_KIND_LINK
	isCode    = tokenv1.TokenKind_TOKEN_KIND_CODE
)

func (a *api) issue(t testing.TB, r *tokenv1.IssueTokenRequest) *tokenv1.IssueTokenResponse {
	t.Helper()
	return must[*tokenv1.IssueTokenResponse](t)(a.tokens.IssueToken(t.Context(), r))
}

func (a *api) consumeToken(t testing.TB, r *tokenv1.ConsumeTokenRequest) *tokenv1.ConsumeTokenResponse {
	t.Helper()
	return must[*tokenv1.ConsumeTokenResponse](t)(a.tokens.ConsumeToken(t.Context(), r))
}

func byCode(i *tokenv1.IssueTokenResponse, purpose string) *tokenv1.ConsumeTokenRequest {
	return &tokenv1.ConsumeTokenRequest{Purpose: purpose, Target: &tokenv1.ConsumeTokenRequest_TokenId{TokenId: i.TokenId}, Code: i.Code}
}

func byWrongCode(i *tokenv1.IssueTokenResponse, purpose string) *tokenv1.ConsumeTokenRequest {
	r := byCode(i, purpose)
	r.Code = flip(r.Code[0]) + r.Code[1:]
	return r
}

func tokenPolicy(namespace string, p policy.Token) *policy.Policy {
	return &policy.Policy{Tokens: policy.Section[policy.Token]{Namespaces: map[string]policy.Token{namespace: p}}}
}

// The answers of every rpc, field by field.
func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	i := a.issue(t, &tokenv1.IssueTokenRequest{
		Subject: "ann", Purpose: "email", Kind: isLink, Payload: "ann@example.com", Ttl: secs(95),
		OnSuccess: tokenv1.OnSuccess_ON_SUCCESS_REVOKE_SUBJECT_SESSIONS,
	})
	about(t, "expire_time", i.ExpireTime, time.Now().Add(95*time.Second))
	remains(t, "retry_after", &i.RetryAfter, time.Minute)
	link, id := i.Token, i.TokenId
	want := &tokenv1.IssueTokenResponse{
		Outcome: tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_ISSUED, TokenId: id, Token: link, ExpireTime: i.ExpireTime, ExpiresIn: secs(60),
	}
	if diff := cmp.Diff(want, i, protocmp.Transform()); diff != "" || !strings.HasPrefix(link, "lt1_") {
		t.Errorf("IssueToken (-want +got):\n%s", diff)
	}
	again := a.issue(t, &tokenv1.IssueTokenRequest{Subject: "ann", Purpose: "email", Kind: isLink})
	remains(t, "retry_after", &again.RetryAfter, time.Minute)
	if diff := cmp.Diff(&tokenv1.IssueTokenResponse{Outcome: tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_COOLDOWN}, again, protocmp.Transform()); diff != "" {
		t.Errorf("IssueToken in the cooldown (-want +got):\n%s", diff)
	}

	inspected := must[*tokenv1.InspectTokenResponse](t)(a.tokens.InspectToken(t.Context(), &tokenv1.InspectTokenRequest{Target: &tokenv1.InspectTokenRequest_Token{Token: link}}))
	about(t, "create_time", inspected.CreateTime, time.Now())
	wantInspected := &tokenv1.InspectTokenResponse{
		Outcome: tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_OPEN, TokenId: id, Kind: isLink, Subject: "ann", Purpose: "email",
		CreateTime: inspected.CreateTime, ExpireTime: i.ExpireTime, AttemptsLeft: 5,
	}
	if diff := cmp.Diff(wantInspected, inspected, protocmp.Transform()); diff != "" {
		t.Errorf("InspectToken (-want +got):\n%s", diff)
	}
	unknown := must[*tokenv1.InspectTokenResponse](t)(a.tokens.InspectToken(t.Context(), &tokenv1.InspectTokenRequest{Target: &tokenv1.InspectTokenRequest_TokenId{TokenId: idNobodyHas}}))
	if diff := cmp.Diff(&tokenv1.InspectTokenResponse{Outcome: tokenv1.InspectTokenOutcome_INSPECT_TOKEN_OUTCOME_UNKNOWN}, unknown, protocmp.Transform()); diff != "" {
		t.Errorf("InspectToken of nothing (-want +got):\n%s", diff)
	}

	byLink := &tokenv1.ConsumeTokenRequest{Purpose: "email", Target: &tokenv1.ConsumeTokenRequest_Token{Token: link}, Source: "203.0.113.7"}
	wrongPurpose := a.consumeToken(t, &tokenv1.ConsumeTokenRequest{Purpose: "other", Target: byLink.Target})
	if diff := cmp.Diff(&tokenv1.ConsumeTokenResponse{Outcome: incorrect, AttemptsLeft: 4}, wrongPurpose, protocmp.Transform()); diff != "" {
		t.Errorf("ConsumeToken for another purpose (-want +got):\n%s", diff)
	}
	wantConsumed := &tokenv1.ConsumeTokenResponse{Outcome: accepted, Payload: "ann@example.com", Subject: "ann", TokenId: id, RevokedSessions: 1}
	if diff := cmp.Diff(wantConsumed, a.consumeToken(t, byLink), protocmp.Transform()); diff != "" {
		t.Errorf("ConsumeToken (-want +got):\n%s", diff)
	}
	if a.isActive(t, "", created.SessionToken) {
		t.Error("the session is active, want it ended")
	}
	used := &tokenv1.ConsumeTokenResponse{Outcome: tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ALREADY_USED}
	if diff := cmp.Diff(used, a.consumeToken(t, byLink), protocmp.Transform()); diff != "" {
		t.Errorf("ConsumeToken again (-want +got):\n%s", diff)
	}

	set := a.issue(t, &tokenv1.IssueTokenRequest{Subject: "ann", Purpose: "email", Kind: tokenv1.TokenKind_TOKEN_KIND_RECOVERY, RecoveryCount: 2})
	if len(set.RecoveryCodes) != 2 || set.Token != "" || set.Code != "" || set.RetryAfter != nil {
		t.Errorf("IssueToken = %v, want two recovery codes and no cooldown", set)
	}
	exchanged := must[*tokenv1.ExchangeTokenResponse](t)(a.tokens.ExchangeToken(t.Context(), &tokenv1.ExchangeTokenRequest{
		Purpose: "email", Target: &tokenv1.ExchangeTokenRequest_Subject{Subject: "ann"}, Code: set.RecoveryCodes[0],
	}))
	about(t, "grant_expire_time", exchanged.GrantExpireTime, time.Now().Add(10*time.Minute))
	wantExchanged := &tokenv1.ExchangeTokenResponse{
		Outcome: accepted, GrantToken: exchanged.GrantToken, GrantTokenId: exchanged.GrantTokenId, GrantExpireTime: exchanged.GrantExpireTime,
		Subject: "ann", RecoveryCodesLeft: 1,
	}
	if diff := cmp.Diff(wantExchanged, exchanged, protocmp.Transform()); diff != "" || !strings.HasPrefix(exchanged.GrantToken, "lt1_") || len(exchanged.GrantTokenId) != 23 {
		t.Errorf("ExchangeToken (-want +got):\n%s", diff)
	}

	subject := must[*tokenv1.InspectSubjectResponse](t)(a.tokens.InspectSubject(t.Context(), &tokenv1.InspectSubjectRequest{Subject: "ann", Purpose: "email"}))
	if len(subject.OpenTokens) != 2 || subject.OpenTokens[0].TokenId != set.TokenId || subject.OpenTokens[1].TokenId != exchanged.GrantTokenId {
		t.Errorf("InspectSubject = %v, want the recovery codes and the grant open", subject)
	}
	subject.OpenTokens = nil
	if diff := cmp.Diff(&tokenv1.InspectSubjectResponse{FailuresLeft: 10}, subject, protocmp.Transform()); diff != "" {
		t.Errorf("InspectSubject (-want +got):\n%s", diff)
	}
	source := must[*tokenv1.InspectSubjectResponse](t)(a.tokens.InspectSubject(t.Context(), &tokenv1.InspectSubjectRequest{Source: "203.0.113.7"}))
	if diff := cmp.Diff(&tokenv1.InspectSubjectResponse{FailuresLeft: 100}, source, protocmp.Transform()); diff != "" {
		t.Errorf("InspectSubject of a source (-want +got):\n%s", diff)
	}
	for want, req := range map[int64]*tokenv1.RevokeTokenRequest{
		1: {TokenId: set.TokenId}, 0: {TokenId: idNobodyHas},
	} {
		if got := must[*tokenv1.RevokeTokenResponse](t)(a.tokens.RevokeToken(t.Context(), req)); got.RevokedCount != want {
			t.Errorf("RevokeToken = %v, want %d", got, want)
		}
	}
	if got := must[*tokenv1.RevokeTokenResponse](t)(a.tokens.RevokeToken(t.Context(), &tokenv1.RevokeTokenRequest{Subject: "ann", Purpose: "email"})); got.RevokedCount != 1 {
		t.Errorf("RevokeToken of a subject = %v, want 1", got)
	}

	claim := &tokenv1.ClaimOnceRequest{Scope: "iss", Id: "jti", Ttl: secs(60)}
	for _, want := range []tokenv1.ClaimOnceOutcome{tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_CLAIMED, tokenv1.ClaimOnceOutcome_CLAIM_ONCE_OUTCOME_ALREADY_CLAIMED} {
		if got := must[*tokenv1.ClaimOnceResponse](t)(a.tokens.ClaimOnce(t.Context(), claim)); got.Outcome != want || got.RetryAfter != nil {
			t.Errorf("ClaimOnce = %v, want %v", got, want)
		}
	}
	for value, want := range map[int64]*tokenv1.ClaimCounterResponse{
		7: {Outcome: tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_CLAIMED, LastValue: 7},
	} {
		req := &tokenv1.ClaimCounterRequest{Scope: "totp", Id: "ann", Value: value}
		if diff := cmp.Diff(want, must[*tokenv1.ClaimCounterResponse](t)(a.tokens.ClaimCounter(t.Context(), req)), protocmp.Transform()); diff != "" {
			t.Errorf("ClaimCounter (-want +got):\n%s", diff)
		}
		want.Outcome = tokenv1.ClaimCounterOutcome_CLAIM_COUNTER_OUTCOME_NOT_GREATER
		if diff := cmp.Diff(want, must[*tokenv1.ClaimCounterResponse](t)(a.tokens.ClaimCounter(t.Context(), req)), protocmp.Transform()); diff != "" {
			t.Errorf("ClaimCounter again (-want +got):\n%s", diff)
		}
	}
	for outcome, want := range map[[2]string]float64{
		{"IssueToken", "issued"}: 2, {"IssueToken", "cooldown"}: 1, {"ConsumeToken", "accepted"}: 1, {"ConsumeToken", "incorrect"}: 1,
		{"ConsumeToken", "already_used"}: 1, {"ExchangeToken", "accepted"}: 1, {"ClaimOnce", "already_claimed"}: 1, {"ClaimCounter", "not_greater"}: 1,
	} {
		var counted dto.Metric
		if err := a.metrics.tokenOutcomes.WithLabelValues(outcome[0], outcome[1]).Write(&counted); err != nil {
			t.Fatalf("Write = %v, want nil", err)
		}
		if got := counted.GetCounter().GetValue(); got != want {
			t.Errorf("larder_token_outcomes_total of %v = %v, want %v", outcome, got, want)
		}
	}
}

func TestPolicyTokens(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, tokenPolicy("strict", policy.Token{
		CodeTTL: new(30 * time.Second), MaxCodeTTL: new(time.Minute), LinkTTL: new(2 * time.Minute), MaxLinkTTL: new(5 * time.Minute),
		MaxAttempts: new(2), MaxSubjectFailures: new(3), MaxSourceFailures: new(4), Cooldown: new(time.Duration(0)),
		SubjectWindow: new(10 * time.Minute), SourceWindow: new(20 * time.Minute),
	}))
	const ns = "strict"
	issue := func(subject string) *tokenv1.IssueTokenResponse {
		t.Helper()
		return a.issue(t, &tokenv1.IssueTokenRequest{Namespace: ns, Subject: subject, Purpose: "p", Kind: isCode})
	}
	fail := func(i *tokenv1.IssueTokenResponse, want tokenv1.ConsumeTokenOutcome) *tokenv1.ConsumeTokenResponse {
		t.Helper()
		r := byWrongCode(i, "p")
		r.Namespace, r.Source = ns, "ip"
		got := a.consumeToken(t, r)
		if got.Outcome != want {
			t.Errorf("ConsumeToken = %v, want %v", got, want)
		}
		return got
	}
	i := issue("ann")
	if i.ExpiresIn.AsDuration() != 30*time.Second || i.RetryAfter != nil {
		t.Errorf("IssueToken = %v, want 30 s and no cooldown", i)
	}
	if link := a.issue(t, &tokenv1.IssueTokenRequest{Namespace: ns, Subject: "link", Purpose: "p", Kind: isLink}); link.ExpiresIn.AsDuration() != 2*time.Minute {
		t.Errorf("IssueToken = %v, want a link of 2 min", link)
	}
	for _, r := range []*tokenv1.IssueTokenRequest{{Kind: isCode, Ttl: secs(61)}, {Kind: isLink, Ttl: secs(301)}, {Kind: isCode, MaxAttempts: 3}} {
		r.Namespace, r.Subject, r.Purpose = ns, "ann", "p"
		_, err := a.tokens.IssueToken(t.Context(), r)
		field := "ttl"
		if r.MaxAttempts > 0 {
			field = "max_attempts"
		}
		wantInvalid(t, r, err, field)
	}
	fail(i, incorrect)
	fail(i, incorrect)
	fail(i, tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ATTEMPTS_EXHAUSTED)
	i = issue("ann")
	fail(i, incorrect)
	locked := fail(i, tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SUBJECT_LOCKED)
	remains(t, "retry_after", &locked.RetryAfter, 10*time.Minute)
	fail(issue("bob"), incorrect)
	locked = fail(issue("carl"), tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_SOURCE_LOCKED)
	remains(t, "retry_after", &locked.RetryAfter, 20*time.Minute)
	if got := a.issue(t, &tokenv1.IssueTokenRequest{Namespace: ns, Subject: "ann", Purpose: "p", Kind: isCode}); got.Outcome != tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_SUBJECT_LOCKED {
		t.Errorf("IssueToken = %v, want the subject locked", got)
	}
	// A changed policy acts at once, on budgets that are partly spent.
	a.under(t, tokenPolicy(ns, policy.Token{MaxSubjectFailures: new(4), MaxSourceFailures: new(5)}))
	r := byCode(i, "p")
	r.Namespace, r.Source = ns, "ip"
	if got := a.consumeToken(t, r); got.Outcome != accepted {
		t.Errorf("ConsumeToken under a wider policy = %v, want it accepted", got)
	}
}

func TestPolicyTokenCheck(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]policy.Token{
		"link_ttl: must be at least 1s and at most 168h (max_link_ttl)": {LinkTTL: new(200 * time.Hour)},
		"link_ttl: must be at least 1s and at most 1m (max_link_ttl)":   {LinkTTL: new(time.Hour), MaxLinkTTL: new(time.Minute)},
		"max_link_ttl: must be at least 1s and at most 720h":            {MaxLinkTTL: new(721 * time.Hour)},
		"code_ttl: must be at least 1s and at most 10m (max_code_ttl)":  {CodeTTL: new(time.Hour)},
		"max_code_ttl: must be at least 1s and at most 24h":             {MaxCodeTTL: new(25 * time.Hour)},
		"max_attempts: must be at least 1 and at most 10":               {MaxAttempts: new(0)},
		"max_subject_failures: must be at least 1 and at most 100":      {MaxSubjectFailures: new(101)},
		"subject_window: must be at least 1m and at most 24h":           {SubjectWindow: new(time.Second)},
		"max_consecutive_failures: must be at least 1 and at most 100":  {MaxConsecutiveFailures: new(101)},
		"max_source_failures: must be at least 1 and at most 1000000":   {MaxSourceFailures: new(-1)},
		"source_window: must be at least 1m and at most 24h":            {SourceWindow: new(25 * time.Hour)},
		"max_cooldown: must be at least 0s and at most 24h":             {MaxCooldown: new(-time.Second)},
		"cooldown: must be at least 0s and at most 1h (max_cooldown)":   {Cooldown: new(2 * time.Hour)},
		"cooldown: must be at least 0s and at most 1s (max_cooldown)":   {Cooldown: new(time.Minute), MaxCooldown: new(time.Second)},
	} {
		if err := tokenPolicy("n", p).Check(policy.Limits{}); err == nil || err.Error() != "tokens.namespaces.n."+want {
			t.Errorf("Check = %v, want tokens.namespaces.n.%s", err, want)
		}
	}
	if err := tokenPolicy("n", policy.Token{MaxCodeTTL: new(24 * time.Hour), CodeTTL: new(24 * time.Hour), Cooldown: new(time.Duration(0))}).Check(policy.Limits{}); err != nil {
		t.Errorf("Check of a good policy = %v, want nil", err)
	}
}

// The first code without a keyring is warned about, once; with one, or without codes, nothing is.
func TestCodesWithoutAKeyringAreWarnedAbout(t *testing.T) {
	t.Parallel()
	for keyed, want := range map[bool]int{true: 0, false: 1} {
		o := store.Options{Redis: redis.Options{Mode: redis.Embedded}}
		if keyed {
			o.Keyring = must[*keyring.Keyring](t)(keyring.New("a", map[string][]byte{"a": bytes.Repeat([]byte("k"), keyring.KeyBytes)}))
		}
		st, metrics := must[*store.Store](t)(store.New(o)), NewMetrics()
		t.Cleanup(st.Close)
		if err := st.Redis.Connect(t.Context()); err != nil {
			t.Fatalf("Connect = %v, want nil", err)
		}
		var mu sync.Mutex
		var log bytes.Buffer
		service := NewToken(st, policy.New(policy.Limits{}), metrics, slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil)))
		for _, kind := range []tokenv1.TokenKind{isLink, isCode, isCode} {
			for _, subject := range []string{"ann", "bob"} {
				must[*tokenv1.IssueTokenResponse](t)(service.IssueToken(t.Context(), &tokenv1.IssueTokenRequest{Subject: subject, Purpose: "p", Kind: kind}))
				if kind == isLink && log.Len() > 0 {
					t.Errorf("the log says %q after a link, want nothing", log.String())
				}
			}
		}
		if got := strings.Count(log.String(), "level=WARN"); got != want || want > 0 && !strings.Contains(log.String(), "LARDER_KEYRING_FILE") {
			t.Errorf("with a keyring %t the log says %q, want %d warnings", keyed, log.String(), want)
		}
		if got := metrics.unkeyedCodes.Load(); got == keyed {
			t.Errorf("larder_token_codes_unkeyed is %t with a keyring %t, want the contrary", got, keyed)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
