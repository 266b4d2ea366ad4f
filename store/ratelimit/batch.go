package ratelimit

import (
	"context"
)

// A BatchItem is one call of a batch.
type BatchItem struct {
	// Charges and Options are those of [Limiter.Consume].
	Charges []Charge
	Options ConsumeOptions
}

// A BatchResult is the decision about one call of a batch, or its error.
type BatchResult struct {
	Decision
	Err error
}

// BatchConsume decides about several calls, in one round trip, or in a cluster in parallel ones for each
// subject. Each call is decided by itself; those of one subject in their order.
func (l *Limiter) BatchConsume(ctx context.Context, namespace string, items []BatchItem) []BatchResult {
	results := make([]BatchResult, len(items))
	calls := make([]*call, len(items))
	var asked []*call
	for i := range items {
		c, err := l.newCall(namespace, items[i].Charges, items[i].Options)
		if err != nil {
			results[i].Err = err
			continue
		}
		var known bool
		if results[i].Decision, known = l.denials.decide(c); known {
			l.counters.local.Add(1)
			continue
		}
		calls[i] = c
		asked = append(asked, c)
	}
	if asked != nil {
		l.run(ctx, asked...)
	}
	for i, c := range calls {
		if c != nil {
			results[i].Decision, results[i].Err = l.conclude(ctx, c)
		}
	}
	return results
}
