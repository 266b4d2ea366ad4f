package ratelimit

import (
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// TimeKey holds the time of the scripts of a limiter after UseTimeKey, in microseconds since 1970.
const TimeKey = "ld:w:time"

const (
	realTime = "  local t = redis.call('TIME')\n  return tonumber(t[1]) * 1000000 + tonumber(t[2])\n"
	testTime = "  return tonumber(redis.call('GET', '" + TimeKey + "'))\n"
	// Keys must not expire by another time than that.
	realExpiry = "'PX', digits(math.ceil(l.left / 1000))"
	testExpiry = "'PX', '3600000'"
)

// UseTimeKey makes the scripts of a limiter take the time from TimeKey.
func (l *Limiter) UseTimeKey() {
	if strings.Count(commonText, realTime) != 1 || strings.Count(commonText, realExpiry) != 1 {
		panic("common.lua does not use the time as this test expects")
	}
	common := strings.NewReplacer(realTime, testTime, realExpiry, testExpiry).Replace(commonText)
	l.scripts.consume = redis.NewFreeingScript("test_consume", common+consumeText, nil)
	l.scripts.settle = redis.NewFreeingScript("test_settle", common+settleText, nil)
}

// UsageKey is the Redis key of a limit.
func UsageKey(namespace string, c Charge) string { return usageKey(namespace, &c) }

// ReservationKey is the Redis key of a reservation.
func ReservationKey(namespace, id string) string {
	r, _ := parseReservation(id)
	return r.key(namespace)
}

// Late asks Redis about a charge, and returns a function that reads the answer.
func (l *Limiter) Late(t *testing.T, namespace string, c Charge) func() Decision {
	asked, err := l.newCall(namespace, []Charge{c}, ConsumeOptions{})
	if err != nil {
		t.Fatalf("newCall: error %v, want none", err)
	}
	l.run(t.Context(), asked)
	return func() Decision {
		d, err := l.conclude(t.Context(), asked)
		if err != nil {
			t.Errorf("conclude: error %v, want none", err)
		}
		return d
	}
}

// CalendarEdges is what the script is told of the windows of a calendar.
func CalendarEdges(period time.Duration, now time.Time) string { return calendar(period, now) }

// Kept is how many limits the local denials hold, and how many bytes.
func (l *Limiter) Kept() (entries, bytes int) {
	for i := range l.denials.shards {
		s := &l.denials.shards[i]
		s.mu.Lock()
		entries, bytes = entries+len(s.young)+len(s.old), bytes+s.bytes
		s.mu.Unlock()
	}
	return entries, bytes
}

// MaxDenialBytes bounds the bytes of Kept.
const MaxDenialBytes = maxDenialBytes
