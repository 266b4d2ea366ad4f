package service

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/ratelimit"
)

const (
	maxLimits         = 8
	maxLimitNames     = 100
	maxConsumes       = 100
	maxReservationTTL = 24 * time.Hour
	// defaultReservationTTL is the ttl of a reservation whose request sets none.
	defaultReservationTTL = time.Minute
	// maxReservationIDBytes is above the length of an id of 8 limits with the longest names and subject.
	maxReservationIDBytes = 1536
)

// The enums of the API and what they are in the store.
var (
	algorithms = map[ratelimitv1.Algorithm]ratelimit.Algorithm{
		ratelimitv1.Algorithm_ALGORITHM_UNSPECIFIED:    ratelimit.GCRA,
		ratelimitv1.Algorithm_ALGORITHM_GCRA:           ratelimit.GCRA,
		ratelimitv1.Algorithm_ALGORITHM_SLIDING_WINDOW: ratelimit.SlidingWindow,
		ratelimitv1.Algorithm_ALGORITHM_FIXED_WINDOW:   ratelimit.FixedWindow,
	}
	alignments = map[ratelimitv1.Alignment]ratelimit.Alignment{
		ratelimitv1.Alignment_ALIGNMENT_UNSPECIFIED: "",
		ratelimitv1.Alignment_ALIGNMENT_FIRST_USE:   ratelimit.FirstUse,
		ratelimitv1.Alignment_ALIGNMENT_EPOCH:       ratelimit.Epoch,
		ratelimitv1.Alignment_ALIGNMENT_CALENDAR:    ratelimit.Calendar,
	}
	failurePolicies = map[ratelimitv1.FailurePolicy]ratelimit.FailurePolicy{
		ratelimitv1.FailurePolicy_FAILURE_POLICY_UNSPECIFIED: ratelimit.FailOpen,
		ratelimitv1.FailurePolicy_FAILURE_POLICY_FAIL_OPEN:   ratelimit.FailOpen,
		ratelimitv1.FailurePolicy_FAILURE_POLICY_FAIL_CLOSED: ratelimit.FailClosed,
		ratelimitv1.FailurePolicy_FAILURE_POLICY_LOCAL:       ratelimit.FailLocal,
	}
)

// inlinePrefix begins the names that rules in requests have in the store, so that they are no rules of the policy.
const inlinePrefix = "~"

// cost checks a cost, which is 1 if it is unset.
func (f *fields) cost(n *int64, least int64) int64 {
	switch {
	case n == nil:
		return 1
	case *n < least || *n > ratelimit.MaxCapacity:
		f.add("cost", "must be at least %d and at most %d", least, int64(ratelimit.MaxCapacity))
	}
	return *n
}

// charges checks the limits of a call and returns what it charges. A call about one subject may not name another one.
func (f *fields) charges(subject string, limits []*ratelimitv1.Limit, cost int64, oneSubject bool) []ratelimit.Charge {
	f.subject(subject, 1)
	if len(limits) < 1 || len(limits) > maxLimits {
		f.add("limits", "must have 1 to %d items", maxLimits)
		return nil
	}
	charges := make([]ratelimit.Charge, len(limits))
	for i, limit := range limits {
		c := &charges[i]
		c.Subject, c.Cost = subject, cost
		switch kind := limit.GetKind().(type) {
		case *ratelimitv1.Limit_Rule:
			c.Name = kind.Rule
			rule, ok := f.rules.RateLimits[kind.Rule]
			if !ok {
				f.addLimit(i, ".rule", "must be a rule that the policy has for the namespace")
			}
			c.Rule = rule
		case *ratelimitv1.Limit_Inline:
			c.Name, c.Rule = inlinePrefix+kind.Inline.GetName(), f.inlineRule(i, kind.Inline)
		default:
			f.addLimit(i, "", "must have a rule or an inline rule")
		}
		if own := limit.GetSubject(); own != "" {
			c.Subject = own
			f.text("limits["+strconv.Itoa(i)+"].subject", own, 1, maxSubjectBytes)
			if oneSubject {
				f.addLimit(i, ".subject", "must be empty here, and if request_id is set")
			}
		}
		for k := range i {
			if charges[k].Subject == c.Subject && charges[k].Name == c.Name {
				f.addLimit(i, "", "must differ from limits["+strconv.Itoa(k)+"] in rule, name or subject")
				break
			}
		}
	}
	return charges
}

