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
				t.Fatal("delay forbids the next attempt")
			}
			least, most = min(least, wait), max(most, wait)
		}
		if most > want || most < want*9/10 || least > want/10 {
			t.Errorf("after %d failures the waits are %v to %v, want 0 to %v", i+1, least, most, want)
		}
	}
	if got := backoffCap(1 << 40); got != maxBackoff {
		t.Errorf("after very many failures %v, want %v", got, maxBackoff)
	}
}

func TestPushbackBeginsTheBackoffAnew(t *testing.T) {
	t.Parallel()
	p := &policy{failures: 7, trailer: metadata.Pairs(pushback, "1")}
	if wait, ok := p.delay(time.Hour); !ok || wait != time.Millisecond {
		t.Errorf("delay = %v, %v; want the server's 1ms", wait, ok)
	}
	p.trailer = nil
	if wait, _ := p.delay(0); wait > firstBackoff {
		t.Errorf("the wait after that is %v, want at most %v", wait, firstBackoff)
	}
}
