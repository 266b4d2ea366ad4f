package client

import (
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
)

func TestBackoffDoublesToFiveSecondsWithFullJitter(t *testing.T) {
	t.Parallel()
	for i, want := range []time.Duration{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000} {
		want *= time.Millisecond
		var least, most time.Duration = time.Hour, 0
		for range 2000 {
			p := &policy{failures: i}
			wait, ok := p.delay(0)
			if !ok {
				t.Fatalf("delay after %d failures forbids the next attempt, want it allowed", i+1)
			}
			least, most = min(least, wait), max(most, wait)
		}
		if most > want || most < want*9/10 || least > want/10 {
			t.Errorf("delay after %d failures = %v to %v, want 0 to %v", i+1, least, most, want)
		}
	}
	if got := backoffCap(1 << 40); got != maxBackoff {
		t.Errorf("backoffCap(1<<40) = %v, want %v", got, maxBackoff)
	}
}

func TestPushbackBeginsTheBackoffAnew(t *testing.T) {
	t.Parallel()
	p := &policy{failures: 7, trailer: metadata.Pairs(pushback, "1")}
	if wait, ok := p.delay(time.Hour); !ok || wait != time.Millisecond {
		t.Errorf("delay = %v, %v; want 1ms as the server asks, true", wait, ok)
	}
	p.trailer = nil
	if wait, _ := p.delay(0); wait > firstBackoff {
		t.Errorf("delay after the pushback = %v, want at most %v", wait, firstBackoff)
	}
}
