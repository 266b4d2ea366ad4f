package setting

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// MaxDuration is the maximum of a duration, 200 years: sums of two of them and a date still fit into what computes with them.
const MaxDuration = 200 * 365 * 24 * time.Hour

// longUnit matches durations whose units are longer than any that [time.ParseDuration] knows, and plain numbers.
var (
	longUnit   = regexp.MustCompile(`(?i)^[0-9.]+ *(d|days?|w|weeks?|mo|months?|y|years?)$`)
	plainUnit  = regexp.MustCompile(`^[0-9.]+$`)
	spacedUnit = regexp.MustCompile(`^[0-9.]+ [a-z]+$`)
)

// ParseDuration parses a duration such as "300ms", "5s" or "1h30m". Its errors say how to write what was meant.
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && d <= MaxDuration {
		return d, nil
	}
	if err == nil || strings.HasPrefix(err.Error(), "time: invalid duration") && regexp.MustCompile(`^[0-9]+(h|m|s)$`).MatchString(text) {
		return 0, fmt.Errorf("expected a duration of at most %dh, which is 200 years, but got %q", MaxDuration/time.Hour, text)
	}
	hint := ""
	switch {
	case longUnit.MatchString(text):
		hint = "; h is the longest unit, so that a day is 24h and a week is 168h"
	case plainUnit.MatchString(text):
		hint = "; a number needs a unit: ms, s, m or h"
	case spacedUnit.MatchString(text):
		hint = "; without a space"
	}
	return 0, fmt.Errorf("expected a duration such as 300ms, 5s or 1h30m but got %q%s", text, hint)
}
