package redistest

import (
	"errors"
	"slices"
	"testing"
)

func TestSentinelFailover(t *testing.T) {
	var left []int
	t.Run("run", func(t *testing.T) {
		s := StartSentinel(t)
		left = pids(append(s.data(), s.Sentinels...)...)
		if len(s.Addrs()) != 3 || s.Addrs()[0] != s.Sentinels[0].Addr || len(s.Replicas) != 2 {
			t.Fatalf("sentinels %v, replicas %v, want 3 and 2", s.Addrs(), addrs(s.Replicas))
		}
		if got := s.Current(t); got != s.Primary {
			t.Fatalf("Current = %s, want %s", got.Addr, s.Primary.Addr)
		}
		for range 2 {
			old := s.Current(t)
			s.Failover(t)
			current := s.Current(t)
			if current == old {
				t.Fatalf("Current = %s after a failover, want another one", old.Addr)
			}
			current.Do(t, "SET", "k", "v")
		}
	})
	wantGone(t, left)
}

func TestSentinelPrimaryKilled(t *testing.T) {
	s, stop, err := StartSentinelMain()
	if err != nil {
		t.Fatalf("StartSentinelMain = %v, want no error", err)
	}
	defer stop()
	s.Sentinels[0].Kill() // two are a quorum and a majority
	s.Primary.Kill()
	eventually(t, func() error {
		if !slices.Contains(s.Replicas, s.Current(t)) {
			return errors.New("no replica was promoted")
		}
		return isPrimary(s.Current(t))
	})

	// The former primary comes back as a replica.
	s.Primary.Restart(t)
	eventually(t, func() error { return inSync(s.Primary) })
}
