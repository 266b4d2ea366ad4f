package ratelimit

import (
	"context"

	"github.com/berthcare/larder/store/redis"
)

// Reset forgets what a subject has used of limits, whatever their algorithm was. It returns whether anything was used. Other
// replicas may deny for up to 1 s what they have just denied.
func (l *Limiter) Reset(ctx context.Context, namespace, subject string, names []string) (bool, error) {
	keys := make([]string, 0, 3*len(names))
	for _, name := range names {
		for _, algorithm := range []Algorithm{GCRA, SlidingWindow, FixedWindow} {
			keys = append(keys, usageKey(namespace, &Charge{Subject: subject, Name: name, Rule: Rule{Algorithm: algorithm}}))
		}
	}
	defer l.denials.forget(keys...)
	removed, err := redis.RoundTrip(ctx, l.redis, "unlink", redis.Writes, func(ctx context.Context, conns *redis.Conns) (int64, error) {
		return conns.Primary.Do(ctx, conns.Primary.B().Unlink().Key(keys...).Build()).AsInt64()
	})
	return removed > 0, err
}
