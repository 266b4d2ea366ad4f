package cache

import "testing"

// TestSlot: the values are those of CLUSTER KEYSLOT.
func TestSlot(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]uint16{"": 0, "123456789": 12739, "foo": 12182, "somekey": 11058, "a}b": 7866} {
		if got := slot(tag); got != want {
			t.Errorf("slot(%q) = %d, want %d", tag, got, want)
		}
	}
	for s := range uint16(slots) {
		if got := slot(numberOf(s)); got != s {
			t.Fatalf("slot(numberOf(%d)) = %d, want the same", s, got)
		}
	}
}
