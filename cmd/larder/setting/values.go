// Package setting holds the value types of command-line flags and environment variables that several commands share:
// sizes, secrets, Redis URLs and addresses.
package setting

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/url"
	"strconv"
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

// Embedded is the URL of the embedded store: a Redis inside the larder process, whose data is lost when the process ends.
const Embedded RedisURL = "embedded://"

// A RedisURL names one Redis server: redis:// or rediss:// (TLS), then [username[:password]@]host[:port][/database]; or
// it is [Embedded]. fmt, slog and the JSON encoder write it without its credentials.
type RedisURL string

var errURL = errors.New("expected redis://, rediss://[username:password@]host[:port][/database] or embedded://, the username and the password percent-encoded")

// UnmarshalText parses a URL. Its errors repeat no part of the URL: url.Parse takes a password with an unescaped character
// for a host, port, path, query or fragment.
func (r *RedisURL) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil {
		return errURL
	}
	*r = RedisURL(text)
	if u.Scheme == "embedded" {
		if *r != Embedded {
			return errors.New("embedded:// takes no host, credentials or database")
		}
		return nil
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return errURL
	}
	if r.Database() < 0 {
		return errURL
	}
	return nil
}

// String returns the URL without its credentials.
func (r RedisURL) String() string {
	if r == Embedded {
		return string(r) // url.URL would print "embedded:"
	}
	u := r.Parts()
	u.User = nil
	return u.String()
}

// GoString returns the same as [RedisURL.String], for %#v.
func (r RedisURL) GoString() string { return r.String() }

// Format writes the same as [RedisURL.String] whatever the verb.
func (r RedisURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// LogValue logs the same as [RedisURL.String].
func (r RedisURL) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText encodes the same as [RedisURL.String].
func (r RedisURL) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Parts returns the parsed URL, credentials included. It is empty for a string that [RedisURL.UnmarshalText] refuses.
func (r RedisURL) Parts() *url.URL {
	u, err := url.Parse(string(r))
	if err != nil {
		return new(url.URL)
	}
	return u
}

// Credentials returns the username and the password, each empty if the URL has none.
func (r RedisURL) Credentials() (username, password string) {
	user := r.Parts().User
	password, _ = user.Password()
	return user.Username(), password
}

// Database returns the database number in the URL's path: 0 if the path is empty, -1 if it is not a number below 2^31.
func (r RedisURL) Database() int {
	path := strings.TrimPrefix(r.Parts().Path, "/")
	if path == "" {
		return 0
	}
	number, err := strconv.ParseUint(path, 10, 31)
	if err != nil {
		return -1
	}
	return int(number)
}