func (f *fields) addLimit(i int, field, description string) {
	f.add("limits["+strconv.Itoa(i)+"]"+field, "%s", description)
}

// inlineRule checks a rule in a request.
func (f *fields) inlineRule(i int, r *ratelimitv1.Rule) ratelimit.Rule {
	prefix := f.prefix
	f.prefix += "limits[" + strconv.Itoa(i) + "].inline."
	defer func() { f.prefix = prefix }()
	if r.GetName() != "" && !policy.ValidNamespace(r.GetName()) {
		f.add("name", policy.NamespaceForm+", or empty")
	}
	rule := ratelimit.Rule{
		Algorithm: algorithms[enum(f, "algorithm", r.GetAlgorithm(), ratelimitv1.Algorithm_name)],
		Capacity:  r.GetCapacity(), Burst: r.GetBurst(), Penalize: r.GetPenalize(), Shadow: r.GetShadow(),
		Alignment: alignments[enum(f, "alignment", r.GetAlignment(), ratelimitv1.Alignment_name)],
		OnFailure: failurePolicies[enum(f, "on_failure", r.GetOnFailure(), ratelimitv1.FailurePolicy_name)],
	}
	invalid := func(field string, d *durationpb.Duration) bool {
		if d != nil && d.CheckValid() != nil {
			f.add(field, "must be a valid duration")
			return true
		}
		return false
	}
	wrongPeriod, wrongTimeout := invalid("period", r.GetPeriod()), invalid("redis_timeout", r.GetRedisTimeout())
	rule.Period, rule.RedisTimeout = r.GetPeriod().AsDuration().Truncate(time.Microsecond), r.GetRedisTimeout().AsDuration()
	if r.GetRedisTimeout() != nil && rule.RedisTimeout == 0 {
		rule.RedisTimeout = -1 // zero would be the default
	}
	policy.CheckRateLimit(rule, func(field, description string) {
		if field == "period" && wrongPeriod || field == "redis_timeout" && wrongTimeout {
			return
		}
		f.add(field, "%s", description)
	})
	return rule
}

// reservation checks the id of a reservation.
func (f *fields) reservation(id string) string {
	if len(id) > maxReservationIDBytes || !ratelimit.ValidReservation(id) {
		f.add("reservation_id", "must be the id of a reservation")
	}
	return id
}

// reservationTTL checks the ttl of a reservation.
func (f *fields) reservationTTL(d *durationpb.Duration) time.Duration {
	if d == nil {
		return defaultReservationTTL
	}
	return f.duration("ttl", d, 1, maxReservationTTL)
}

// limitNames checks the names of limits to be reset and returns those in the store. No names mean all rules of the policy, and
// the rule in requests without a name.
func (f *fields) limitNames(names []string) []string {
	if len(names) > maxLimitNames {
		f.add("names", "must have at most %d items", maxLimitNames)
		return nil
	}
	var stored []string
	if len(names) == 0 {
		for name := range f.rules.RateLimits {
			stored = append(stored, name)
		}
		return append(stored, inlinePrefix)
	}
	for i, name := range names {
		if !policy.ValidNamespace(name) {
			f.add("names["+strconv.Itoa(i)+"]", policy.NamespaceForm)
		}
		stored = append(stored, name, inlinePrefix+name)
	}
	return stored
}

// nameOf returns the name of a limit as requests and answers have it.
func nameOf(stored string) string { return strings.TrimPrefix(stored, inlinePrefix) }
