package policy

import (
	"cmp"
	"time"

	"github.com/berthcare/larder/store/token"
)

// Token is the policy for the one-time tokens of one namespace. A nil field takes the value of [Section].Defaults, and if that is
// nil too, the default given with it.
type Token struct {
	// LinkTTL is how long a LINK is accepted where a request does not say: at least 1 s, at most MaxLinkTTL; nil means 1 h.
	LinkTTL *time.Duration `yaml:"link_ttl"`
	// MaxLinkTTL is the maximum of that: at least 1 s, at most 720 h; nil means 168 h.
	MaxLinkTTL *time.Duration `yaml:"max_link_ttl"`
	// CodeTTL is how long a CODE is accepted where a request does not say: at least 1 s, at most MaxCodeTTL; nil means 10 min.
	CodeTTL *time.Duration `yaml:"code_ttl"`
	// MaxCodeTTL is the maximum of that: at least 1 s, at most 24 h; nil means 10 min, which is the most that NIST SP 800-63B-4
	// section 3.1.3.2 allows for authentication. It allows 24 h for recovery codes sent by e-mail (section 4.2.1.2).
	MaxCodeTTL *time.Duration `yaml:"max_code_ttl"`
	// MaxAttempts is the maximum number of attempts to consume one LINK or CODE, 1 to 10; nil means 5.
	MaxAttempts *int `yaml:"max_attempts"`
	// MaxSubjectFailures is how many attempts on one subject and purpose may fail within SubjectWindow before they are locked, 1 to
	// 100; nil means 10.
	MaxSubjectFailures *int `yaml:"max_subject_failures"`
	// SubjectWindow is that window: at least 1 min, at most 24 h; nil means 1 h.
	SubjectWindow *time.Duration `yaml:"subject_window"`
	// MaxConsecutiveFailures is how many attempts on one subject and purpose may fail in a row, whatever the time, before only
	// ResetSubject ends the lock: 1 to 100, the most that NIST SP 800-63B-4 section 3.2.2 allows; nil means 100.
	MaxConsecutiveFailures *int `yaml:"max_consecutive_failures"`
	// MaxSourceFailures is how many attempts of one source may fail within SourceWindow, for whichever subjects and purposes, 1 to
	// 1000000; nil means 100.
	MaxSourceFailures *int `yaml:"max_source_failures"`
	// SourceWindow is that window: at least 1 min, at most 24 h; nil means 1 h.
	SourceWindow *time.Duration `yaml:"source_window"`
	// Cooldown is the time between the first two tokens of one subject and purpose: at most MaxCooldown; nil means 1 min, 0 none.
	// It doubles with each further one, and is not kept for RECOVERY.
	Cooldown *time.Duration `yaml:"cooldown"`
	// MaxCooldown is the maximum of that: at most 24 h; nil means 1 h.
	MaxCooldown *time.Duration `yaml:"max_cooldown"`
}

// The bounds and defaults of [Token].
const (
	maxLinkTTL     = 720 * time.Hour
	maxCodeTTL     = 24 * time.Hour
	maxTokenWindow = 24 * time.Hour

	// MinTokenTTL is the minimum time for which a token is accepted.
	MinTokenTTL = time.Second
	// MaxRecoveryTTL is the default and the maximum time for which RECOVERY codes are accepted, about 10 years.
	MaxRecoveryTTL = 87600 * time.Hour
)

// TokenRules apply to the one-time tokens of one namespace; the fields are those of [Token].
type TokenRules struct {
	// LinkTTL and CodeTTL never exceed MaxLinkTTL and MaxCodeTTL.
	LinkTTL, MaxLinkTTL, CodeTTL, MaxCodeTTL time.Duration
	// MaxAttempts is the maximum number of attempts to consume one LINK or CODE.
	MaxAttempts int
	// Limits are the failure budgets and the cooldown.
	Limits token.Limits
}

func (p Token) over(d Token) Token {
	return Token{
		LinkTTL: cmp.Or(p.LinkTTL, d.LinkTTL), MaxLinkTTL: cmp.Or(p.MaxLinkTTL, d.MaxLinkTTL),
		CodeTTL: cmp.Or(p.CodeTTL, d.CodeTTL), MaxCodeTTL: cmp.Or(p.MaxCodeTTL, d.MaxCodeTTL),
		MaxAttempts:        cmp.Or(p.MaxAttempts, d.MaxAttempts),
		MaxSubjectFailures: cmp.Or(p.MaxSubjectFailures, d.MaxSubjectFailures), SubjectWindow: cmp.Or(p.SubjectWindow, d.SubjectWindow),
		MaxConsecutiveFailures: cmp.Or(p.MaxConsecutiveFailures, d.MaxConsecutiveFailures),
		MaxSourceFailures:      cmp.Or(p.MaxSourceFailures, d.MaxSourceFailures), SourceWindow: cmp.Or(p.SourceWindow, d.SourceWindow),
		Cooldown: cmp.Or(p.Cooldown, d.Cooldown), MaxCooldown: cmp.Or(p.MaxCooldown, d.MaxCooldown),
	}
}

// tokenRules returns the rules of a policy that inherits nothing any more.
func tokenRules(p Token) TokenRules {
	r := TokenRules{
		MaxLinkTTL: valueOr(p.MaxLinkTTL, 168*time.Hour), MaxCodeTTL: valueOr(p.MaxCodeTTL, 10*time.Minute), MaxAttempts: valueOr(p.MaxAttempts, 5),
		Limits: token.Limits{
			Failures: valueOr(p.MaxSubjectFailures, 10), Window: valueOr(p.SubjectWindow, time.Hour),
			Consecutive:    valueOr(p.MaxConsecutiveFailures, 100),
			SourceFailures: valueOr(p.MaxSourceFailures, 100), SourceWindow: valueOr(p.SourceWindow, time.Hour),
			MaxCooldown: valueOr(p.MaxCooldown, time.Hour),
		},
	}
	r.LinkTTL, r.CodeTTL = min(valueOr(p.LinkTTL, time.Hour), r.MaxLinkTTL), min(valueOr(p.CodeTTL, 10*time.Minute), r.MaxCodeTTL)
	r.Limits.Cooldown = min(valueOr(p.Cooldown, time.Minute), r.Limits.MaxCooldown)
	return r
}

// tokens checks the fields written for one namespace or as defaults; r are the rules that result from them.
func (c *checker) tokens(p Token, r TokenRules) {
	between(c, "max_link_ttl", p.MaxLinkTTL, MinTokenTTL, maxLinkTTL, "")
	between(c, "link_ttl", p.LinkTTL, MinTokenTTL, r.MaxLinkTTL, "max_link_ttl")
	between(c, "max_code_ttl", p.MaxCodeTTL, MinTokenTTL, maxCodeTTL, "")
	between(c, "code_ttl", p.CodeTTL, MinTokenTTL, r.MaxCodeTTL, "max_code_ttl")
	between(c, "max_attempts", p.MaxAttempts, 1, 10, "")
	between(c, "max_subject_failures", p.MaxSubjectFailures, 1, 100, "")
	between(c, "subject_window", p.SubjectWindow, time.Minute, maxTokenWindow, "")
	between(c, "max_consecutive_failures", p.MaxConsecutiveFailures, 1, 100, "")
	between(c, "max_source_failures", p.MaxSourceFailures, 1, 1000000, "")
	between(c, "source_window", p.SourceWindow, time.Minute, maxTokenWindow, "")
	between(c, "max_cooldown", p.MaxCooldown, 0, maxTokenWindow, "")
	between(c, "cooldown", p.Cooldown, 0, r.Limits.MaxCooldown, "max_cooldown")
}
