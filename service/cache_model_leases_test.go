package service

import (
	"math"
	"math/big"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

func (m *cacheModelRun) increment(t *rapid.T) {
	m.now++
	key := m.key(t)
	e, _ := m.live(key)
	delta, initial := drawOf[int64](t, "delta", 1, -1, 5, -3, math.MaxInt64), drawOf[int64](t, "initial", 0, 3)
	req := &cachev1.IncrementRequest{
		Namespace: m.ns, Key: key, Delta: &delta, Initial: initial, TtlPolicy: cachev1.TtlPolicy(rapid.IntRange(0, 3).Draw(t, "policy")),
		OnBound: cachev1.BoundPolicy(rapid.IntRange(0, 2).Draw(t, "on bound")),
	}
	if chance(t, "max", 3) {
		req.Max = proto.Int64(5)
	}
	if chance(t, "min", 3) {
		req.Min = proto.Int64(-2)
	}
	expiry := span{time.Now().Add(5 * time.Hour), time.Now().Add(5*time.Hour + time.Minute)}
	if req.TtlPolicy != cachev1.TtlPolicy_TTL_POLICY_KEEP {
		req.Expiry = &cachev1.IncrementRequest_Ttl{Ttl: durationpb.New(5 * time.Hour)}
	}
	got, err := m.writer(t).cache.Increment(m.t.Context(), req)
	if e != nil && !e.counter {
		if a := answerOf(m.t, err); a.Reason != "NOT_A_COUNTER" {
			t.Fatalf("increment of %+v = %v, %v, want NOT_A_COUNTER", e, got, a)
		}
		return
	}
	from := initial
	next := modelEntry{counter: true, born: m.now}
	if e != nil {
		next, from = *e, e.n
	}
	if e == nil && req.TtlPolicy != cachev1.TtlPolicy_TTL_POLICY_KEEP || req.TtlPolicy == cachev1.TtlPolicy_TTL_POLICY_ALWAYS {
		next.soft = expiry
	}
	sum := new(big.Int).Add(big.NewInt(from), big.NewInt(delta))
	outcome := cachev1.IncrementOutcome_INCREMENT_OUTCOME_INCREMENTED
	for _, bound := range []struct {
		at   *int64
		sign int
	}{{req.Max, 1}, {req.Min, -1}} {
		if bound.at != nil && (delta > 0) == (bound.sign > 0) && sum.Cmp(big.NewInt(*bound.at)) == bound.sign {
			outcome, sum = cachev1.IncrementOutcome_INCREMENT_OUTCOME_SATURATED, big.NewInt(*bound.at)
			if req.OnBound != cachev1.BoundPolicy_BOUND_POLICY_SATURATE {
				outcome = cachev1.IncrementOutcome_INCREMENT_OUTCOME_REJECTED
			}
		}
	}
	switch {
	case outcome == cachev1.IncrementOutcome_INCREMENT_OUTCOME_REJECTED:
		sum, next.soft = big.NewInt(from), span{}
		if e != nil {
			next.soft = e.soft
		}
	case !sum.IsInt64():
		if a := answerOf(m.t, err); a.Reason != "COUNTER_OVERFLOW" {
			t.Fatalf("increment %v of %d = %v, %v, want COUNTER_OVERFLOW", req, from, got, a)
		}
		m.removeInvalidated(key)
		return
	}
	must[*cachev1.IncrementResponse](m.t)(got, err)
	if got.Outcome != outcome || got.Value != sum.Int64() {
		t.Fatalf("increment %v of %d = %v, want %v and %v", req, from, got, outcome, sum)
	}
	m.runsOut(t, "increment: ttl", got.Ttl, next.soft)
	if outcome == cachev1.IncrementOutcome_INCREMENT_OUTCOME_REJECTED {
		m.removeInvalidated(key)
		return
	}
	if e == nil {
		delete(m.slots, key)
	}
	next.n = sum.Int64()
	next.value = sum.String()
	next.etag = counterState(next.n).ETag
	m.entries[key] = &next
}

func (m *cacheModelRun) removeInvalidated(key string) {
	if e, _ := m.live(key); e == nil {
		delete(m.entries, key)
	}
}

func (m *cacheModelRun) lease(t *rapid.T) {
	m.now++
	if m.invalidatedBy != nil {
		m.settle()
	}
	key := m.key(t)
	req := &cachev1.GetOrLeaseRequest{Namespace: m.ns, Key: key, LeaseTtl: secs(60), Beta: proto.Float64(drawOf(t, "beta", 0.0, 1.0))}
	short := chance(t, "short", 6)
	if short {
		req.LeaseTtl = durationpb.New(time.Millisecond)
	}
	if chance(t, "wait", 4) {
		req.WaitTimeout = durationpb.New(2 * time.Millisecond)
	}
	var tooOld bool
	req.MaxAge, tooOld = m.maxAge(t)
	found, e := m.read(key, tooOld)
	given := (found == readMiss || found == readStale) && m.slots[key] == ""
	want := map[int]cachev1.GetOrLeaseOutcome{readMiss: leaseMiss, readHit: leaseHit, readStale: leaseStale, readNegative: leaseNegative}[found]
	if found == readMiss && !given {
		want = leasePending
	}
	got := must[*cachev1.GetOrLeaseResponse](m.t)(m.writer(t).cache.GetOrLease(m.t.Context(), req))
	if got.Outcome != want || (got.LeaseToken != "") != given || (got.LeaseTtl != nil) != given || (got.RetryAfter != nil) != (want == leasePending) {
		t.Fatalf("get or lease %v = %v, want %v and a lease: %t", req, got, want, given)
	}
	m.shows(t, "get or lease", got, e, found == readStale)
	if !given {
		return
	}
	l := &modelLease{key: key, token: got.LeaseToken, seen: m.storedETag(key), born: m.now, expired: short}
	m.leases = append(m.leases, l)
	if m.slots[key] = l.token; short {
		delete(m.slots, key)
		<-time.After(5 * time.Millisecond) // nobody tells of the end
	}
}

func (m *cacheModelRun) anyLease(t *rapid.T) *modelLease {
	if len(m.leases) == 0 {
		t.Skip("no lease yet")
	}
	last := min(len(m.leases), 5)
	return m.leases[len(m.leases)-rapid.IntRange(1, last).Draw(t, "lease")]
}

func (m *cacheModelRun) fill(t *rapid.T) {
	l := m.anyLease(t)
	e, ttl, expire, never := m.write(t)
	e.born = l.born
	req := &cachev1.FillRequest{
		Namespace: m.ns, Key: l.key, LeaseToken: l.token, Value: []byte(e.value), Negative: e.negative, Tags: e.tags,
		ContentType: e.contentType, StaleTtl: optional(e.stale),
	}
	switch {
	case ttl != nil:
		req.Expiry = &cachev1.FillRequest_Ttl{Ttl: ttl}
	case expire != nil:
		req.Expiry = &cachev1.FillRequest_ExpireTime{ExpireTime: expire}
	case never:
		req.Expiry = &cachev1.FillRequest_Never{Never: true}
	}
	there, held := m.storedETag(l.key), m.slots[l.key] == l.token
	deleted, stale := m.marked(l.born, e.tags)
	want := cachev1.FillOutcome_FILL_OUTCOME_STORED
	switch {
	case there != "" && there != l.seen:
		want = cachev1.FillOutcome_FILL_OUTCOME_SUPERSEDED
	case !held && l.expired:
		want = cachev1.FillOutcome_FILL_OUTCOME_LEASE_EXPIRED
	case !held || deleted || stale:
		want = cachev1.FillOutcome_FILL_OUTCOME_INVALIDATED
	}
	got := must[*cachev1.FillResponse](m.t)(m.writer(t).cache.Fill(m.t.Context(), req))
	if got.Outcome != want || (got.Etag != "") != (want == cachev1.FillOutcome_FILL_OUTCOME_STORED) {
		t.Fatalf("fill %v = %v, want %v", req, got, want)
	}
	if held {
		delete(m.slots, l.key)
	}
	if want == cachev1.FillOutcome_FILL_OUTCOME_STORED {
		m.written(l.key, e, got.Etag)
	}
}

func (m *cacheModelRun) release(t *rapid.T) {
	l := m.anyLease(t)
	req := &cachev1.ReleaseLeaseRequest{Namespace: m.ns, Key: l.key, LeaseToken: l.token}
	back := chance(t, "retry_after", 3)
	if back {
		req.RetryAfter = secs(60)
	}
	want := cachev1.ReleaseLeaseOutcome_RELEASE_LEASE_OUTCOME_NOT_HELD
	if m.slots[l.key] == l.token {
		want = cachev1.ReleaseLeaseOutcome_RELEASE_LEASE_OUTCOME_RELEASED
		if delete(m.slots, l.key); back {
			m.slots[l.key] = leaseHeldBack
		}
	}
	if got := must[*cachev1.ReleaseLeaseResponse](m.t)(m.writer(t).cache.ReleaseLease(m.t.Context(), req)); got.Outcome != want {
		t.Fatalf("release %v = %v, want %v", req, got, want)
	}
}
