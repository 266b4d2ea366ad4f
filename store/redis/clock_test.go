package redis

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// pass lets time pass, in a bubble of synctest.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // virtual time

// ask samples a server that is ahead by offset; TIME is read at the given part of the round trip.
func (c *clock) ask(addr string, offset, trip time.Duration, part float64) {
	sent := c.read()
	there := time.Duration(part * float64(trip))
	pass(there)
	at := c.read().Add(offset).Truncate(time.Microsecond)
	pass(trip - there)
	c.sample(addr, at, sent, c.read())
}

// check fails unless the estimates are in order: those of a Redis that is ahead by offset, wrong by at most the given error.
func (c *clock) check(t interface {
	Helper()
	Errorf(string, ...any)
}, offset, most time.Duration,
) {
	t.Helper()
	now := c.read().Add(offset)
	if e := c.earliest(); e.After(now) || now.Sub(e) > most {
		t.Errorf("Earliest = %v before Redis, want from 0 to %v", now.Sub(e), most)
	}
	if l := c.latest(); l.Before(now) || l.Sub(now) > most {
		t.Errorf("Latest = %v after Redis, want from 0 to %v", l.Sub(now), most)
	}
	if off := c.now().Sub(now).Abs(); off > most {
		t.Errorf("Now = %v off, want at most %v", off, most)
	}
}

func TestClockBeforeTheFirstSample(t *testing.T) {
	t.Parallel()
	if off := time.Until(newClock(nil).now()); off.Abs() > time.Minute {
		t.Errorf("Now = %v off, want the time of this process", off)
	}
}

// TestClockIsAsGoodAsItsBestSample: the error is at most the shortest round trip and the drift since, whatever part of a round
// trip was the way there, and Earliest never goes back.
func TestClockIsAsGoodAsItsBestSample(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		offset := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(rt, "offset"))
		upTo2s := rapid.Int64Range(0, int64(2*time.Second))
		trips := rapid.SliceOfN(upTo2s, 1, 20).Draw(rt, "trips")
		pauses := rapid.SliceOfN(upTo2s, len(trips), len(trips)).Draw(rt, "pauses")
		parts := rapid.SliceOfN(rapid.Float64Range(0, 1), len(trips), len(trips)).Draw(rt, "parts")
		synctest.Test(t, func(*testing.T) {
			c, shortest, began := newClock(nil), time.Hour, time.Now()
			var last time.Time
			for i := range trips {
				trip := time.Duration(trips[i])
				c.ask("a", offset, trip, parts[i])
				shortest = min(shortest, trip)
				pass(time.Duration(pauses[i]))
				c.check(rt, offset, shortest+2*time.Microsecond+time.Since(began)/maxDrift)
				e := c.earliest()
				if e.Before(last) {
					rt.Errorf("Earliest went back by %v, want never", last.Sub(e))
				}
				last = e
			}
		})
	})
}

// TestClockFollowsAStep: when the clock of Redis is set, the next sample shows it, however slow it is.
func TestClockFollowsAStep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []time.Duration{time.Second, -time.Hour} {
			c := newClock(nil)
			c.ask("a", 0, time.Millisecond, 0.5)
			c.ask("a", step, 20*time.Millisecond, 0.5)
			c.check(t, step, 20*time.Millisecond)
		}
	})
}

// TestClockIgnoresAStepOfTheHost: the time of this process is read once.
func TestClockIgnoresAStepOfTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Add(-time.Minute)
		c := newClock(func() time.Time { return now })
		c.ask("a", time.Minute, time.Millisecond, 0.5)
		now = now.Add(time.Hour)
		c.check(t, time.Minute, 2*time.Millisecond)
	})
}

// TestClockFollowsDrift: a very good sample does not stand for ever.
func TestClockFollowsDrift(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClock(nil)
		for second := range 1000 {
			trip := time.Millisecond
			if second == 0 {
				trip = time.Microsecond
			}
			c.ask("a", time.Duration(second)*time.Second/maxDrift/2, trip, 0.5)
			c.check(t, time.Duration(second)*time.Second/maxDrift/2, 2*time.Millisecond)
			pass(time.Second)
		}
	})
}

// TestClockIsThatOfTheFastestServer: all replicas come to the same time, and it stays when the fastest server goes away.
func TestClockIsThatOfTheFastestServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClock(nil)
		ahead := map[string]time.Duration{"a": 0, "b": 30 * time.Millisecond, "c": -20 * time.Millisecond}
		for range 10 {
			for addr, by := range ahead {
				c.ask(addr, by, time.Millisecond, 0.5)
			}
			pass(time.Second)
		}
		c.check(t, ahead["b"], 3*time.Millisecond)
		before := c.earliest()
		for range 20 {
			c.ask("a", 0, time.Millisecond, 0.5)
			if e := c.earliest(); e.Before(before) {
				t.Errorf("Earliest went back by %v, want never", before.Sub(e))
			} else {
				before = e
			}
			pass(time.Second)
		}
		if c.knows("b") {
			t.Errorf("a server is known %v after its last sample, want it forgotten", 20*time.Second)
		}
		c.check(t, 0, 3*time.Millisecond)
	})
}

// TestWaitPast: afterwards an estimate that is behind by estimateLag has passed the time, too.
func TestWaitPast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Client{clock: newClock(nil)}
		c.clock.ask("a", time.Hour, time.Millisecond, 0.5)
		at, began := c.Latest(), time.Now()
		if err := c.WaitPast(t.Context(), at); err != nil || !c.Earliest().Add(-estimateLag).After(at) {
			t.Errorf("WaitPast = %v with Earliest %v after the time, want nil and more than %v", err, c.Earliest().Sub(at), estimateLag)
		}
		if took := time.Since(began); took > 2*time.Millisecond+estimateLag {
			t.Errorf("WaitPast took %v, want the error of the estimate and %v", took, estimateLag)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.WaitPast(ctx, at.Add(time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitPast = %v, want %v", err, context.DeadlineExceeded)
		}
	})
}
