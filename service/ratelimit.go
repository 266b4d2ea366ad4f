package service

import (
	"context"
	"strconv"
	"time"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
)

// RateLimit answers larder.ratelimit.v1.RateLimitService.
type RateLimit struct {
	ratelimitv1.UnimplementedRateLimitServiceServer

	store     *store.Store
	policies  *policy.Policies
	decisions *decisions
	now       func() time.Time // the store's Now, kept because each method value allocates
}

// NewRateLimit returns a RateLimitService over a store, which adds its counts of decisions to the metrics.
func NewRateLimit(st *store.Store, p *policy.Policies, m *Metrics) *RateLimit {
	return &RateLimit{store: st, policies: p, decisions: m.watchDecisions(p), now: st.Redis.Now}
}

func (s *RateLimit) fields() *fields { return newFields(s.policies, s.now) }

// consumption is what ConsumeRequest, BatchConsumeItem and ReserveRequest have in common.
type consumption interface {
	GetSubject() string
	GetLimits() []*ratelimitv1.Limit
	GetAllowPartial() bool
	GetRequestId() string
}

// consume checks what a call charges.
func (f *fields) consume(r consumption, cost *int64, oneSubject bool) ([]ratelimit.Charge, ratelimit.ConsumeOptions) {
	o := ratelimit.ConsumeOptions{RequestID: f.requestID(r.GetRequestId())}
	if r.GetAllowPartial() {
		o.Mode = ratelimit.Partial
	}
	return f.charges(r.GetSubject(), r.GetLimits(), f.cost(cost, 0), oneSubject || o.RequestID != ""), o
}

// Consume decides about one call.
func (s *RateLimit) Consume(ctx context.Context, r *ratelimitv1.ConsumeRequest) (*ratelimitv1.ConsumeResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	charges, o := f.consume(r, r.Cost, false)
	if err := f.err(); err != nil {
		return nil, err
	}
	d, err := s.store.RateLimits.Consume(ctx, ns, charges, o)
	if err != nil {
		return nil, err
	}
	s.decisions.count(ns, charges, &d)
	v := decisionView(ns, charges, &d)
	return &ratelimitv1.ConsumeResponse{
		Outcome: v.outcome, DenialReason: v.reason, Granted: d.Granted, RetryAfter: v.retryAfter, Degraded: d.Degraded, Limits: v.limits,
	}, nil
}

