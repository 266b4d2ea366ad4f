package setting

import (
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"300ms": 300 * time.Millisecond, "1h30m": 90 * time.Minute, "0": 0, "-1s": -time.Second, "1752000h": MaxDuration} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"1d": "a day is 24h", "2 weeks": "a week is 168h", "1y": "h is the longest unit", "30": "needs a unit", "5 s": "without a space",
		"soon": "such as 300ms, 5s or 1h30m", "": "such as 300ms", "1752001h": "at most 1752000h", "9999999h": "at most 1752000h",
	} {
		if got, err := ParseDuration(text); err == nil || !strings.HasPrefix(err.Error(), "expected a duration") || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDuration(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}
