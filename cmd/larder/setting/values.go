// Package setting holds the value types of command-line flags and environment variables that several commands share:
// sizes, secrets, Redis URLs and addresses.
package setting

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"

	"github.com/dustin/go-humanize"
)

// A Secret is a string that is never shown: fmt, slog and the JSON encoder write "[redacted]", or nothing if it is empty.
// Convert it to a string to use it.
type Secret string

// String returns "[redacted]", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString returns the same as [Secret.String], for %#v.
func (s Secret) GoString() string { return s.String() }

// Format writes the same as [Secret.String] whatever the verb; %x would otherwise print the secret in hexadecimal.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue logs the same as [Secret.String].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText encodes the same as [Secret.String].
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a size in bytes. As text it is a number, with a unit if it has one: "65536", "64KiB" (65,536 bytes) or "64kB"
// (64,000 bytes).
type Bytes int64

// UnmarshalText parses a size. It fails for a negative size, an unknown unit and sizes above [math.MaxInt64].
func (b *Bytes) UnmarshalText(text []byte) error {
	size, err := humanize.ParseBytes(string(text))
	if err != nil || size > math.MaxInt64 {
		return fmt.Errorf("expected a size such as 1MiB or 1048576 but got %q", text)
	}
	*b = Bytes(size)
	return nil
}

// String returns the size with a binary unit, rounded to two digits, such as "1.5 MiB".
func (b Bytes) String() string { return humanize.IBytes(uint64(max(b, 0))) }

// A Level is the lowest level that is logged, "debug", "info", "warn" or "error" as text, in upper or lower case.
type Level slog.Level

// UnmarshalText parses a level.
func (l *Level) UnmarshalText(text []byte) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[strings.ToLower(string(text))]
	if !ok {
		return fmt.Errorf("must be debug, info, warn or error, and is %q", text)
	}
	*l = Level(level)
	return nil
}