// BatchConsume decides about several calls.
func (s *RateLimit) BatchConsume(ctx context.Context, r *ratelimitv1.BatchConsumeRequest) (*ratelimitv1.BatchConsumeResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	items := make([]ratelimit.BatchItem, 0, min(len(r.GetItems()), maxConsumes))
	if n := len(r.GetItems()); n < 1 || n > maxConsumes {
		f.add("items", "must have 1 to %d items", maxConsumes)
	} else {
		for i, item := range r.GetItems() {
			f.prefix = "items[" + strconv.Itoa(i) + "]."
			charges, o := f.consume(item, item.Cost, false)
			items = append(items, ratelimit.BatchItem{Charges: charges, Options: o})
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	results := s.store.RateLimits.BatchConsume(ctx, ns, items)
	if err := shared(results, func(r ratelimit.BatchResult) error { return r.Err }); err != nil {
		return nil, err
	}
	resp := &ratelimitv1.BatchConsumeResponse{Results: make([]*ratelimitv1.BatchConsumeResult, len(results))}
	for i := range results {
		d := &results[i].Decision
		if err := results[i].Err; err != nil {
			resp.Results[i] = &ratelimitv1.BatchConsumeResult{Outcome: ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_FAILED, Reason: reason(err)}
			continue
		}
		s.decisions.count(ns, items[i].Charges, d)
		v := decisionView(ns, items[i].Charges, d)
		resp.Results[i] = &ratelimitv1.BatchConsumeResult{
			Outcome: v.outcome, DenialReason: v.reason, Granted: d.Granted, RetryAfter: v.retryAfter, Degraded: d.Degraded, Limits: v.limits,
		}
	}
	return resp, nil
}

// Peek says what Consume would answer.
func (s *RateLimit) Peek(ctx context.Context, r *ratelimitv1.PeekRequest) (*ratelimitv1.PeekResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	charges := f.charges(r.GetSubject(), r.GetLimits(), f.cost(r.Cost, 0), false)
	if err := f.err(); err != nil {
		return nil, err
	}
	for i := range charges {
		charges[i].Peek = true
	}
	d, err := s.store.RateLimits.Consume(ctx, ns, charges, ratelimit.ConsumeOptions{})
	if err != nil {
		return nil, err
	}
	v := decisionView(ns, charges, &d)
	return &ratelimitv1.PeekResponse{
		Outcome: v.outcome, DenialReason: v.reason, RetryAfter: v.retryAfter, Degraded: d.Degraded, Limits: v.limits,
	}, nil
}

// Refund gives back what was charged.
func (s *RateLimit) Refund(ctx context.Context, r *ratelimitv1.RefundRequest) (*ratelimitv1.RefundResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	id := f.requestID(r.GetRequestId())
	charges := f.charges(r.GetSubject(), r.GetLimits(), f.cost(r.Cost, 1), id != "")
	if err := f.err(); err != nil {
		return nil, err
	}
	d, err := s.store.RateLimits.Refund(ctx, ns, charges, ratelimit.ConsumeOptions{RequestID: id})
	if err != nil {
		return nil, err
	}
	return &ratelimitv1.RefundResponse{Limits: decisionView(ns, charges, &d).limits}, nil
}

// Reserve decides about a call whose cost is an estimate.
func (s *RateLimit) Reserve(ctx context.Context, r *ratelimitv1.ReserveRequest) (*ratelimitv1.ReserveResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	charges, o := f.consume(r, r.Cost, true)
	ttl := f.reservationTTL(r.GetTtl())
	if err := f.err(); err != nil {
		return nil, err
	}
	d, id, err := s.store.RateLimits.Reserve(ctx, ns, charges, ttl, o)
	if err != nil {
		return nil, err
	}
	s.decisions.count(ns, charges, &d)
	v := decisionView(ns, charges, &d)
	return &ratelimitv1.ReserveResponse{
		Outcome: v.outcome, DenialReason: v.reason, ReservationId: id, Granted: d.Granted, RetryAfter: v.retryAfter,
		Degraded: d.Degraded, Limits: v.limits,
	}, nil
}

// Commit ends a reservation with the real cost.
func (s *RateLimit) Commit(ctx context.Context, r *ratelimitv1.CommitRequest) (*ratelimitv1.CommitResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	id := f.reservation(r.GetReservationId())
	used := int64(-1) // what was reserved
	if r.Cost != nil {
		used = f.cost(r.Cost, 0)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	settled, err := s.store.RateLimits.Commit(ctx, ns, id, used)
	if err != nil {
		return nil, err
	}
	return &ratelimitv1.CommitResponse{
		Outcome: settleOutcome(settled.Outcome, ratelimitv1.SettleOutcome_SETTLE_OUTCOME_COMMITTED), Limits: settledView(ns, &settled),
	}, nil
}

// Cancel ends a reservation without cost.
func (s *RateLimit) Cancel(ctx context.Context, r *ratelimitv1.CancelRequest) (*ratelimitv1.CancelResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	id := f.reservation(r.GetReservationId())
	if err := f.err(); err != nil {
		return nil, err
	}
	settled, err := s.store.RateLimits.Cancel(ctx, ns, id)
	if err != nil {
		return nil, err
	}
	return &ratelimitv1.CancelResponse{
		Outcome: settleOutcome(settled.Outcome, ratelimitv1.SettleOutcome_SETTLE_OUTCOME_CANCELLED), Limits: settledView(ns, &settled),
	}, nil
}

// Reset forgets what a subject has used.
func (s *RateLimit) Reset(ctx context.Context, r *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	subject := f.subject(r.GetSubject(), 1)
	names := f.limitNames(r.GetNames())
	if err := f.err(); err != nil {
		return nil, err
	}
	reset, err := s.store.RateLimits.Reset(ctx, ns, subject, names)
	if err != nil {
		return nil, err
	}
	return &ratelimitv1.ResetResponse{Reset_: reset}, nil
}
