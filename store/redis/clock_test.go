package redis

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// offsetOf tells a clock what TIME answered: ahead by offset, measured at the given part of the round trip.
func sampleOf(c *clock, offset, trip time.Duration, part float64) {
	sent := time.Now()
	c.sample(sent.Add(time.Duration(part*float64(trip))).Add(offset), sent, sent.Add(trip))
}

func (c *clock) ahead() time.Duration { return time.Duration(c.offset.Load()) }

func TestClockBeforeTheFirstSample(t *testing.T) {
	t.Parallel()
	var c clock
	if off := time.Until(c.now()); off.Abs() > time.Minute {
		t.Errorf("now() is off by %v before the first sample, want at most a minute", off)
	}
}

// TestClockIsAsGoodAsItsBestSample: the error is at most half of the shortest round trip, whatever part of a trip was
// the way there.
func TestClockIsAsGoodAsItsBestSample(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c clock
		offset := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "offset"))
		shortest := time.Hour
		for range rapid.IntRange(1, 20).Draw(t, "samples") {
			trip := time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "trip"))
			sampleOf(&c, offset, trip, rapid.Float64Range(0, 1).Draw(t, "part"))
			shortest = min(shortest, trip)
			// With age a longer trip may take over, by that much longer.
			if off, most := (c.ahead() - offset).Abs(), shortest/2+20*sampleAging; off > most {
				t.Fatalf("offset is off by %v after a shortest round trip of %v, want at most %v", off, shortest, most)
			}
		}
	})
}

func TestClockIgnoresASlowSample(t *testing.T) {
	t.Parallel()
	var c clock
	sampleOf(&c, time.Second, time.Millisecond, 0.5)
	sampleOf(&c, time.Second, 2*time.Second, 1) // as after a pause on the way back: wrong by a second
	if got := c.ahead(); got != time.Second {
		t.Errorf("offset = %v after a slow sample, want %v", got, time.Second)
	}
}

// TestClockFollowsAStep: when the clock of a machine is set, the next sample says so, however slow it is.
func TestClockFollowsAStep(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{time.Second, -time.Hour} {
		var c clock
		sampleOf(&c, 0, time.Millisecond, 0.5)
		sampleOf(&c, step, 20*time.Millisecond, 0.5)
		if off := (c.ahead() - step).Abs(); off > 10*time.Millisecond {
			t.Errorf("offset is off by %v after a step of %v, want at most 10ms", off, step)
		}
	}
}

// TestClockFollowsDrift: a very good sample does not stand for ever.
func TestClockFollowsDrift(t *testing.T) {
	t.Parallel()
	var c clock
	sampleOf(&c, 0, time.Microsecond, 0.5)
	const later = 10 * time.Millisecond
	samples := 0
	for ; c.ahead() != later; samples++ {
		if samples > 1000 {
			t.Fatalf("offset = %v after %d samples, want %v", c.ahead(), samples, later)
		}
		sampleOf(&c, later, time.Millisecond, 0.5)
	}
	if want := int(time.Millisecond/sampleAging) + 1; samples > want {
		t.Errorf("offset followed after %d samples, want at most %d", samples, want)
	}
}

func TestClockTakesAnInstantSample(t *testing.T) {
	t.Parallel()
	var c clock
	sampleOf(&c, time.Second, 0, 0)
	if c.ahead() != time.Second || c.best.Load() <= 0 {
		t.Errorf("offset = %v, best round trip = %d ns, want %v and more than 0", c.ahead(), c.best.Load(), time.Second)
	}
}
