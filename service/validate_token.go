package service

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/token"
)

// The limits of TokenService, which no setting changes.
const (
	maxPurposeBytes = 56
	maxPayloadBytes = 4096
	maxBindingBytes = 256
	maxSourceBytes  = 256
	maxCodeBytes    = 64
	maxScopeBytes   = 256
	maxClaimIDBytes = 1024

	minCodeLength      = 6
	maxDigits          = 10
	maxCrockford       = 16
	defaultDigits      = 6
	defaultCrockford   = 8
	defaultRecovery    = 10
	defaultGrantTTL    = 10 * time.Minute
	maxGrantTTL        = time.Hour
	maxClaimTTL        = 720 * time.Hour
	defaultCounterTTL  = 24 * time.Hour
	minClaimTTL        = time.Second
	purposeForm        = "must be 1 to 56 characters of a-z, 0-9, dot, underscore and dash"
	withoutGrantSuffix = `must not end with ".grant"`
)

// purpose checks a purpose. That of a grant ends with a suffix, which only some calls accept.
func (f *fields) purpose(purpose string, grants bool) string {
	name, isGrant := strings.CutSuffix(purpose, token.GrantSuffix)
	ok := name != "" && len(name) <= maxPurposeBytes
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	switch {
	case !ok:
		f.add("purpose", purposeForm)
	case isGrant && !grants || strings.HasSuffix(name, token.GrantSuffix):
		f.add("purpose", withoutGrantSuffix)
	}
	return purpose
}

// issue checks a token to be issued.
func (f *fields) issue(r *tokenv1.IssueTokenRequest) token.Issue {
	rules := f.rules.Tokens
	n := token.Issue{
		Subject: f.subject(r.GetSubject(), 1), Purpose: f.purpose(r.GetPurpose(), false), Payload: r.GetPayload(),
		Binding: r.GetBinding(), Decoy: r.GetDecoy(), Request: f.requestID(r.GetRequestId()), Limits: rules.Limits,
		RevokeSessions: enum(f, "on_success", r.GetOnSuccess(), tokenv1.OnSuccess_name) == tokenv1.OnSuccess_ON_SUCCESS_REVOKE_SUBJECT_SESSIONS,
		MaxAttempts:    f.atMost("max_attempts", r.GetMaxAttempts(), rules.MaxAttempts, rules.MaxAttempts),
		MaxOpen:        f.atMost("max_open", r.GetMaxOpen(), 1, token.MaxOpen),
		Count:          f.atMost("recovery_count", r.GetRecoveryCount(), defaultRecovery, token.MaxRecoveryCodes),
	}
	if len(n.Payload) > maxPayloadBytes {
		f.add("payload", "must be at most %d bytes long", maxPayloadBytes)
	}
	f.text("binding", n.Binding, 0, maxBindingBytes)
	var normal, most time.Duration
	switch r.GetKind() {
	case tokenv1.TokenKind_TOKEN_KIND_LINK:
		n.Kind, normal, most = token.Link, rules.LinkTTL, rules.MaxLinkTTL
	case tokenv1.TokenKind_TOKEN_KIND_CODE:
		n.Kind, normal, most = token.Code, rules.CodeTTL, rules.MaxCodeTTL
	case tokenv1.TokenKind_TOKEN_KIND_RECOVERY:
		n.Kind, normal, most = token.Recovery, policy.MaxRecoveryTTL, policy.MaxRecoveryTTL
		f.onlyOther(r)
	default:
		f.add("kind", "must be LINK, CODE or RECOVERY")
		return n
	}
	n.TTL = normal
	if r.GetTtl() != nil {
		n.TTL = f.duration("ttl", r.GetTtl(), policy.MinTokenTTL, most)
	}
	n.Alphabet, n.Length = f.codeForm(r)
	return n
}

// onlyOther checks that a request for recovery codes has no field that only other kinds have.
func (f *fields) onlyOther(r *tokenv1.IssueTokenRequest) {
	for _, other := range []struct {
		field string
		set   bool
	}{
		{"binding", r.GetBinding() != ""},
		{"max_attempts", r.GetMaxAttempts() != 0},
		{"max_open", r.GetMaxOpen() != 0},
		{"on_success", r.GetOnSuccess() != tokenv1.OnSuccess_ON_SUCCESS_UNSPECIFIED},
	} {
		if other.set {
			f.add(other.field, "must be unset for RECOVERY")
		}
	}
}

