package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
)

// A Reservation is a decision about a call whose cost is an estimate.
type Reservation struct {
	RateLimitDecision
	// ID names the reservation for [RateLimits.Commit] and [RateLimits.Cancel]. It is empty if the call is denied or degraded:
	// then there is nothing to commit.
	ID string
}

// Reserve decides about a call and charges an estimate of its cost. [RateLimits.Commit] replaces it by the real cost, and
// [RateLimits.Cancel] gives it back, within ttl: 1 ms to 24 h, and 60 s if it is zero. If neither is called, as after a crash, the
// estimate stays charged, and comes back with time like everything else that is used. It is never retried, like Consume. No limit
// may have a subject of its own.
func (l *RateLimits) Reserve(ctx context.Context, subject string, limits []RateLimit, ttl time.Duration, o ConsumeOptions) (Reservation, error) {
	sent, err := limitsOf(limits)
	if err != nil {
		return Reservation{}, err
	}
	req := &ratelimitv1.ReserveRequest{
		Namespace: l.namespace, Subject: subject, Limits: sent, Cost: o.Cost, AllowPartial: o.AllowPartial, RequestId: o.RequestID,
	}
	if ttl != 0 {
		req.Ttl = durationpb.New(ttl)
	}
	r, err := l.rpc.Reserve(ctx, req)
	if err != nil {
		return Reservation{}, err
	}
	return Reservation{decision(r, r.GetGranted()), r.GetReservationId()}, nil
}

// A Settlement says what became of a reservation.
type Settlement struct {
	// Outcome is [Committed], [Cancelled], or [NotReserved] if the reservation has expired or never was.
	Outcome Outcome
	// Limits say what is left of each limit; their Outcome, Limit, Window, RetryAfter and Shadow are not set. Empty if Outcome is
	// [NotReserved].
	Limits []RateLimitStatus
}

// Commit ends a reservation and charges the real cost instead of the estimate: what is more is charged even beyond the limit, what
// is less is given back as far as the reservation still counts. Nil means what was reserved.
func (l *RateLimits) Commit(ctx context.Context, id string, cost *int64) (Settlement, error) {
	r, err := l.rpc.Commit(ctx, &ratelimitv1.CommitRequest{Namespace: l.namespace, ReservationId: id, Cost: cost})
	if err != nil {
		return Settlement{}, err
	}
	return Settlement{Outcome(text(r.GetOutcome(), "SETTLE_OUTCOME_")), statuses(r.GetLimits())}, nil
}

// Cancel ends a reservation and gives back its estimate, as far as the reservation still counts.
func (l *RateLimits) Cancel(ctx context.Context, id string) (Settlement, error) {
	r, err := l.rpc.Cancel(ctx, &ratelimitv1.CancelRequest{Namespace: l.namespace, ReservationId: id})
	if err != nil {
		return Settlement{}, err
	}
	return Settlement{Outcome(text(r.GetOutcome(), "SETTLE_OUTCOME_")), statuses(r.GetLimits())}, nil
}
