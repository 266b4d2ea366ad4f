package bench

import (
	"context"
	"fmt"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// batchSize is the number of keys in a BatchGet.
const batchSize = 100

// A callFunc makes one call and returns the number of entries or sessions that it has read or written.
type callFunc func(ctx context.Context, c *caller) (items int, err error)

// A workload is one kind of load to measure.
type workload struct {
	name, about string
	// goal is the least ratio to the floor that Larder is meant to reach with the default flags; 0 for none.
	goal  float64
	needs data
	call  callFunc
	// warm fills the near cache before the measurement, one call for each key; nil for not at all.
	warm callFunc
	// bare is the call that the floor gets instead of call; nil for call itself.
	bare callFunc
	// beside is another call to Larder, whose items per second are compared with those of call; nil for none. besideGoal is
	// the least ratio that Larder is meant to reach.
	beside     callFunc
	besideGoal float64
	// ownRules means that Larder needs the rules of bench, so that a target cannot be measured.
	ownRules bool
	// waves makes the callers begin each call at the same time, on a key that is new in each wave.
	waves bool
}

var workloads = []workload{
	{name: "near-get", about: "Get, answered from the near cache", goal: 0.95, needs: data{entries: true}, call: getNear, warm: getNear},
	{name: "redis-get", about: "Get, answered from the Redis primary", goal: 0.65, needs: data{entries: true}, call: getPrimary},
	{name: "set", about: "Set without conditions", needs: data{entries: true}, call: set},
	{name: "mixed", about: "nine near-cached Gets to one Set", needs: data{entries: true}, call: mixed, warm: getNear},
	{name: "batchget", about: "BatchGet of 100 keys, answered from the near cache", needs: data{entries: true}, call: batchGet, warm: getNear, beside: getNear, besideGoal: 10},
	{name: "stampede", about: "GetOrLease of one key by all callers at once, where loading a value takes 50ms; the floor has no leases", call: stampede, bare: stampedeWithoutLeases, waves: true},
	{name: "validate", about: "ValidateSession, answered from the near cache", goal: 0.90, needs: data{sessions: true}, call: validate, warm: validate},
	{name: "consume", about: "Consume of one limit, charged in Redis", goal: 0.60, call: consume},
	{name: "consume-denied", about: "Consume by 100 subjects that are denied, which Larder remembers for up to 1s", goal: 0.90, call: consumeDenied, warm: consumeDenied},
	{name: "should-rate-limit", about: "ShouldRateLimit of Envoy's protocol with one descriptor, within its limit", goal: 0.64, call: shouldRateLimit, ownRules: true},
	{name: "token", about: "IssueToken of a link and ConsumeToken of it, as one call", call: token},
	{name: "lock", about: "AcquireLock and ReleaseLock, each caller of its own lock", call: lockAndRelease},
}

// legs returns the number of turns in a round.
func (w *workload) legs() int {
	if w.beside != nil {
		return 3
	}
	return 2
}

func getNear(ctx context.Context, c *caller) (int, error) {
	return c.get(ctx, cachev1.Consistency_CONSISTENCY_NEAR)
}

func getPrimary(ctx context.Context, c *caller) (int, error) {
	return c.get(ctx, cachev1.Consistency_CONSISTENCY_PRIMARY)
}

func (c *caller) get(ctx context.Context, consistency cachev1.Consistency) (int, error) {
	r, err := c.cache.Get(ctx, &cachev1.GetRequest{Namespace: c.namespace, Key: c.keys[c.choose()], Consistency: consistency})
	if err != nil {
		return 0, err
	}
	if r.GetOutcome() != cachev1.GetOutcome_GET_OUTCOME_HIT || len(r.GetValue()) != len(c.value) {
		return 0, fmt.Errorf("Get returned %v and %d bytes, want a hit and %d bytes", r.GetOutcome(), len(r.GetValue()), len(c.value))
	}
	return 1, nil
}

func set(ctx context.Context, c *caller) (int, error) { return 1, c.set(ctx, c.keys[c.choose()]) }

func (c *caller) set(ctx context.Context, key string) error {
	_, err := c.cache.Set(ctx, &cachev1.SetRequest{Namespace: c.namespace, Key: key, Value: c.value})
	return err
}

func mixed(ctx context.Context, c *caller) (int, error) {
	if c.random.IntN(10) == 0 {
		return set(ctx, c)
	}
	return getNear(ctx, c)
}

func batchGet(ctx context.Context, c *caller) (int, error) {
	keys := make([]string, batchSize)
	for i := range keys {
		keys[i] = c.keys[c.choose()]
	}
	r, err := c.cache.BatchGet(ctx, &cachev1.BatchGetRequest{Namespace: c.namespace, Keys: keys})
	if err != nil {
		return 0, err
	}
	found := 0
	for _, item := range r.GetResults() {
		switch item.GetOutcome() {
		case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT:
			found++
		case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_UNPROCESSED: // large values do not all fit into one response; no failure
		default:
			return 0, fmt.Errorf("BatchGet returned %v, want a hit", item.GetOutcome())
		}
	}
	return found, nil
}

func validate(ctx context.Context, c *caller) (int, error) {
	r, err := c.session.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{Namespace: c.namespace, SessionToken: c.tokens[c.choose()]})
	if err != nil {
		return 0, err
	}
	if r.GetOutcome() != sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE {
		return 0, fmt.Errorf("ValidateSession returned %v, want an active session", r.GetOutcome())
	}
	return 1, nil
}