// codeForm checks of what a code consists.
func (f *fields) codeForm(r *tokenv1.IssueTokenRequest) (alphabet string, length int) {
	isCode := r.GetKind() == tokenv1.TokenKind_TOKEN_KIND_CODE
	if r.GetAlphabet() != 0 && !isCode {
		f.add("alphabet", "must be unset unless kind is CODE")
	}
	if r.GetLength() != 0 && !isCode {
		f.add("length", "must be unset unless kind is CODE")
		return "", 0
	}
	if r.GetRecoveryCount() != 0 && r.GetKind() != tokenv1.TokenKind_TOKEN_KIND_RECOVERY {
		f.add("recovery_count", "must be unset unless kind is RECOVERY")
	}
	alphabet, length, most := token.Digits, defaultDigits, maxDigits
	if enum(f, "alphabet", r.GetAlphabet(), tokenv1.CodeAlphabet_name) == tokenv1.CodeAlphabet_CODE_ALPHABET_CROCKFORD {
		alphabet, length, most = token.Crockford, defaultCrockford, maxCrockford
	}
	if n := int(r.GetLength()); n != 0 {
		if n < minCodeLength || n > most {
			f.add("length", "must be %d to %d", minCodeLength, most)
		}
		length = n
	}
	return alphabet, length
}

// atMost checks a number from 1 to most; zero means normal.
func (f *fields) atMost(field string, n int32, normal, most int) int {
	switch {
	case n == 0:
		return normal
	case n < 0 || int(n) > most:
		f.add(field, "must be 1 to %d", most)
	}
	return int(n)
}

// presentation is what ConsumeTokenRequest and ExchangeTokenRequest have in common.
type presentation interface {
	GetToken() string
	GetTokenId() string
	GetSubject() string
	GetCode() string
	GetBinding() string
	GetSource() string
	GetRequestId() string
}

// presented checks a token that somebody presents. A malformed one is no error but incorrect.
func (f *fields) presented(r presentation, purpose string) token.Presented {
	p := token.Presented{
		Link: r.GetToken(), ID: r.GetTokenId(), Subject: r.GetSubject(), Code: r.GetCode(), Purpose: purpose, Binding: r.GetBinding(),
		Source: r.GetSource(), Request: f.requestID(r.GetRequestId()), Longest: f.limits.SessionAbsoluteTimeout, Limits: f.rules.Tokens.Limits,
	}
	switch {
	case p.Link == "" && p.ID == "" && p.Subject == "":
		f.add("target", "must have a token, a token_id or a subject")
	case p.Link != "" && p.Code != "":
		f.add("code", "must be empty if token is set")
	case p.Link == "" && p.Code == "":
		f.add("code", "must not be empty")
	}
	f.text("subject", p.Subject, 0, maxSubjectBytes)
	f.text("code", p.Code, 0, maxCodeBytes)
	f.text("binding", p.Binding, 0, maxBindingBytes)
	f.text("source", p.Source, 0, maxSourceBytes)
	return p
}

// budget checks whose budget a request is about: that of a subject and purpose, or of a source.
func (f *fields) budget(r interface {
	GetSubject() string
	GetPurpose() string
	GetSource() string
},
) {
	if r.GetSource() == "" {
		f.subject(r.GetSubject(), 1)
		f.purpose(r.GetPurpose(), false)
		return
	}
	if r.GetSubject() != "" || r.GetPurpose() != "" {
		f.add("source", "must be empty if subject or purpose is set")
	}
	f.text("source", r.GetSource(), 1, maxSourceBytes)
}

// claim checks a claim.
func (f *fields) claim(r interface {
	GetScope() string
	GetId() string
	GetTtl() *durationpb.Duration
	GetRequestId() string
}, normal time.Duration,
) token.Claim {
	c := token.Claim{Scope: r.GetScope(), ID: r.GetId(), TTL: normal, Request: f.requestID(r.GetRequestId())}
	f.text("scope", c.Scope, 1, maxScopeBytes)
	f.text("id", c.ID, 1, maxClaimIDBytes)
	switch {
	case r.GetTtl() != nil:
		c.TTL = f.duration("ttl", r.GetTtl(), minClaimTTL, maxClaimTTL)
	case normal == 0:
		f.add("ttl", "must be set")
	}
	return c
}
